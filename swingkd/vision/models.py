"""Small networks for small images, and how any image classifier is asked.

`from_pretrained`, `save_pretrained` and `push_to_hub` come from `huggingface_hub`; weights are safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

Norm = Literal["batch", "group"]


@contextmanager
def listening(model: nn.Module, names: Sequence[str], *, inputs: bool = False) -> Iterator[dict[str, torch.Tensor]]:
    """Keep what named parts of a model return, or what goes into them, in the forward passes meanwhile.

    Args:
        model: the model.
        names: of its modules, as in `named_modules()`.
        inputs: keep what goes in.

    Raises:
        ValueError: there is no such module.
    """
    parts = dict(model.named_modules())
    missing = [name for name in names if name not in parts]
    if missing:
        raise ValueError(
            f"{type(model).__name__} has no part {missing[0]!r}. Its parts: {', '.join(list(parts)[1:])}."
        )
    heard: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module, given, returned):
            heard[name] = given[0] if inputs else returned

        return hook

    handles = [parts[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def head_name(model: nn.Module) -> str:
    """Return the name of the last linear layer: what goes into it are the features.

    Raises:
        ValueError: there is none.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no linear layer whose inputs could be called features.")
    return linear[-1]


def _norm(kind: Norm, channels: int) -> nn.Module:
    # Groups of at least four channels, and few groups: each costs a pass over the image.
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(min(channels // 4, 8), channels)


def _conv(channels: int, out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride, 1, bias=False)


class _Block(nn.Module):
    """Two convolutions and a shortcut without parameters (He et al. 2016, option A)."""

    def __init__(self, channels: int, out: int, stride: int, norm: Norm):
        super().__init__()
        self.stride, self.more = stride, out - channels
        self.conv1, self.bn1 = _conv(channels, out, stride), _norm(norm, out)
        self.conv2, self.bn2 = _conv(out, out), _norm(norm, out)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = F.relu(self.bn1(self.conv1(images)))
        features = self.bn2(self.conv2(features))
        if self.stride > 1 or self.more:
            images = images[:, :, :: self.stride, :: self.stride]
            images = F.pad(images, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.relu(features + images)


class CifarResNet(nn.Module, PyTorchModelHubMixin, tags=["image-classification"]):
    """The residual network for 32x32 images (He et al. 2016, arXiv 1512.03385, section 4.2).

    Args:
        depth: number of layers, 6 n + 2.
        width: channels of the first stage; 16 in the paper.
        classes: how many.
        channels: of the images.
        norm: "batch", or "group", which DP-SGD can train.

    Raises:
        ValueError: there is no network of that depth.
    """

    def __init__(self, depth: int = 20, width: int = 16, classes: int = 10, channels: int = 3, norm: Norm = "batch"):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth={depth} is not 6 n + 2: choose 8, 14, 20, 32, 44 or 56.")
        self.conv1, self.bn1 = _conv(channels, width), _norm(norm, width)
        self.layer1 = self._stage(depth // 6, width, width, norm)
        self.layer2 = self._stage(depth // 6, width, 2 * width, norm)
        self.layer3 = self._stage(depth // 6, 2 * width, 4 * width, norm)
        self.linear = nn.Linear(4 * width, classes)

    @staticmethod
    def _stage(blocks: int, channels: int, out: int, norm: Norm) -> nn.Sequential:
        first = _Block(channels, out, out // channels, norm)
        return nn.Sequential(first, *(_Block(out, out, 1, norm) for _ in range(blocks - 1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes]."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(features.mean((2, 3)))


class SlimResNet(nn.Module, PyTorchModelHubMixin, tags=["image-classification"]):
    """A residual network that halves its images early: few, wide layers, fast on a CPU.

    Args:
        widths: channels of the stem and of each stage; a stage is a strided convolution and a residual block.
        classes: how many.
        channels: of the images.
        norm: "batch", or "group", which DP-SGD can train.
    """

    def __init__(
        self, widths: Sequence[int] = (16, 48, 96), classes: int = 10, channels: int = 3, norm: Norm = "batch"
    ):
        super().__init__()
        self.stem = nn.Sequential(_conv(channels, widths[0]), _norm(norm, widths[0]), nn.ReLU())
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(before, out, 2), _norm(norm, out), nn.ReLU(), _Block(out, out, 1, norm))
            for before, out in pairwise(widths)
        )
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes]."""
        features = self.stem(images)
        for stage in self.stages:
            features = stage(features)
        return self.linear(features.mean((2, 3)))


class RonaNet(nn.Module, PyTorchModelHubMixin, tags=["image-classification"]):
    """The plain convolutional networks of RONA (Wang et al. 2019, arXiv 1811.05072) for CIFAR-10.

    Args:
        plan: channels of each layer, stage by stage, with a pooling between stages; the last stage is a 3x3 layer and
            1x1 layers.  Default: RONA's teacher.  `RonaNet.student()` is its student.
        width: all channels times this; 0.59 leaves 65 % of the teacher's parameters out.
        classes: how many.
        channels: of the images.
    """

    def __init__(
        self,
        plan: Sequence[Sequence[int]] = ((128, 128, 128), (256, 256, 256), (512, 256, 128)),
        width: float = 1.0,
        classes: int = 10,
        channels: int = 3,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for number, stage in enumerate(plan):
            layers += [nn.MaxPool2d(2)] if number else []
            for place, count in enumerate(stage):
                out = round(count * width)
                pointwise = number == len(plan) - 1 and place > 0
                size = 1 if pointwise else 3
                layer = nn.Conv2d(channels, out, size, padding=size // 2)
                # Nothing normalises: the weights have to keep the scale.
                nn.init.kaiming_normal_(layer.weight, a=0.1)
                layers += [layer, nn.LeakyReLU(0.1)]
                channels = out
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, classes)

    @classmethod
    def student(cls, **others: Any) -> RonaNet:
        """Return RONA's student."""
        return cls(plan=((32, 32, 32), (64, 64, 64), (64, 32, 32)), **others)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes]."""
        return self.linear(self.features(images).mean((2, 3)))


class ImageGenerator(nn.Module, PyTorchModelHubMixin):
    """Noise in, images out: the generator of data-free learning (Chen et al. 2019, arXiv 1904.01186).

    Args:
        size: height and width of the images, a multiple of 4.
        channels: of the images.
        width: of its first convolution; 128 in the paper.
        latent: length of the noise vectors that it begins with.
        classes: it is told which of so many classes each image is to show; `None`: it shows what it likes.

    Raises:
        ValueError: the size is no multiple of 4.
    """

    def __init__(
        self, size: int = 32, channels: int = 3, width: int = 128, latent: int = 100, classes: int | None = None
    ):
        super().__init__()
        if size % 4:
            raise ValueError(f"size={size} is no multiple of 4: pad the images to {size + 4 - size % 4}.")
        self.latent, self.classes, self.start = latent, classes, (width, size // 4, size // 4)
        self.label = nn.Embedding(classes, latent) if classes is not None else None
        self.first = nn.Linear(latent * (2 if classes is not None else 1), width * (size // 4) ** 2)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.BatchNorm2d(width // 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, noise: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Return images [n, channels, size, size], normalised as a batch, from noise [n, latent] and labels [n]."""
        if self.label is not None:
            assert labels is not None
            noise = torch.cat([noise, self.label(labels)], 1)
        return self.layers(self.first(noise).unflatten(1, self.start))

    def renew(self) -> None:
        """Forget what noise means: the first layer begins anew, and all behind it makes other images of it.

        A generator left alone comes to make one image again and again (Tran et al. 2024, arXiv 2310.00258, whose noisy
        layer begins anew each round).
        """
        self.first.reset_parameters()
