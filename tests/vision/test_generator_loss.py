"""A generator's losses against plain computations, and the picture of its images."""

from __future__ import annotations

import math

import matplotlib.image
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from swingkd.vision import GeneratorLoss
from swingkd.vision.generator_loss import (
    activation_loss,
    batch_entropy_loss,
    batch_norms,
    disagreement_loss,
    moments_of,
    one_hot_loss,
    save_grid,
    statistics_loss,
)
from tests.harness import small


def probabilities(logits):
    return [[math.exp(v) / sum(math.exp(w) for w in row) for v in row] for row in logits.tolist()]


def test_the_losses_are_the_papers():
    logits = torch.randn(6, 4, dtype=torch.float64)
    probs = probabilities(logits)
    assert one_hot_loss(logits).item() == pytest.approx(-sum(math.log(max(p)) for p in probs) / 6)
    mean = [sum(column) / 6 for column in zip(*probs, strict=True)]
    assert batch_entropy_loss(logits).item() == pytest.approx(sum(p * math.log(p) for p in mean))
    features = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    assert activation_loss(features).item() == pytest.approx(-3.5 / 4)


def test_all_classes_alike_have_the_lowest_batch_entropy_loss():
    alike, one = torch.eye(4) * 50, torch.zeros(4, 4)
    one[:, 0] = 50
    assert batch_entropy_loss(alike).item() == pytest.approx(-math.log(4))
    assert batch_entropy_loss(one).item() == pytest.approx(0, abs=1e-6)


def test_statistics_are_compared_with_the_stored_ones():
    norm = nn.BatchNorm2d(2)
    norm.running_mean = torch.tensor([1.0, -1.0])
    norm.running_var = torch.tensor([2.0, 0.5])
    images = torch.randn(5, 2, 3, 3)
    rows = images.transpose(0, 1).flatten(1).double()
    mean = rows.mean(1) - torch.tensor([1.0, -1.0])
    variance = ((rows - rows.mean(1, keepdim=True)) ** 2).mean(1) - torch.tensor([2.0, 0.5])
    expected = (mean**2).sum().sqrt() + (variance**2).sum().sqrt()
    assert statistics_loss([norm], moments_of([images])).item() == pytest.approx(expected.item(), rel=1e-5)


def test_all_rounds_together_are_compared_with_what_the_batch_norms_saw():
    """Against plain sums: each round counts for a tenth of what is there, the first one whole."""
    critic = small().eval()
    loss = GeneratorLoss(one_hot=0.0, batch_entropy=0.0, activation=0.0, statistics=2.0, statistics_momentum=0.9)
    name, first = next(iter(batch_norms(critic).items()))
    assert name == "stem.1"
    rounds = [torch.randn(6, 3, 8, 8) for _ in range(3)]
    seen = [critic.stem[0](images).double().transpose(0, 1).flatten(1) for images in rounds]
    mean, variance = seen[0].mean(1), seen[0].var(1, correction=0)
    moments = loss.moments(critic, rounds[0])
    for images, rows in zip(rounds[1:], seen[1:], strict=True):
        mean, variance = 0.9 * mean + 0.1 * rows.mean(1), 0.9 * variance + 0.1 * rows.var(1, correction=0)
        judged = loss(critic, images, earlier=moments)
        moments = loss.moments(critic, images, moments)
        torch.testing.assert_close(judged, 2 * statistics_loss(list(batch_norms(critic).values()), moments))
    torch.testing.assert_close(moments[0][0], mean.float())
    torch.testing.assert_close(moments[0][1], variance.float())
    assert first.num_batches_tracked == 0
    assert GeneratorLoss(statistics=2.0).moments(critic, rounds[0]) == ()
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"statistics_momentum={share} is a share"):
            GeneratorLoss(statistics_momentum=share)


