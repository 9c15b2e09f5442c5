"""The one-pass loss against the plain formula, differentiated by autograd in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swingkd.losses import fused_token_losses, token_losses
from swingkd.targets import (
    Drop,
    Head,
    LabelsAlone,
    LiveTeacher,
    MollifiedTarget,
    NoisedTarget,
    NoiseKey,
    PopulationTable,
    PopulationTarget,
    ProtectedTargets,
    Soften,
    TemperatureSettings,
    TopTokens,
)
from swingkd.targets.population import kinds
from tests.harness import private_positions

V, D = 37, 5
PROTECTIONS = {
    "soften": lambda positions: Soften(8),
    "noise": lambda positions: NoisedTarget(NoiseKey(1, 2), support=8),
    "mollify": lambda positions: MollifiedTarget(0.3),
    "population": lambda positions: PopulationTarget(table(positions)),
    "drop": lambda positions: Drop(),
    "surrogate": lambda positions: LabelsAlone(),
}


def table(positions):
    keys = kinds(positions)[:, -1].unique()
    return PopulationTable(keys, torch.randn(len(keys), V, dtype=torch.float64).log_softmax(-1))


def random_head(*, bias=False, scale=1.0, softcap=None, rows=V):
    make = {"dtype": torch.float64, "requires_grad": True}
    return Head(torch.randn(rows, D, **make), torch.randn(rows, **make) if bias else None, scale, softcap)


def batch(n, protection="noise", beta=0.0, seed=0, **head):
    """Everything that the losses take: n tokens, a third of them private."""
    torch.manual_seed(seed)
    likelihood = torch.where(torch.rand(n) < 0.35, torch.rand(n), 0.0).double()
    likelihood[::5] = 0
    likelihood[1::5] = 1
    temperatures = TemperatureSettings(base=2.0, maximum=8.0).for_tokens(likelihood)
    private = likelihood > 0
    positions = private_positions(
        int(private.sum()),
        likelihood=likelihood[private],
        temperature=temperatures.teacher[private],
        context=torch.randint(0, V, (int(private.sum()), 2)),
    )
    teacher, public = torch.randn(n, V).double() * 3, torch.randn(int(private.sum()), V).double()
    targets = ProtectedTargets(
        LiveTeacher(teacher.__getitem__, temperatures.teacher),
        likelihood,
        positions,
        PROTECTIONS[protection](positions),
        public.__getitem__,
        labels_alone=protection == "surrogate",
    )
    hidden = torch.randn(n, D, dtype=torch.float64, requires_grad=True)
    return hidden, random_head(**head), targets, torch.randint(0, V, (n,)), temperatures, beta


def both(hidden, head, targets, labels, temperatures, beta, alpha=0.3, memory=4000):
    """Return loss, parts and gradients of the plain formula and of the one pass."""
    results = []
    inputs = [tensor for tensor in (hidden, head.weight, head.bias) if tensor is not None and tensor.requires_grad]
    for fused in (False, True):
        if fused:
            total, _, parts = fused_token_losses(
                hidden, head, targets, labels, temperatures, alpha=alpha, beta=beta, memory=memory
            )
        else:
            parts = token_losses(head.logits(hidden), targets, labels, temperatures, beta=beta)
            total = parts.total(alpha).sum()
        # Another factor than 1, as accumulation and the mean over tokens put there.
        results.append((total, tuple(parts), torch.autograd.grad(0.7 * total, inputs)))
    return results


@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_loss_and_gradient_are_the_plain_formulas(protection, beta):
    plain, fused = both(*batch(40, protection, beta))
    torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-11)


@settings(max_examples=30)
@given(
    n=st.integers(1, 30),
    seed=st.integers(0, 99),
    beta=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    memory=st.integers(1, 20_000),
    alpha=st.sampled_from([0.0, 0.5, 1.0]),
    bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.25]),
    softcap=st.sampled_from([None, 2.0]),
)
def test_any_head_and_any_chunk(n, seed, beta, memory, alpha, bias, scale, softcap):
    known = batch(n, seed=seed, beta=beta, bias=bias, scale=scale, softcap=softcap)
    plain, fused = both(*known, alpha=alpha, memory=memory)
    torch.testing.assert_close(fused, plain, rtol=1e-8, atol=1e-10)


def test_a_frozen_head_gets_no_gradient_and_the_states_theirs():
    hidden, head, *known = batch(12)
    frozen = Head(head.weight.detach())
    plain, fused = both(hidden, frozen, *known)
    torch.testing.assert_close(fused, plain)


def test_without_gradients_the_losses_are_the_same():
    hidden, head, *known, _ = batch(12)
    with_gradient, *_ = fused_token_losses(hidden, head, *known, alpha=0.5)
    with torch.no_grad():
        without, *_ = fused_token_losses(hidden, head, *known, alpha=0.5)
    assert not without.requires_grad
    torch.testing.assert_close(without, with_gradient.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_are_near_and_keep_their_own(dtype):
    hidden, head, targets, labels, temperatures, beta = batch(40)
    exact, _ = both(hidden, head, targets, labels, temperatures, beta)
    narrow = hidden.detach().to(dtype).requires_grad_(), Head(head.weight.detach().to(dtype).requires_grad_())
    total, *_ = fused_token_losses(*narrow, targets, labels, temperatures, alpha=0.3)
    gradients = torch.autograd.grad(0.7 * total, [narrow[0], narrow[1].weight])
    for found, expected in zip(gradients, exact[2], strict=True):
        assert found.dtype == dtype
        error = (found.double() - expected).norm() / expected.norm()
        assert error < (1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 1e-5)])
def test_under_autocast_the_weights_stay_and_their_gradients_too(dtype, tolerance):
    """float16 is too narrow: the loss is scaled after its gradient was made, so that is made in float32."""
    hidden, head, targets, labels, temperatures, _ = batch(40)
    exact, _ = both(hidden, head, targets, labels, temperatures, 0.0)
    states, weight = hidden.detach().float().requires_grad_(), head.weight.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype):
        total, *_ = fused_token_losses(states, Head(weight), targets, labels, temperatures, alpha=0.3)
    gradients = torch.autograd.grad(0.7 * total, [states, weight])
    for found, expected in zip(gradients, exact[2], strict=True):
        assert found.dtype == torch.float32
        assert (found.double() - expected).norm() / expected.norm() < tolerance


def test_unknown_tails_count_as_one_bucket():
    """A target of which only the likeliest tokens are known: the divergence of the coarser distributions."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, V, dtype=torch.float64).log_softmax(-1).unbind(0)
    known, ids = teacher.topk(4)
    tail = torch.log1p(-known.exp().sum(-1, keepdim=True))
    dense = TopTokens(ids, known, tail).dense(student)
    torch.testing.assert_close(dense.exp().sum(-1), torch.ones(6).double())

    def coarse(log_probs):
        inside = log_probs.gather(1, ids)
        return torch.cat([inside, torch.log1p(-inside.exp().sum(-1, keepdim=True))], 1)

    expected = (coarse(teacher).exp() * (coarse(teacher) - coarse(student))).sum(-1)
    torch.testing.assert_close((dense.exp() * (dense - student)).sum(-1), expected)


def test_all_tokens_known_is_the_whole_distribution():
    teacher = torch.randn(3, V).log_softmax(-1)
    known, ids = teacher.topk(V)
    dense = TopTokens(ids, known, torch.full((3, 1), -torch.inf)).dense(torch.randn(3, V).log_softmax(-1))
    assert torch.equal(dense, teacher)
