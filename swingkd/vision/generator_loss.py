"""A generator of images that a classifier is sure of (DAFL; Chen et al. 2019, arXiv 1904.01186, section 3).

Whatever model judges a generator, the images are made of what that model knows.  If it is a private teacher without
differential privacy, no guarantee of its data can hold for what is learnt from the images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.image import imsave
from torch import nn
from torch.nn import functional as F

from swingkd.guards import check_numbers
from swingkd.models.logits import logits_of
from swingkd.vision.models import head_name, listening

#: Mean and variance of each channel, [channels] each, of what goes into each batch norm of a model.
Moments = Sequence[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class GeneratorLoss:
    """What a generator is trained for; the defaults are DAFL's for MNIST.

    Args:
        one_hot: weight of the cross-entropy with the class that is likeliest: be sure.
        batch_entropy: weight of the negative entropy of the batch's mean prediction: show all classes.
        activation: weight of the negative mean size of the features: be like something.
        statistics: weight of the distance from what the batch norms saw in training (DeepInversion; Yin et al. 2020,
            arXiv 1912.08795); of no effect on models without batch norm.
        statistics_momentum: share of the rounds before in what is compared: all rounds together are to look like
            training data, a batch alone need not (our reading of Fang et al. 2022, arXiv 2112.06253).
        disagreement: weight of how far the student is from the critic, where both name one class: show what it has yet
            to learn (Fang et al. 2019, arXiv 1912.11006; the mask is that of Fang et al. 2021, arXiv 2105.08584).

    Raises:
        ValueError: a weight is not finite, or the share is not from 0 to below 1.
    """

    one_hot: float = 1.0
    batch_entropy: float = 5.0
    activation: float = 0.1
    statistics: float = 0.0
    statistics_momentum: float = 0.0
    disagreement: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 <= self.statistics_momentum < 1:
            raise ValueError(f"statistics_momentum={self.statistics_momentum} is a share: from 0 to below 1.")

    def __call__(
        self,
        critic: nn.Module,
        images: torch.Tensor,
        *,
        labels: torch.Tensor | None = None,
        student: nn.Module | None = None,
        earlier: Moments = (),
    ) -> torch.Tensor:
        """Judge a batch of images by a classifier.

        Args:
            critic: in evaluation mode.
            images: [n, channels, height, width].
            labels: [n] what each is to show; `None`: what the critic thinks likeliest.
            student: in evaluation mode, where disagreement counts.
            earlier: what `moments` returned after the round before, if there was one.
        """
        norms = batch_norms(critic)
        with ExitStack() as stack:
            features = stack.enter_context(listening(critic, [head_name(critic)], inputs=True))
            given = stack.enter_context(listening(critic, list(norms), inputs=True)) if self.statistics else {}
            logits = logits_of(critic, images)
        (feature,) = features.values()
        loss = self.one_hot * one_hot_loss(logits, labels) + self.batch_entropy * batch_entropy_loss(logits)
        loss = loss + self.activation * activation_loss(feature)
        if given:
            now = blended(moments_of(given.values()), earlier, self.statistics_momentum)
            # Those that ran, as they ran: in a model they may stand in another order.
            loss = loss + self.statistics * statistics_loss([norms[name] for name in given], now)
        if self.disagreement and student is not None:
            loss = loss + self.disagreement * disagreement_loss(logits_of(student, images), logits)
        return loss

    @torch.no_grad()
    def moments(self, critic: nn.Module, images: torch.Tensor, earlier: Moments = ()) -> Moments:
        """Return what a critic's batch norms saw of all rounds, this one's images [n, ...] included."""
        if not self.statistics_momentum:
            return ()
        with listening(critic, list(batch_norms(critic)), inputs=True) as given:
            logits_of(critic, images)
        return blended(moments_of(given.values()), earlier, self.statistics_momentum)


def batch_norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Return a model's batch norms that remember what they saw, by name."""
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return {name: norm for name, norm in norms.items() if norm.running_mean is not None}


def moments_of(given: Iterable[torch.Tensor]) -> Moments:
    """Return mean and variance of each channel of [n, channels, height, width]."""
    found = [torch.var_mean(images.float(), dim=(0, 2, 3), correction=0) for images in given]
    return [(mean, variance) for variance, mean in found]


def blended(now: Moments, earlier: Moments, momentum: float) -> Moments:
    """Return the running mean of moments; at first there are none before."""
    if not earlier:
        return now
    return [
        (torch.lerp(mean, old_mean, momentum), torch.lerp(variance, old_variance, momentum))
        for (mean, variance), (old_mean, old_variance) in zip(now, earlier, strict=True)
    ]


def one_hot_loss(logits: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean cross-entropy of logits [n, classes] with labels [n], or with their own likeliest class."""
    return F.cross_entropy(logits, logits.argmax(1) if labels is None else labels)


def disagreement_loss(student: torch.Tensor, critic: torch.Tensor) -> torch.Tensor:
    """Return minus the mean KL divergence of the student's prediction from the critic's, where their classes agree.

    Args:
        student, critic: [n, classes] logits.
    """
    alike = student.argmax(1) == critic.argmax(1)
    divergences = F.kl_div(student.log_softmax(1), critic.log_softmax(1), reduction="none", log_target=True).sum(1)
    return -(divergences * alike).mean()


def batch_entropy_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return sum p log p of the mean prediction of logits [n, classes]; lowest where all classes are alike."""
    mean = logits.softmax(1).mean(0)
    return torch.special.entr(mean).sum().neg()


def activation_loss(features: torch.Tensor) -> torch.Tensor:
    """Return minus the mean absolute feature of [n, width]."""
    return -features.float().abs().mean()


def statistics_loss(norms: Sequence[nn.BatchNorm2d], moments: Moments) -> torch.Tensor:
    """Return the sum over batch norms of the distances of mean and variance from the stored ones."""
    total = torch.zeros((), device=moments[0][0].device)
    for norm, (mean, variance) in zip(norms, moments, strict=True):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        total = total + (mean - norm.running_mean).norm() + (variance - norm.running_var).norm()
    return total


def save_grid(images: torch.Tensor, path: str | Path, columns: int = 8) -> Path:
    """Save images [n, channels, height, width] as one picture, each stretched to its own range."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    # A frame of one pixel around each.
    framed = F.pad(((images - low) / (high - low).clamp_min(1e-6)).float().cpu(), (1, 1, 1, 1), value=1.0)
    framed = F.pad(framed, (0, 0, 0, 0, 0, 0, 0, -len(framed) % columns), value=1.0)
    rows = [torch.cat(list(row), 2) for row in framed.split(columns)]
    grid = torch.cat(rows, 1).permute(1, 2, 0).expand(-1, -1, 3).repeat_interleave(2, 0).repeat_interleave(2, 1)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    imsave(path, grid.numpy())
    return Path(path)
