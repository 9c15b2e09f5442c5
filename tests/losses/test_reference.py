import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from swingkd.losses import divergence, hint_losses, token_losses
from swingkd.targets import Drop, LabelsAlone, LiveTeacher, ProtectedTargets, Soften, TemperatureSettings
from tests.harness import private_positions


def distributions(rows=6, size=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, size, dtype=torch.float64, generator=generator).log_softmax(-1) for _ in range(2))


def kl(p, q):
    return (p * (p.log() - q.log())).sum(-1)


@given(st.floats(0.01, 0.99), st.integers(0, 50))
def test_divergence_is_trls(beta, seed):
    target, student = distributions(seed=seed)
    t, s = target.exp(), student.exp()
    torch.testing.assert_close(divergence(target, student, 0.0), kl(t, s))
    torch.testing.assert_close(divergence(target, student, 1.0), kl(s, t))
    mixture = beta * t + (1 - beta) * s
    torch.testing.assert_close(divergence(target, student, beta), beta * kl(t, mixture) + (1 - beta) * kl(s, mixture))


class Halves:
    """A protection that leaves two tokens."""

    def protect(self, log_probs, positions):
        return torch.full_like(log_probs, -torch.inf).index_fill(-1, torch.tensor([0, 1]), -0.6931)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_zeros_in_a_target_give_finite_losses_and_gradients(beta):
    *_, losses = parts([1.0, 0.5], Halves(), beta=beta)
    assert torch.isfinite(losses.soft).all()
    assert (losses.soft > 0).all()


def parts(likelihood, protection=None, beta=0.0, labels_alone=False, **settings):
    torch.manual_seed(0)
    teacher, student = torch.randn(2, len(likelihood), 9, dtype=torch.float64)
    labels = torch.arange(len(likelihood)) % 9
    likelihood = torch.tensor(likelihood, dtype=torch.float64)
    temperatures = TemperatureSettings(**settings).for_tokens(likelihood)
    private = likelihood > 0
    n = int(private.sum())
    positions = private_positions(n, likelihood=likelihood[private], temperature=temperatures.teacher[private])
    live = LiveTeacher(teacher.__getitem__, temperatures.teacher)
    targets = ProtectedTargets(live, likelihood, positions, protection or Soften(0), labels_alone=labels_alone)
    return teacher, student, labels, token_losses(student, targets, labels, temperatures, beta=beta)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_where_the_label_is_learnt_alone_it_has_the_whole_weight(alpha, beta):
    likelihood = [0.0, 1.0, 0.0, 0.6, 1.0]
    targets = [(LabelsAlone(), True), (Drop(), False)]
    (*_, alone), (_, student, labels, dropped) = (
        parts(likelihood, protection, beta=beta, labels_alone=on) for protection, on in targets
    )
    for i, private in enumerate(likelihood):
        own = -float(student[i].log_softmax(-1)[labels[i]])
        expected = own if private else float(dropped.total(alpha)[i])
        assert float(alone.total(alpha)[i]) == pytest.approx(expected, rel=1e-12)


def test_protection_off_is_plain_distillation_bit_for_bit():
    teacher, student, labels, losses = parts([0.0] * 8, Soften(), base=3.0)
    soft = (
        F.kl_div(
            F.log_softmax(student / 3.0, -1), F.log_softmax(teacher / 3.0, -1), reduction="none", log_target=True
        ).sum(-1)
        * 3.0**2
    )
    hard = F.cross_entropy(student, labels, reduction="none")
    assert torch.equal(losses.soft, soft)
    assert torch.equal(losses.total(0.3), 0.3 * soft + (1 - 0.3) * hard)


def test_private_tokens_follow_the_formula():
    s = [0.0, 0.25, 1.0]
    teacher, student, labels, losses = parts(s, base=2.0, maximum=16.0, beta=0.0)
    for i, likelihood in enumerate(s):
        t = 2.0 if likelihood == 0 else 1 + 15 * likelihood
        own = 2.0 if likelihood == 0 else 1.0
        q, p = (teacher[i] / t).softmax(-1), (student[i] / own).softmax(-1)
        expected = 0.5 * own**2 * kl(q, p) - 0.5 * (1 - likelihood) * student[i].log_softmax(-1)[labels[i]]
        torch.testing.assert_close(losses.total(0.5)[i], expected)


def test_a_dropped_position_is_out_of_the_loss():
    _, _, _, losses = parts([0.0, 0.4, 1.0], Drop())
    total = losses.total(0.5)
    assert total[1] == total[2] == 0 < total[0]


def test_hint_matching_without_its_weight_leaks():
    """Student states learn the teacher's by hints alone; both share a head, so a state is as good as a prediction."""
    torch.manual_seed(0)
    head, teacher = torch.randn(50, 16), torch.randn(8, 16)
    secrets = (teacher @ head.T).argmax(-1)

    def predictions(likelihood):
        student = torch.nn.Parameter(torch.randn(8, 16))
        optimizer = torch.optim.Adam([student], lr=0.1)
        for _ in range(300):
            optimizer.zero_grad()
            hint_losses(student, teacher, torch.full((8,), likelihood)).sum().backward()
            optimizer.step()
        return (student @ head.T).argmax(-1)

    assert (predictions(0.0) == secrets).all()
    assert (predictions(1.0) == secrets).float().mean() < 0.3


def test_hint_losses_are_weighted_mean_squares():
    student, teacher, s = torch.randn(5, 4), torch.randn(5, 4), torch.rand(5)
    expected = [(1 - s[i]) * ((teacher[i] - student[i]) ** 2).mean() / 2 for i in range(5)]
    torch.testing.assert_close(hint_losses(student, teacher, s), torch.stack(expected))