def test_the_weighted_sum_judges_a_critic_and_leaves_nothing_behind():
    critic, images = small().eval(), torch.randn(6, 3, 8, 8, requires_grad=True)
    heard = {}
    handle = critic.linear.register_forward_hook(lambda module, given, returned: heard.update(f=given[0], z=returned))
    loss = GeneratorLoss(one_hot=2.0, batch_entropy=3.0, activation=0.5, statistics=0.25)(critic, images)
    handle.remove()
    norms, given = [], []
    handles = []
    for module in critic.modules():
        if isinstance(module, nn.BatchNorm2d):
            norms.append(module)
            handles.append(module.register_forward_hook(lambda module, inputs, returned: given.append(inputs[0])))
    critic(images)
    for handle in handles:
        handle.remove()
    expected = 2 * one_hot_loss(heard["z"]) + 3 * batch_entropy_loss(heard["z"]) + 0.5 * activation_loss(heard["f"])
    torch.testing.assert_close(loss, expected + 0.25 * statistics_loss(norms, moments_of(given)))
    loss.backward()
    assert images.grad.abs().sum() > 0
    assert not any(module._forward_hooks for module in critic.modules())


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_a_batch_norm_is_compared_with_what_went_into_it(kind):
    """A shortcut stands before the layers that run before it; a norm of training alone is silent."""
    settings = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type=kind, num_labels=4)
    critic = ResNetForImageClassification(settings).eval()
    critic.auxiliary = nn.BatchNorm2d(3)
    critic.forgetful = nn.BatchNorm2d(3, track_running_stats=False)
    with torch.no_grad():
        for norm in batch_norms(critic).values():
            norm.running_mean.normal_()
    given, handles = {}, []
    for name, norm in batch_norms(critic).items():
        handles.append(norm.register_forward_hook(lambda _, inputs, __, name=name: given.update({name: inputs[0]})))
    images = torch.randn(6, 3, 32, 32)
    critic(images)
    for handle in handles:
        handle.remove()
    by_name = batch_norms(critic)
    assert set(by_name) - set(given) == {"auxiliary"}
    assert list(by_name)[:-1] != list(given)
    expected = sum(statistics_loss([by_name[name]], moments_of([seen])) for name, seen in given.items())
    alone = GeneratorLoss(one_hot=0.0, batch_entropy=0.0, activation=0.0, statistics=1.0)
    torch.testing.assert_close(alone(critic, images), expected)


def test_a_critic_without_batch_norm_has_no_statistics():
    images = torch.randn(4, 3, 8, 8)
    critic = small(norm="group")
    assert torch.equal(GeneratorLoss(statistics=0.0)(critic, images), GeneratorLoss(statistics=9.0)(critic, images))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_the_images_in_rows(channels, tmp_path):
    images = torch.zeros(5, channels, 4, 4)
    images[2, :, 1, 1] = 7
    picture = matplotlib.image.imread(save_grid(images, tmp_path / "deep" / "grid.png", columns=2))
    # Two rows of two and one of one, each image 4x4 with a frame of one, twice as large.
    assert picture.shape[:2] == (36, 24)
    third = picture[12:24, :12, :3]
    assert third[4:6, 4:6].min() == 1
    assert third[2:4, 2:4].max() == 0
    assert third[:2].min() == 1


def test_disagreement_is_the_divergence_where_both_name_one_class():
    """Against a plain loop; a critic's certainty and a student's doubt is what a generator is to look for."""
    rng = torch.Generator().manual_seed(3)
    student, critic = (torch.randn(12, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    total = 0.0
    for own, other in zip(student.tolist(), critic.tolist(), strict=True):
        if own.index(max(own)) == other.index(max(other)):
            s, c = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (own, other))
            total -= sum(b * math.log(b / a) for a, b in zip(s, c, strict=True))
    assert disagreement_loss(student, critic).item() == pytest.approx(total / 12)
    assert total < 0


def test_a_student_and_labels_count_where_they_are_asked_for():
    critic, student, images = small(1).eval(), small(2).eval(), torch.randn(6, 3, 8, 8)
    labels, logits = torch.tensor([0, 1, 2, 0, 1, 2]), critic(images)
    only = {"batch_entropy": 0.0, "activation": 0.0}
    found = GeneratorLoss(one_hot=1.0, **only)(critic, images, labels=labels)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels))
    found = GeneratorLoss(one_hot=0.0, disagreement=2.0, **only)(critic, images, student=student)
    torch.testing.assert_close(found, 2 * disagreement_loss(student(images), logits))
    assert GeneratorLoss(one_hot=0.0, disagreement=2.0, **only)(critic, images).item() == 0
