"""Training from a cached teacher, and the targets that may be handed out."""

import copy

import pytest
import torch
from datasets import Dataset, concatenate_datasets

from swingkd import PrivateDistillationTrainer, RuleTagger, cache_teacher, teacher_cache
from swingkd.cached_columns import CacheInfo
from tests.conftest import TEXTS, tiny_model


@pytest.fixture
def cache(teacher, tokenizer, texts, config):
    """A function that caches the tiny teacher."""

    def cache(data=texts, *, teacher=teacher, tagger=True, **fields):
        names = ("top_k", "exact", "protect", "private_dataset", "public_model")
        options = {name: fields.pop(name) for name in names if name in fields}
        return cache_teacher(
            teacher, config(**fields), data, tokenizer, tagger=RuleTagger() if tagger else None, **options
        )

    return cache


@pytest.fixture
def step(student, tokenizer, config):
    """A function that returns loss and gradients of one batch."""

    def step(data, teacher=None, **fields):
        torch.manual_seed(0)
        trainer = PrivateDistillationTrainer(
            copy.deepcopy(student), teacher, config(**fields), train_dataset=data, processing_class=tokenizer,
            tagger=RuleTagger() if data.column_names == ["text"] else None,
        )  # fmt: skip
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(6)])
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        return loss.detach(), {name: p.grad for name, p in trainer.model.named_parameters()}

    return step


@pytest.mark.parametrize("protection", ["noise", "population", "drop"])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_all_tokens_kept_is_the_live_teacher(cache, step, texts, teacher, tokenizer, protection, beta):
    fields = {"protection": protection, "beta": beta, "temperature": 3.0}
    cached = step(cache(top_k=len(tokenizer), exact=True, **fields), **fields)
    torch.testing.assert_close(cached, step(texts, teacher, **fields), rtol=1e-4, atol=1e-6)


def test_sixteen_bits_are_nearly_the_live_teacher(cache, step, texts, teacher, tokenizer):
    loss, gradients = step(cache(top_k=len(tokenizer)), protection="noise")
    expected, exact = step(texts, teacher, protection="noise")
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    for name, gradient in gradients.items():
        assert (gradient - exact[name]).norm() <= 2e-3 * exact[name].norm()


def test_fewer_tokens_and_a_tail_stay_near(cache, step, texts, teacher):
    expected, exact = step(texts, teacher, protection="noise")
    loss, gradients = step(cache(top_k=64), protection="noise")
    flat, flat_exact = (torch.cat([g.flatten() for g in found.values()]) for found in (gradients, exact))
    assert torch.cosine_similarity(flat, flat_exact, dim=0) > 0.98
    torch.testing.assert_close(loss, expected, rtol=0.1, atol=0)


def test_rows_can_be_shuffled_and_picked(cache, step):
    data = cache()
    one, _ = step(data, protection="noise")
    order = [*range(5, -1, -1), *range(6, len(data))]
    other, _ = step(data.select(order), protection="noise")
    torch.testing.assert_close(one, other)


def test_training_needs_no_teacher_and_evaluates(cache, student, tokenizer, config, texts):
    data = cache()
    trainer = PrivateDistillationTrainer(
        student, None, config(protection="noise", num_train_epochs=1, max_steps=-1), train_dataset=data,
        eval_dataset=data.select(range(8)), processing_class=tokenizer, tagger=RuleTagger(),
    )  # fmt: skip
    assert trainer.teacher_model is None
    trainer.train()
    assert "eval_distillation_loss" in trainer.evaluate()
    plain = trainer.evaluate(texts.select(range(8)))
    assert "eval_distillation_loss" not in plain
    assert plain["eval_perplexity"] == pytest.approx(trainer.evaluate()["eval_perplexity"])


def test_packed_rows_and_untagged_ones(cache, step):
    data = cache(packing=True, max_length=32, tagger=False, protection="none")
    assert {len(ids) for ids in data["input_ids"][:-1]} == {32}
    step(data, protection="none", packing=True, max_length=32)


def test_a_small_cache_is_enough_where_nothing_is_private(cache, step):
    step(cache(tagger=False, top_k=8), protection="none")


def test_a_killed_cache_goes_on_where_it_stopped(cache, monkeypatch, teacher):
    monkeypatch.setattr(teacher_cache, "_PART", 20)
    whole = cache()
    calls = []
    teacher.register_forward_pre_hook(lambda *_: calls.append(1))
    again = cache()
    # The check of the head alone.
    assert len(calls) <= 2
    assert again.to_dict() == whole.to_dict()


def test_compact_types(cache):
    kinds = {name: str(kind) for name, kind in cache().features.items()}
    assert "uint16" in kinds["teacher_ids"]
    assert "float16" in kinds["teacher_log_probs"]


