"""DP-SGD against itself written by hand, one row at a time, in float64."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from swingkd.privacy import DPSGD, PrivacyPlan, check_modules, secret_generator

PLAN = PrivacyPlan(0.5, 3, 0.7, clip_norm=0.1)
ROWS, LENGTH, CLASSES = 10, 9, 3


def bert(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=50, num_labels=CLASSES, max_position_embeddings=32, **(sizes | options))
    return BertForSequenceClassification(config).double().train()


def vit(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=CLASSES, **(sizes | options))
    return ViTForImageClassification(config).double().train()


def llama(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **(sizes | options))).double().train()


def data(model):
    torch.manual_seed(1)
    labels = torch.randint(0, CLASSES, (ROWS,))
    if isinstance(model, ViTForImageClassification):
        return torch.randn(ROWS, 1, 8, 8, dtype=torch.float64), labels
    # Not the padding token: Opacus trains its row like any other.
    return torch.randint(1, 50, (ROWS, LENGTH)), labels


def losses(model, inputs, labels):
    """One loss a row."""
    if isinstance(model, ViTForImageClassification):
        logits = model(pixel_values=inputs).logits
    elif isinstance(model, BertForSequenceClassification):
        positions = torch.arange(inputs.shape[1]).repeat(len(inputs), 1)
        logits = model(input_ids=inputs, position_ids=positions, token_type_ids=torch.zeros_like(inputs)).logits
    else:
        logits = model(input_ids=inputs, use_cache=False).logits[:, :-1]
        token = F.cross_entropy(logits.flatten(0, 1), inputs[:, 1:].flatten(), reduction="none")
        return token.view(len(inputs), -1).sum(1)
    return F.cross_entropy(logits, labels, reduction="none")


def by_hand(model, batches, inputs, labels, seed, units=None):
    """SGD on clipped sums, one row at a time; the noise is drawn parameter by parameter."""
    generator = torch.Generator().manual_seed(seed)
    trained = [p for p in model.parameters() if p.requires_grad]
    for batch in batches:
        total = [torch.zeros_like(p) for p in trained]
        groups = (
            [[row] for row in batch]
            if units is None
            else [[row for row in batch if units[row] == unit] for unit in sorted({int(units[row]) for row in batch})]
        )
        for group in groups:
            own = [torch.zeros_like(p) for p in trained]
            for row in group:
                gradient = torch.autograd.grad(
                    losses(model, inputs[row : row + 1], labels[row : row + 1]).sum(), trained
                )
                own = [o + g for o, g in zip(own, gradient, strict=True)]
            norm = torch.sqrt(sum(o.square().sum() for o in own))
            factor = min(1.0, PLAN.clip_norm / (float(norm) + 1e-6))
            total = [t + o * factor for t, o in zip(total, own, strict=True)]
        with torch.no_grad():
            for p, t in zip(trained, total, strict=True):
                noise = torch.normal(
                    0.0, PLAN.noise_multiplier * PLAN.clip_norm, p.shape, generator=generator, dtype=p.dtype
                )
                p -= 0.5 * (t + noise) / (PLAN.sampling_rate * ROWS)
    return model


def trained(model, batches, inputs, labels, seed, micro, units=None, **options):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    dp = DPSGD(model, optimizer, PLAN, ROWS, generator=torch.Generator().manual_seed(seed), **options)
    for batch in batches:
        dp.zero_grad()
        for part in torch.tensor(batch, dtype=torch.int64).split(micro) if batch else ():
            dp.accumulate(losses(model, inputs[part], labels[part]), None if units is None else units[part])
        dp.finish()
        dp.optimizer.step()
    dp.detach()
    return model


def assert_close(one, two, rtol=1e-6):
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


BATCHES = [[0, 3, 4, 7, 9], [], [1, 2, 5, 6, 7, 8]]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.mark.parametrize("micro", [1, 2, 4, 16])
@pytest.mark.parametrize("make", [bert, vit, llama])
def test_it_equals_dp_sgd_by_hand(make, micro):
    model = make(**(NO_DROPOUT if make is not llama else {}))
    expected = by_hand(copy.deepcopy(model), BATCHES, *data(model), seed=3)
    assert_close(trained(model, BATCHES, *data(model), seed=3, micro=micro), expected)


def test_a_users_rows_are_clipped_together():
    model, units = vit(**NO_DROPOUT), torch.tensor([4, 4, 4, 1, 1, 2, 2, 2, 9, 9])
    batches = [[0, 1, 2, 5, 6, 8], [3, 4, 9]]
    expected = by_hand(copy.deepcopy(model), batches, *data(model), seed=3, units=units)
    assert_close(trained(model, batches, *data(model), seed=3, micro=16, units=units), expected)


@pytest.mark.parametrize("make", [bert, vit, llama])
def test_ghost_clipping_equals_gradients_per_row(make):
    model = make(**(NO_DROPOUT if make is not llama else {}))
    expected = trained(copy.deepcopy(model), BATCHES, *data(model), seed=3, micro=4)
    assert_close(trained(model, BATCHES, *data(model), seed=3, micro=4, ghost=True), expected)


def test_it_equals_plain_opacus():
    model = vit(**NO_DROPOUT)
    inputs, labels = data(model)
    theirs = copy.deepcopy(model)
    wrapped = GradSampleModule(theirs, loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(theirs.parameters(), lr=0.5),
        noise_multiplier=PLAN.noise_multiplier,
        max_grad_norm=PLAN.clip_norm,
        expected_batch_size=5,
        generator=torch.Generator().manual_seed(3),
    )
    batch = BATCHES[0]
    F.cross_entropy(wrapped(pixel_values=inputs[batch]).logits, labels[batch]).backward()
    optimizer.step()
    assert_close(trained(model, [batch], inputs, labels, seed=3, micro=5), theirs)


def opt_or_gemma(family):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    if family == "opt":
        config = OPTConfig(ffn_dim=24, dropout=0.0, word_embed_proj_dim=16, max_position_embeddings=32, **sizes)
        return OPTForCausalLM(config).train()
    config = Gemma3TextConfig(intermediate_size=24, head_dim=8, num_key_value_heads=1, **sizes)
    return Gemma3ForCausalLM(config).train()


@pytest.mark.parametrize("family", ["opt", "gemma"])
def test_lora_is_exact_where_full_fine_tuning_is_not(family):
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(opt_or_gemma(family), adapter).double()
    inputs, labels = data(model)
    expected = by_hand(copy.deepcopy(model), BATCHES, inputs, labels, seed=3)
    assert_close(trained(model, BATCHES, inputs, labels, seed=3, micro=4), expected)


# --- one row moves the sum by at most the clip -----------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True])
def test_the_sum_moves_by_at_most_the_clip(autocast):
    model = llama(tie_word_embeddings=True).float()
    inputs, labels = data(model)
    plan = PrivacyPlan(0.5, 3, 1e-9, clip_norm=0.1)

    def clipped_sum(rows):
        dp = DPSGD(model, torch.optim.SGD(model.parameters(), lr=0.0), plan, ROWS)
        dp.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = losses(model, inputs[rows], labels[rows])
        dp.accumulate(found)
        total = torch.cat([p.summed_grad.flatten() for p in model.parameters()])
        dp.detach()
        return total

    whole = clipped_sum(list(range(ROWS)))
    for row in range(ROWS):
        moved = (whole - clipped_sum([i for i in range(ROWS) if i != row])).norm()
        assert moved <= 0.1 * (1 + 1e-4)
        assert moved > 0.05  # the clip was reached


# --- PITFALLS: what does not work is refused, with what to do --------------------------------------------------------


def checked(model, loss, **options):
    dp = DPSGD(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1), PLAN, ROWS, **options)
    try:
        dp.check(lambda at: loss(model, at), ROWS)
    finally:
        dp.detach()


def lm_loss(model, at):
    return losses(model, *(part[at] for part in data(model)))


def test_position_embeddings_shared_by_the_batch_are_refused():
    def shared(model, at):
        inputs, labels = (part[at] for part in data(model))
        return F.cross_entropy(model(input_ids=inputs).logits, labels, reduction="none")

    with pytest.raises(ValueError, match=r"position_ids of shape \[batch, length\]"):
        checked(bert(**NO_DROPOUT), shared)
    checked(bert(**NO_DROPOUT), lm_loss)


@pytest.mark.parametrize("family", ["opt", "gemma"])
def test_models_without_gradients_per_row_are_pointed_to_adapters(family):
    with pytest.raises(ValueError, match="LoraConfig"):
        checked(opt_or_gemma(family), lm_loss)


def test_a_loss_that_reads_a_tied_head_is_refused():
    def reads(model, at):
        inputs = data(model)[0][at]
        hidden = model.model(input_ids=inputs).last_hidden_state
        logits = F.linear(hidden[:, :-1], model.lm_head.weight)
        return (
            F.cross_entropy(logits.flatten(0, 1), inputs[:, 1:].flatten(), reduction="none").view(len(at), -1).sum(1)
        )

    with pytest.raises(ValueError, match=r"not the gradient of a row .*off by"):
        checked(llama(tie_word_embeddings=True), reads)
    with pytest.raises(ValueError, match=r"lm_head.weight got no gradient per row"):
        checked(llama(), reads)
    frozen = llama()
    frozen.lm_head.weight.requires_grad_(False)
    checked(frozen, reads)


def test_hidden_gradients_of_checkpointing_are_refused():
    model = llama()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with pytest.raises(ValueError, match="use_reentrant=True"):
        checked(model, lm_loss)
    model = llama()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    checked(model, lm_loss)


def test_batch_norm_half_precision_dora_and_frozen_models_are_refused():
    with pytest.raises(ValueError, match="group norm"):
        check_modules(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    check_modules(nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)))
    with pytest.raises(ValueError, match=r"bfloat16.*dtype=torch.float32"):
        check_modules(llama().bfloat16())
    with pytest.raises(ValueError, match="no trainable"):
        check_modules(llama().requires_grad_(False))
    dora = get_peft_model(llama(), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    with pytest.raises(ValueError, match="use_dora=False"):
        check_modules(dora)


def test_ghost_clipping_is_refused_where_it_is_not_exact():
    tied = llama(tie_word_embeddings=True)
    with pytest.raises(ValueError, match="tied weights"):
        check_modules(tied, ghost=True)
    checked(llama(), lm_loss, ghost=True)
    lora = get_peft_model(tied, LoraConfig(r=2, target_modules=["q_proj"]))
    checked(lora.double().train(), lm_loss, ghost=True)
    dp = DPSGD(llama(), torch.optim.SGD(tied.parameters(), 0.1), PLAN, ROWS, ghost=True)
    with pytest.raises(ValueError, match="ghost=False"):
        dp.accumulate(torch.zeros(2), torch.tensor([0, 0]))


def test_an_unused_parameter_is_named():
    model = vit()
    model.extra = nn.Linear(2, 2).double()
    with pytest.raises(ValueError, match=r"extra.weight got no gradient per row: .*requires_grad_\(False\)"):
        checked(model, lm_loss)


def test_only_sums_give_each_row_a_gradient_of_its_own():
    """PITFALLS: under a mean over the batch's tokens, one record rescales every other record's gradient."""
    model = llama()
    inputs, labels = data(model)

    def first_rows_gradient(rows, tokens):
        dp = DPSGD(model, torch.optim.SGD(model.parameters(), lr=0.0), PLAN, ROWS)
        (losses(model, inputs[rows], labels[rows]).sum() / tokens).backward()
        found = model.lm_head.weight.grad_sample[0].clone()
        dp.detach()
        model.zero_grad()
        return found

    alone, crowd = (first_rows_gradient(rows, 1) for rows in ([0], [0, 1, 2]))
    torch.testing.assert_close(alone, crowd)
    alone, crowd = (first_rows_gradient(rows, len(rows) * (LENGTH - 1)) for rows in ([0], [0, 1, 2]))
    torch.testing.assert_close(alone, 3 * crowd)


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_the_noise_does_not_follow_a_seed():
    def run():
        torch.manual_seed(0)
        return trained(vit(**NO_DROPOUT), BATCHES, *data(vit()), seed=None, micro=4)

    def trained(model, batches, inputs, labels, seed, micro):
        dp = DPSGD(model, torch.optim.SGD(model.parameters(), lr=0.5), PLAN, ROWS)
        dp.zero_grad()
        dp.finish()
        dp.optimizer.step()
        dp.detach()
        return model

    one, two = run(), run()
    assert not any(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_the_whole_state_of_a_secret_generator_is_secret(monkeypatch):
    """A seed counts with 32 bits on a CPU, which can be searched: the state must not follow from one."""
    monkeypatch.setattr("swingkd.privacy.randomness.secrets.randbits", lambda bits: 5)
    one, two = secret_generator(), secret_generator()
    assert not torch.equal(torch.rand(5, generator=one), torch.rand(5, generator=two))
    assert one.initial_seed() == 0
    words = one.get_state()[24 : 24 + 624 * 8].numpy().view(np.uint64)
    assert len(set(words)) == 624
    assert int(words.max()) < 2**32
    drawn = torch.randn(200_000, generator=secret_generator())
    assert abs(float(drawn.mean())) < 0.02
    assert float(drawn.std()) == pytest.approx(1, abs=0.02)


def test_detached_the_model_is_an_ordinary_one():
    model = llama()
    before = set(vars(model))
    dp = DPSGD(model, torch.optim.SGD(model.parameters(), 0.1), PLAN, ROWS)
    dp.detach()
    assert set(vars(model)) == before
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
    assert list(model.state_dict()) == list(llama().state_dict())


@pytest.mark.parametrize("ghost", [False, True])
def test_a_public_loss_beside_is_neither_clipped_nor_noised(ghost):
    start = vit()
    inputs, labels = data(start)
    after = {}
    for weight in (None, 1.0, 0.25):
        model = copy.deepcopy(start)
        dp = DPSGD(
            model,
            torch.optim.SGD(model.parameters(), lr=1.0),
            PLAN,
            ROWS,
            ghost=ghost,
            generator=torch.Generator().manual_seed(3),
        )
        for _ in range(2):
            dp.accumulate(F.cross_entropy(model(inputs[:4]).logits, labels[:4], reduction="none"))
            dp.finish()
            if weight is not None:
                # A hundred times steeper than the clip would let through.
                dp.beside(lambda model=model: 100 * F.cross_entropy(model(inputs[4:]).logits, labels[4:]), weight)
            dp.optimizer.step()
            dp.zero_grad()
            after.setdefault(weight, []).append([p.detach().clone() for p in model.parameters()])
        dp.detach()
    public = copy.deepcopy(start)
    (100 * F.cross_entropy(public(inputs[4:]).logits, labels[4:])).backward()
    for before, gradient, alone, whole, quarter in zip(
        start.parameters(),
        (p.grad for p in public.parameters()),
        *(after[w][0] for w in (None, 1.0, 0.25)),
        strict=True,
    ):
        torch.testing.assert_close(whole, alone - gradient)
        torch.testing.assert_close(quarter, before + 0.25 * (alone - before) - gradient)


@pytest.mark.parametrize("wrong", [torch.inf, torch.nan, 1e30])
def test_a_row_whose_gradient_is_infinite_adds_nothing(wrong):
    start = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels, spoilt = torch.tensor([0, 1, 1, 0]), inputs.clone()
    spoilt[2] = wrong
    after = []
    for given, rows in ((inputs, [0, 1, 3]), (spoilt, [0, 1, 2, 3])):
        model = copy.deepcopy(start)
        dp = DPSGD(
            model, torch.optim.SGD(model.parameters(), lr=1.0), PLAN, ROWS, generator=torch.Generator().manual_seed(3)
        )
        dp.accumulate(F.cross_entropy(model(given[rows]), labels[rows], reduction="none"))
        dp.finish()
        dp.optimizer.step()
        after.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        dp.detach()
    assert after[1].isfinite().all()
    if wrong != 1e30:
        torch.testing.assert_close(after[1], after[0])
    ghostly = DPSGD(start, torch.optim.SGD(start.parameters(), lr=1.0), PLAN, ROWS, ghost=True)
    if wrong != 1e30:
        with pytest.raises(ValueError, match="A row's gradient is not finite"):
            ghostly.accumulate(F.cross_entropy(start(spoilt), labels, reduction="none"))
