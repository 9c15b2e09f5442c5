"""Training from a cached teacher, and the targets that may be handed out."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets, interleave_datasets

from swingkd import PrivateDistillationTrainer, RuleTagger, cache_teacher
from swingkd.data import DataSettings, DistillationCollator, prepare_dataset
from swingkd.data.teacher_columns import TEACHER_COLUMNS, CacheInfo
from swingkd.targets import NoiseKey
from swingkd.trainer import teacher_cache
from tests.harness import TEXTS, tiny_model


@pytest.fixture
def cache(teacher, tokenizer, texts, config, tmp_path):
    """A function that caches the tiny teacher."""

    def cache(data=texts, *, teacher=teacher, tagger=True, **fields):
        names = ("top_k", "exact", "protect", "private_dataset", "public_model")
        options = {name: fields.pop(name) for name in names if name in fields}
        if "output_dir_name" in fields:
            fields["output_dir"] = str(tmp_path / fields.pop("output_dir_name"))
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
            copy.deepcopy(student),
            config(**fields),
            teacher_model=teacher,
            train_dataset=data,
            processing_class=tokenizer,
            tagger=RuleTagger() if data.column_names == ["text"] else None,
        )
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
        student,
        config(protection="noise", num_train_epochs=1, max_steps=-1),
        teacher_model=None,
        train_dataset=data,
        eval_dataset=data.select(range(8)),
        processing_class=tokenizer,
        tagger=RuleTagger(),
    )
    assert trainer.teacher_model is None
    trainer.train()
    assert "eval_distillation_loss" in trainer.evaluate()
    plain = trainer.evaluate(texts.select(range(8)))
    assert "eval_distillation_loss" not in plain
    assert plain["eval_perplexity"] == pytest.approx(trainer.evaluate()["eval_perplexity"])


def test_targets_are_read_as_arrays(cache, student, tokenizer, config):
    """As lists of numbers they take longer to read than a step on an accelerator."""
    seen = []
    trainer = PrivateDistillationTrainer(
        student, config(protection="noise"), train_dataset=cache(), processing_class=tokenizer
    )
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: seen.append(rows) or collate(rows)
    batch = next(iter(trainer.get_eval_dataloader(trainer.train_dataset)))
    assert {type(row["teacher_ids"]) for row in seen[0]} == {np.ndarray}
    as_lists = collate([{name: np.asarray(value).tolist() for name, value in row.items()} for row in seen[0]])
    for name, values in as_lists.items():
        torch.testing.assert_close(batch[name], values, msg=name)


def test_packed_rows_and_untagged_ones(cache, step):
    fields = {"protection": "none", "packing": True, "packing_strategy": "wrapped", "max_length": 32}
    data = cache(tagger=False, **fields)
    assert {len(ids) for ids in data["input_ids"][:-1]} == {32}
    step(data, **fields)


def test_a_cache_of_packed_rows_is_the_live_teacher(cache, step, texts, teacher, tokenizer):
    fields = {"protection": "drop", "packing": True, "max_length": 64}
    data = cache(top_k=len(tokenizer), exact=True, **fields)
    assert "position_ids" in data.column_names
    torch.testing.assert_close(step(data, **fields), step(texts, teacher, **fields), rtol=1e-4, atol=1e-6)


def test_a_small_cache_is_enough_where_nothing_is_private(cache, step):
    step(cache(tagger=False, top_k=8), protection="none")


def test_a_killed_cache_goes_on_where_it_stopped(cache, monkeypatch):
    monkeypatch.setattr(teacher_cache._Writer, "part", 20)
    asked, call = [], teacher_cache._Writer.__call__

    def until(limit):
        asked.clear()

        def counted(writer, batch):
            asked.extend(batch["input_ids"])
            if len(asked) > limit:
                raise KeyboardInterrupt
            return call(writer, batch)

        monkeypatch.setattr(teacher_cache._Writer, "__call__", counted)

    until(30)  # killed within the second of three parts
    with pytest.raises(KeyboardInterrupt):
        cache()
    until(1000)
    resumed = cache()
    assert len(asked) == 40
    whole = cache(output_dir_name="fresh")
    assert resumed.to_dict() == whole.to_dict()
    until(0)  # everything is there
    assert cache().to_dict() == whole.to_dict()


@pytest.mark.parametrize(
    ("protection", "before", "after"),
    [
        ("noise", {"max_temperature": 1.0}, {"max_temperature": 32.0}),
        ("noise", {"noise_scale": 1.0}, {"noise_scale": 0.5}),
        ("population", {"population_share": 0.0}, {"population_share": 0.5}),
    ],
)
def test_no_part_of_other_settings_is_used_again(cache, texts, protection, before, after):
    handed_out(cache, texts, protection, **before)
    changed = handed_out(cache, texts, protection, **after)
    assert changed["teacher_log_probs"] != handed_out(cache, texts, protection, **before)["teacher_log_probs"]
    assert changed["teacher_log_probs"] == handed_out(cache, texts, protection, **after)["teacher_log_probs"]


def test_a_new_noise_key_and_another_public_model_are_noticed(cache, texts, tokenizer, tmp_path):
    first = handed_out(cache, texts)
    (tmp_path / "out" / "_private" / "noise_key").unlink()
    assert handed_out(cache, texts)["teacher_log_probs"] != first["teacher_log_probs"]
    one, two = (
        handed_out(cache, texts, "mollify", public_model=tiny_model(len(tokenizer), seed=seed)) for seed in (5, 6)
    )
    assert one["teacher_log_probs"] != two["teacher_log_probs"]


def test_the_rows_other_columns_are_as_they_are_now(cache, texts, tokenizer):
    rows = prepare_dataset(texts, tokenizer, RuleTagger(), DataSettings(max_length=64))
    assert cache(rows, tagger=False)["pii_group"] == rows["pii_group"]
    other = rows.map(lambda row: {"pii_group": [9] * len(row["pii_group"])}).add_column("id", list(range(len(rows))))
    again = cache(other, tagger=False)
    assert again["pii_group"] == other["pii_group"]
    assert again["id"] == list(range(len(rows)))


def test_two_releases_do_not_undo_each_other(cache, texts, tokenizer):
    """With the same draws at two scales, 2 q1 - q2 would be the target before the noise."""
    whole = {"top_k": len(tokenizer), "exact": True, "max_temperature": 4.0}

    def targets(**fields):
        data = handed_out(cache, texts, **whole, **fields)
        dense = []
        for row in data:
            at = [i for i, s in enumerate(row["pii_likelihood"]) if i and s == 255]
            ids = torch.tensor(row["teacher_ids"]).view(-1, len(tokenizer))
            log_probs = torch.tensor(row["teacher_log_probs"]).view(-1, len(tokenizer))
            dense.append(torch.zeros_like(log_probs).scatter(1, ids, log_probs.exp())[[i - 1 for i in at]])
        return torch.cat(dense)

    clean = targets(noise_scale=1e-6)
    small, large = targets(noise_scale=0.05), targets(noise_scale=0.1)
    guess = (2 * small - large).clamp_min(0)
    guess /= guess.sum(1, keepdim=True)
    assert (guess - clean).abs().sum(1).mean() > 0.9 * (small - clean).abs().sum(1).mean()


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
    cache, student, teacher, tokenizer, texts, config, protection, monkeypatch
):
    # Each release has draws of its own; here both sides take the run's.
    monkeypatch.setattr(NoiseKey, "derive", lambda key, purpose: key)
    public = tiny_model(len(tokenizer), seed=5) if protection == "mollify" else None
    data = handed_out(cache, texts, protection, top_k=len(tokenizer), exact=True, public_model=public)
    assert {"pii_group", "pii_shape", "pii_span"}.isdisjoint(data.column_names)

    def loss(data, teacher, **options):
        trainer = PrivateDistillationTrainer(
            copy.deepcopy(student),
            config(**options),
            teacher_model=teacher,
            train_dataset=data,
            processing_class=tokenizer,
            tagger=None if teacher is None else RuleTagger(),
            public_model=None if teacher is None else public,
        )
        trainer._protection = trainer.protection
        return trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[i] for i in range(6)]))

    live = loss(Dataset.from_dict({"text": PUBLIC}), teacher, protection=protection)
    # Whoever gets the targets names no protection and has no key.
    torch.testing.assert_close(loss(data, None), live, rtol=1e-4, atol=1e-5)


def test_what_is_handed_out_says_what_it_is_and_holds_no_key(cache, texts, tmp_path):
    data = handed_out(cache, texts)
    assert CacheInfo.loads(data[0]["teacher_cache"]).protection == "noise"
    data.save_to_disk(str(tmp_path / "gift"))
    key = NoiseKey.load(tmp_path / "out" / "_private" / "noise_key")
    halves = [half.to_bytes(8, "little", signed=True) for half in (key.low, key.high)]
    written = b"".join(path.read_bytes() for path in (tmp_path / "gift").rglob("*") if path.is_file())
    assert not any(half in written or half.hex().encode() in written for half in halves)


def test_private_text_is_refused(cache, texts, tokenizer):
    mixed = concatenate_datasets([Dataset.from_dict({"text": PUBLIC}), texts.select(range(3))])
    known = {"protect": True, "protection": "noise", "private_dataset": texts}
    with pytest.raises(ValueError, match=r"3 of 39 rows of the transfer set share private text.*rows 36, 37, 38"):
        cache(mixed, **known)
    joined = Dataset.from_dict({"text": [f"well. {text} and so on" for text in texts["text"][:5]]})
    with pytest.raises(ValueError, match="5 of 5 rows"):
        cache(joined, **known)
    # What is tokenised is what is compared, whatever other columns say.
    ids = prepare_dataset(texts, tokenizer, RuleTagger(), DataSettings(max_length=64))
    disguised = ids.add_column("text", ["nothing to see"] * len(ids))
    with pytest.raises(ValueError, match="60 of 60 rows"):
        cache(disguised, tagger=False, **known)
    pairs = Dataset.from_dict(
        {"prompt": [t[:10] for t in texts["text"]], "completion": [t[10:] for t in texts["text"]]}
    )
    with pytest.raises(ValueError, match="60 of 60 rows"):
        cache(pairs, **known)
    # Shorter than a run, within a longer text, where its first and last tokens are others.
    secret = "my pin is 4711, ann"
    assert len(tokenizer(secret)["input_ids"]) < 13
    around = Dataset.from_dict({"text": [f"well, hello. {secret.capitalize()}. thank you.", PUBLIC[0]]})
    with pytest.raises(ValueError, match="1 of 2 rows"):
        cache(around, **known | {"private_dataset": Dataset.from_dict({"text": [secret]})})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"private_dataset": None, "protection": "noise"}, "private_dataset="),
        ({"protection": "none"}, "protects nothing"),
        ({"protection": "noise", "temperature_mode": "symmetric"}, "symmetric"),
        ({"protection": "noise", "noise_scale": 0.0}, "noise_scale=0.0 leaves the teacher's own"),
        ({"protection": "population", "population_share": 1.0}, "population_share=1.0 leaves"),
        ({"protection": "mollify", "mollify_bound": float("inf")}, "public_model="),
    ],
)
def test_settings_that_protect_nothing_are_refused(cache, texts, fields, message):
    public = Dataset.from_dict({"text": PUBLIC})
    with pytest.raises(ValueError, match=message):
        cache(public, protect=True, **({"private_dataset": texts} | fields))


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


def test_an_evaluation_set_of_another_cache_is_refused(cache, student, tokenizer, config, teacher):
    train, other = cache(), cache(teacher=tiny_model(len(tokenizer), seed=9))
    for asked, data in ((None, train), (teacher, Dataset.from_dict({"text": TEXTS}))):
        with pytest.raises(ValueError, match=r"cached targets that differ|another teacher"):
            PrivateDistillationTrainer(
                student,
                config(protection="noise"),
                teacher_model=asked,
                train_dataset=data,
                eval_dataset=other,
                processing_class=tokenizer,
                tagger=RuleTagger(),
            )


def test_a_stream_of_two_caches_is_refused(cache, step, texts, student, tokenizer, config):
    streams = [data.to_iterable_dataset() for data in (handed_out(cache, texts), cache())]
    kept = ["input_ids", "labels", "pii_likelihood", *TEACHER_COLUMNS]
    mixed = interleave_datasets([stream.select_columns(kept) for stream in streams])
    trainer = PrivateDistillationTrainer(
        student, config(), teacher_model=None, train_dataset=mixed, processing_class=tokenizer
    )
    with pytest.raises(ValueError, match="targets of another cache"):
        trainer.train()


def test_a_collator_that_loses_the_targets_is_noticed(cache, student, tokenizer, config):
    def forgetful(rows):
        batch = DistillationCollator(tokenizer.pad_token_id)(rows)
        return {name: value for name, value in batch.items() if not name.startswith("teacher")}

    trainer = PrivateDistillationTrainer(
        student,
        config(protection="noise"),
        teacher_model=None,
        train_dataset=cache(),
        processing_class=tokenizer,
        data_collator=forgetful,
    )
    with pytest.raises(ValueError, match="must hand on the columns"):
        trainer.train()


def test_another_tokenizer_is_refused(cache, student, config):
    from tests.harness import train_tokenizer

    with pytest.raises(ValueError, match="another tokenizer"):
        PrivateDistillationTrainer(
            student,
            config(protection="drop"),
            teacher_model=None,
            train_dataset=cache(),
            processing_class=train_tokenizer([text.upper() for text in TEXTS]),
        )


def test_targets_never_meet_other_tokens(cache, step):
    data = cache().map(lambda row: {"input_ids": row["input_ids"][::-1]})
    with pytest.raises(ValueError, match="made for other tokens"):
        step(data, protection="noise")
