import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swingkd.losses import divergence
from swingkd.targets import TemperatureSettings
from swingkd.targets.temperature import soften_support


@given(s=st.floats(0.01, 1), power=st.floats(0.5, 3), top=st.floats(1, 64))
def test_the_schedules_are_the_formulas(s, power, top):
    likelihood = torch.tensor([s], dtype=torch.float64)
    plain = TemperatureSettings(maximum=top, power=power).for_tokens(likelihood)
    assert plain.teacher.item() == pytest.approx(1 + (top - 1) * s**power)
    geometric = TemperatureSettings(maximum=top, power=power, schedule="geometric").for_tokens(likelihood)
    assert geometric.teacher.item() == pytest.approx(top ** (s**power))
    assert plain.student.item() == plain.weight.item() == 1


def test_ordinary_tokens_keep_the_base_on_both_sides():
    t = TemperatureSettings(base=3.0).for_tokens(torch.zeros(2))
    assert t.teacher.tolist() == t.student.tolist() == [3, 3]
    assert t.weight.tolist() == [9, 9]


def test_a_small_likelihood_does_no_harm():
    t = TemperatureSettings(base=2.0, maximum=16.0).for_tokens(torch.tensor([1e-6]))
    assert t.teacher.item() == pytest.approx(1, abs=1e-3)
    assert t.student.item() == 1


def test_softening_keeps_the_supports_mass_and_order():
    log_probs = torch.randn(5, 20, dtype=torch.float64).log_softmax(-1)
    support = log_probs.topk(6).indices
    soft = soften_support(log_probs, torch.full((5,), 8.0, dtype=torch.float64), support)
    torch.testing.assert_close(soft.exp().sum(-1), log_probs.exp().gather(-1, support).sum(-1))
    assert (soft.argsort(descending=True) == torch.arange(6)).all()
    naive = log_probs.gather(-1, support).exp() ** (1 / 8)
    naive = naive / naive.sum(-1, keepdim=True) * log_probs.exp().gather(-1, support).sum(-1, keepdim=True)
    torch.testing.assert_close(soft.exp(), naive)


def converge(settings: TemperatureSettings, teacher: torch.Tensor) -> torch.Tensor:
    """Train free student logits on one private token until nothing moves; return the student at T = 1."""
    t = settings.for_tokens(torch.ones(1, dtype=torch.float64))
    target = (teacher / t.teacher[:, None]).log_softmax(-1)
    student = torch.zeros_like(teacher, requires_grad=True)
    optimizer = torch.optim.LBFGS([student], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (t.weight * divergence(target, (student / t.student[:, None]).log_softmax(-1), 0.0)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return student.detach().softmax(-1)


def test_symmetric_temperature_reconverges_to_the_private_distribution_and_teacher_only_does_not():
    private = torch.tensor([[0.98, *[0.02 / 9] * 9]], dtype=torch.float64)
    symmetric = converge(TemperatureSettings(maximum=16, mode="symmetric"), private.log())
    torch.testing.assert_close(symmetric, private, atol=1e-4, rtol=0)
    protected = converge(TemperatureSettings(maximum=16), private.log())
    assert protected[0, 0] < 0.2