# --- targets to be handed out -----------------------------------------------------------------------------------

PUBLIC = [
    f"good day {name}, your pin is {i * 31 % 9000 + 1000}." for i, name in enumerate("ab cd ef gh ij kl".split() * 6)
]


def handed_out(cache, texts, protection="noise", **fields):
    return cache(
        Dataset.from_dict({"text": PUBLIC}), protect=True, private_dataset=texts, protection=protection, **fields
    )


@pytest.mark.parametrize("protection", ["noise", "population", "drop", "mollify"])
def test_protected_targets_are_what_the_trainer_would_have_made(
    cache, student, teacher, tokenizer, texts, config, protection
):
    public = tiny_model(len(tokenizer), seed=5) if protection == "mollify" else None
    data = handed_out(cache, texts, protection, top_k=len(tokenizer), exact=True, public_model=public)
    assert {"pii_group", "pii_shape", "pii_span"}.isdisjoint(data.column_names)

    def loss(data, teacher, **options):
        trainer = PrivateDistillationTrainer(
            copy.deepcopy(student), teacher, config(**options), train_dataset=data, processing_class=tokenizer,
            tagger=None if teacher is None else RuleTagger(), public_model=None if teacher is None else public,
        )  # fmt: skip
        trainer._protection = trainer.protection
        return trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[i] for i in range(6)]))

    live = loss(Dataset.from_dict({"text": PUBLIC}), teacher, protection=protection)
    # Whoever gets the targets names no protection and has no key.
    torch.testing.assert_close(loss(data, None), live, rtol=1e-4, atol=1e-5)


def test_what_is_handed_out_says_what_it_is_and_holds_no_key(cache, texts, tmp_path):
    data = handed_out(cache, texts)
    assert CacheInfo.loads(data[0]["teacher_cache"]).protection == "noise"
    data.save_to_disk(str(tmp_path / "gift"))
    key = (tmp_path / "out" / "_private" / "noise_key").read_bytes()
    assert not any(key in path.read_bytes() for path in (tmp_path / "gift").rglob("*") if path.is_file())


def test_private_text_is_refused(cache, texts):
    mixed = concatenate_datasets([Dataset.from_dict({"text": PUBLIC}), texts.select(range(3))])
    with pytest.raises(ValueError, match=r"3 of 39 rows of the transfer set are private text"):
        cache(mixed, protect=True, private_dataset=texts, protection="noise")
    with pytest.raises(ValueError, match="private_dataset="):
        cache(texts, protect=True, protection="noise")
    with pytest.raises(ValueError, match="protects nothing"):
        cache(texts, protect=True, protection="none", private_dataset=texts)
    with pytest.raises(ValueError, match="symmetric"):
        cache(texts, protect=True, protection="noise", private_dataset=texts, temperature_mode="symmetric")


# --- mistakes --------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(cache, step, texts, teacher, tokenizer):
    data = cache(top_k=8, temperature=2.0)
    with pytest.raises(ValueError, match=r"cached for temperature=2.0.*Set temperature=2.0"):
        step(data, protection="drop", temperature=3.0)
    with pytest.raises(ValueError, match=r"noise_support=16 reaches beyond the 8 tokens"):
        step(data, protection="noise")
    with pytest.raises(ValueError, match="hidden states"):
        step(data, protection="drop", hidden_weight=0.1)
    with pytest.raises(ValueError, match="another teacher"):
        step(data, tiny_model(len(tokenizer), seed=9), protection="drop")
    step(data, teacher, protection="drop")
    with pytest.raises(ValueError, match="no teacher: pass teacher_model"):
        step(texts)
    with pytest.raises(ValueError, match="different caches"):
        step(concatenate_datasets([data, cache(top_k=9)]), protection="drop")
    with pytest.raises(ValueError, match="cannot be applied to them any more"):
        step(handed_out(cache, texts), protection="drop")
    with pytest.raises(ValueError, match="top_k=0"):
        cache(top_k=0)


def test_another_tokenizer_is_refused(cache, student, config):
    from tests.conftest import train_tokenizer

    with pytest.raises(ValueError, match="another tokenizer"):
        PrivateDistillationTrainer(
            student, None, config(protection="drop"), train_dataset=cache(),
            processing_class=train_tokenizer([text.upper() for text in TEXTS]),
        )  # fmt: skip


def test_targets_never_meet_other_tokens(cache, step):
    data = cache().map(lambda row: {"input_ids": row["input_ids"][::-1]})
    with pytest.raises(ValueError, match="made for other tokens"):
        step(data, protection="noise")
