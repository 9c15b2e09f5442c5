"""Packed rows are the rows: in float64, losses and gradients are those of each text alone, whatever protects it."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from swingkd import PrivateDistillationTrainer, RuleTagger
from swingkd.data.packing import best_fit, pack
from swingkd.tasks import TASKS
from swingkd.tasks.predicted import preceding
from swingkd.trainer.check_packing import keeps_apart
from tests.harness import TEXTS, bert, tiny_model

# Of unlike lengths, some longer than a row may be.
LONG = [text * (1 + i % 4) for i, text in enumerate(TEXTS[:24])]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def llama(size, seed):
    return tiny_model(size, seed=seed, num_hidden_layers=2)


def neox(size, seed):
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=size, **SIZES, max_position_embeddings=256))


def gpt2(size, seed):
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=256))


@pytest.fixture
def whole(tokenizer, config, tmp_path):
    """A function that returns the loss and the gradient of all rows in one batch, in float64."""
    (tmp_path / "out" / "_private").mkdir(parents=True)
    (tmp_path / "out" / "_private" / "noise_key").write_text("00112233445566778899aabbccddeeff")

    def whole(make=llama, **fields):
        models = [make(len(tokenizer), seed).double().eval() for seed in (1, 2, 3)]
        with torch.no_grad():
            models[1].get_output_embeddings().weight.mul_(20)
        # Moments of dropout would differ.
        for model in models:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        public = {"public_model": models[2]} if fields.get("protection") == "mollify" else {}
        trainer = PrivateDistillationTrainer(
            models[0],
            config(**({"max_length": 60} | fields)),
            teacher_model=models[1],
            train_dataset=Dataset.from_dict({"text": LONG}),
            processing_class=tokenizer,
            tagger=RuleTagger(),
            **public,
        )
        batch = trainer.data_collator(list(trainer.train_dataset))
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for _, p in sorted(trainer.model.named_parameters())])
        return loss.detach(), gradient, trainer

    return whole


@pytest.mark.parametrize("protection", ["none", "drop", "noise", "population", "mollify"])
@pytest.mark.parametrize("fused", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_packed_is_unpacked(whole, protection, fused):
    fields = {"protection": protection, "fused_loss": fused, "noise_context": 4}
    loss, gradient, apart = whole(**fields)
    packed_loss, packed_gradient, packed = whole(**fields, packing=True)
    assert len(packed.train_dataset) < len(apart.train_dataset)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(packed_loss, loss, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(packed_gradient, gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("make", [neox, pytest.param(gpt2, marks=pytest.mark.slow)])
def test_other_positions_too(whole, make):
    """Learnt positions and rotary ones, of a part of each head."""
    loss, gradient, _ = whole(make, protection="noise")
    packed_loss, packed_gradient, _ = whole(make, protection="noise", packing=True)
    torch.testing.assert_close(packed_loss, loss, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(packed_gradient, gradient, rtol=1e-6, atol=1e-9)


def test_hints_of_packed_rows(whole):
    torch.manual_seed(0)
    loss, _, _ = whole(protection="drop", hidden_weight=0.5)
    torch.manual_seed(0)
    packed, _, _ = whole(protection="drop", hidden_weight=0.5, packing=True)
    torch.testing.assert_close(packed, loss, rtol=1e-6, atol=1e-9)


def test_wrapped_rows_see_each_other(whole):
    loss, _, _ = whole(protection="drop")
    wrapped, _, _ = whole(protection="drop", packing=True, packing_strategy="wrapped")
    assert not torch.isclose(loss, wrapped, rtol=1e-4)


def test_a_packed_evaluation_says_the_same(whole):
    told = []
    for packing in (False, True):
        _, _, trainer = whole(protection="drop", packing=packing)
        told.append(trainer.evaluate(Dataset.from_dict({"text": LONG})))
    for name in ("eval_perplexity", "eval_perplexity_flagged", "eval_distillation_loss"):
        assert told[0][name] == pytest.approx(told[1][name], rel=1e-6)


def test_what_keeps_texts_apart_and_what_does_not(tokenizer):
    size = len(tokenizer)
    assert keeps_apart(llama(size, 0), TASKS[0])
    opt = OPTForCausalLM(
        OPTConfig(
            vocab_size=size,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=32,
            word_embed_proj_dim=16,
        )
    )
    assert not keeps_apart(opt, TASKS[0])
    assert not keeps_apart(bert(BertForMaskedLM, size), TASKS[1])


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(20, 30))
def test_blocks_hold_every_row_once_and_no_more_than_fits(lengths, length):
    blocks = best_fit(lengths, length)
    assert sorted(row for block in blocks for row in block) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in block) <= length for block in blocks)
    # No two blocks could be one: each row went where it left the least room.
    room = sorted(length - sum(lengths[row] for row in block) for block in blocks)
    assert len(blocks) == 1 or length - room[-1] + length - room[-2] > length


@given(st.lists(st.integers(1, 25), min_size=1, max_size=20), st.sampled_from(["bfd", "bfd_split"]), st.integers(0, 2))
def test_packing_keeps_rows_whole_in_order_and_numbers_them(lengths, strategy, first):
    ids = [[100 * row + i for i in range(length)] for row, length in enumerate(lengths)]
    packed = pack({"input_ids": ids, "pii_likelihood": ids}, strategy, 10, first)
    kept = (
        [row[:10] for row in ids]
        if strategy == "bfd"
        else [row[i : i + 10] for row in ids for i in range(0, len(row), 10)]
    )
    parts = []
    for block, places, same in zip(
        *(packed[name] for name in ("input_ids", "position_ids", "pii_likelihood")), strict=True
    ):
        np.testing.assert_array_equal(block, same)
        begins = np.flatnonzero(places == first)
        parts += [part.tolist() for part in np.split(block, begins[1:])]
    assert sorted(parts) == sorted(kept)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 4))
def test_the_context_of_a_packed_row_is_its_own_texts(lengths, width):
    """Naively: each text alone."""
    texts = [torch.arange(1, length + 1) + 10 * i for i, length in enumerate(lengths)]
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    found = preceding(torch.cat(texts)[None], width, None, places)
    expected = torch.cat([preceding(text[None], width, None) for text in texts], 1)
    assert torch.equal(found, expected)


def test_a_mixtures_auxiliary_loss_in_float64(tokenizer, config):
    """Naively: cross entropy of the logits plus the weighted balance of the experts; transformers' own loss agrees."""
    from transformers import MixtralConfig, MixtralForCausalLM

    options = {"num_key_value_heads": 2, "num_local_experts": 4, "max_position_embeddings": 256}
    torch.manual_seed(0)
    mixture = MixtralConfig(vocab_size=len(tokenizer), **SIZES, **options, router_aux_loss_coef=0.3)
    # The fast products of experts know no float64.
    model = MixtralForCausalLM._from_config(mixture, experts_implementation="eager").double().eval()
    given = {"teacher_model": tiny_model(len(tokenizer)).double(), "processing_class": tokenizer}
    given["train_dataset"] = Dataset.from_dict({"text": LONG})
    for fused in (True, False):
        losses = []
        for asked in (False, True):
            own = copy.deepcopy(model)
            own.config.output_router_logits = asked
            args = config(protection="none", alpha=0.0, fused_loss=fused, max_length=60)
            trainer = PrivateDistillationTrainer(own, args, **given)
            batch = trainer.data_collator([trainer.train_dataset[i] for i in range(6)])
            loss = trainer.compute_loss(own, batch)
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            told = own(**inputs, output_router_logits=asked)
            known = batch["labels"][:, 1:] != -100
            expected = torch.nn.functional.cross_entropy(told.logits[:, :-1][known], batch["labels"][:, 1:][known])
            expected = expected + (0.3 * told.aux_loss if asked else 0.0)
            # Its routers answer in float32, whatever the model computes in.
            torch.testing.assert_close(loss, expected, rtol=1e-7, atol=1e-9)
            theirs = own(**inputs, labels=batch["labels"]).loss
            torch.testing.assert_close(loss.float(), theirs.float(), rtol=1e-5, atol=1e-6)
            losses.append(float(loss.detach()))
        assert losses[1] > losses[0] + 0.1
