"""Text that the student writes: what is learnt of it, what is protected in it, and what it does not go with."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset

from swingkd import Folds, OutOfFoldTeacher, PrivateDistillationTrainer, RuleTagger, cache_teacher
from swingkd.data.columns import IGNORE
from swingkd.privacy import TRANSFER_SET
from swingkd.trainer.on_policy import ON_POLICY, StudentWriter, ends_of
from tests.harness import NAMES, TEXTS, assert_same, tiny_model, weights
from tests.trainer.test_dp_trainer import replayable

SAYS = " 4821. thank you"
ASKED = {
    "prompt": [f"hello {name}, my pin is" for name in NAMES * 3],
    "completion": [f" {i * 17 % 9000 + 1000}. bye" for i in range(30)],
}


@pytest.fixture
def make(student, teacher, tokenizer, config):
    """A function that makes a trainer whose student writes."""

    def make(*, data=None, tagger=None, student=student, teacher=teacher, public=None, **fields):
        defaults = {"lmbda": 1.0, "max_new_tokens": 12, "protection": "none", "alpha": 0.5}
        data = Dataset.from_dict(ASKED) if data is None else data
        return PrivateDistillationTrainer(
            student,
            config(**(defaults | fields)),
            teacher_model=teacher,
            train_dataset=data,
            processing_class=tokenizer,
            tagger=tagger,
            public_model=public,
        )

    return make


def saying(monkeypatch, tokenizer, text=SAYS):
    """Let every student write the same text, and end there."""
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    monkeypatch.setattr(StudentWriter, "_write", lambda self, student, prompts, seed: [ids for _ in prompts])
    return ids


def first_batch(trainer, rows=4):
    return trainer.data_collator([trainer.train_dataset[i] for i in range(rows)])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_loss_is_the_teachers_of_what_the_student_wrote_and_no_labels(make, student, teacher, fused, beta):
    trainer = make(beta=beta, temperature=2.0, fused_loss=fused)
    torch.manual_seed(3)
    batch = trainer.writer.batch(student, first_batch(trainer), trainer.data_collator, 0)
    count = int((batch["labels"][:, 1:] != IGNORE).sum())
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(count))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    at = batch["labels"][:, 1:] != IGNORE
    s, t = ((model(**inputs).logits[:, :-1][at].double() / 2).log_softmax(-1) for model in (student, teacher))
    if beta in (0.0, 1.0):
        one, other = (t, s) if beta == 0 else (s, t)
        expected = (one.exp() * (one - other)).sum(-1)
    else:
        mixed = torch.logaddexp(s, t) - np.log(2)
        expected = ((t.exp() * (t - mixed)).sum(-1) + (s.exp() * (s - mixed)).sum(-1)) / 2
    torch.testing.assert_close(loss.double(), 4 * expected.sum() / count, rtol=1e-5, atol=1e-7)


def test_prompts_stay_and_only_what_follows_is_learnt(make, student, tokenizer):
    trainer = make()
    batch = first_batch(trainer)
    written = trainer.writer.batch(student, batch, trainer.data_collator, 0)
    assert written[ON_POLICY] is True
    for i, row in enumerate(trainer.train_dataset.select(range(4))):
        prompt = tokenizer(ASKED["prompt"][i])["input_ids"]
        assert written["input_ids"][i, : len(prompt)].tolist() == prompt == row["input_ids"][: len(prompt)]
        learnt = written["labels"][i] != IGNORE
        assert not learnt[: len(prompt)].any()
        held = written["attention_mask"][i].bool()
        assert torch.equal(learnt[len(prompt) :], held[len(prompt) :])
        assert 1 <= int(learnt.sum()) <= 12
    # What was written differs from row to row and from time to time.
    again = trainer.writer.batch(student, batch, trainer.data_collator, 1)
    assert again["input_ids"].shape != written["input_ids"].shape or not torch.equal(
        again["input_ids"], written["input_ids"]
    )


def test_a_text_without_a_prompt_is_written_from_its_beginning(make, student, tokenizer):
    trainer = make(data=Dataset.from_dict({"text": TEXTS[:12]}))
    rows = trainer.writer.rows(student, list(trainer.train_dataset)[:3], 0)
    assert [row["input_ids"][0] for row in rows] == [tokenizer.bos_token_id] * 3
    assert all((np.array(row["labels"][1:]) != IGNORE).all() for row in rows)


def test_the_end_of_a_text_is_learnt_and_nothing_behind_it(make, student, tokenizer, monkeypatch):
    ids = saying(monkeypatch, tokenizer)
    trainer = make()
    (row,) = trainer.writer.rows(student, [trainer.train_dataset[0]], 0)
    prompt = tokenizer(ASKED["prompt"][0])["input_ids"]
    assert list(row["input_ids"]) == prompt + ids
    assert list(row["labels"]) == [IGNORE] * len(prompt) + ids


def test_tokens_stay_as_they_were_sampled(make, student, tokenizer):
    """No text is made of them and read again: parts of characters, and words in other pieces, stay what they are."""
    trainer = make()
    (row,) = trainer.writer.rows(student, [trainer.train_dataset[0]], 7)
    prompt = tokenizer(ASKED["prompt"][0])["input_ids"]
    assert row["input_ids"] == prompt + trainer.writer._write(student, [prompt], 7)[0]


def test_the_prompt_is_all_before_the_last_answer(make):
    row = {"input_ids": list(range(10, 20)), "labels": [1, IGNORE, 12, 13, IGNORE, IGNORE, 16, 17, IGNORE, IGNORE]}
    assert make().writer._prompt(row) == list(range(10, 16))
    assert make(max_length=16).writer._prompt(row) == list(range(12, 16))


def test_what_a_model_says_of_its_ends_ends_a_text_too(make, student, tokenizer):
    student.generation_config.eos_token_id = [7, 9]
    assert ends_of(student, tokenizer) == {7, 9, tokenizer.eos_token_id}
    trainer = make(max_new_tokens=50)
    ends = {7, 9, tokenizer.eos_token_id}
    rows = trainer.writer.rows(student, list(trainer.train_dataset), 0, 7)
    for row in rows:
        answer = [label for label in row["labels"] if label != IGNORE]
        assert not ends & set(answer[:-1])
    assert len(rows) == 30
    student.generation_config.eos_token_id = None


def test_writing_leaves_the_student_as_it_was(make, tokenizer):
    student = tiny_model(len(tokenizer), seed=1, attention_dropout=0.5).train()
    trainer = make(student=student, gradient_checkpointing=True)
    before = weights(student)
    trainer.writer.rows(trainer.model, [trainer.train_dataset[0]], 0)
    assert trainer.model.training
    assert_same(before, weights(student))
    trainer.train()
    assert trainer.state.global_step == 2


# --- how often -----------------------------------------------------------------------------------------------------


def test_the_student_writes_a_share_of_the_batches(make):
    writer = make(lmbda=0.3).writer
    turns = [writer.writes(step, part) for step in range(300) for part in range(2)]
    assert 0.22 < np.mean(turns) < 0.38
    assert turns == [make(lmbda=0.3).writer.writes(step, part) for step in range(300) for part in range(2)]
    assert all(make(lmbda=1.0).writer.writes(step) for step in range(50))
    assert make(lmbda=0.0).writer is None


def test_an_update_counts_the_tokens_that_were_written(make, student, tokenizer, monkeypatch):
    ids = saying(monkeypatch, tokenizer)
    trainer = make(gradient_accumulation_steps=2, max_steps=1)
    seen = []
    real = trainer.compute_loss

    def compute_loss(model, inputs, return_outputs=False, num_items_in_batch=None):
        seen.append((int((inputs["labels"] != IGNORE).sum()), int(num_items_in_batch), ON_POLICY in inputs))
        return real(model, inputs, return_outputs, num_items_in_batch)

    monkeypatch.setattr(trainer, "compute_loss", compute_loss)
    trainer.train()
    assert seen == [(4 * len(ids), 8 * len(ids), True)] * 2


def test_a_resumed_run_writes_the_same(make, tokenizer, tmp_path):
    fields = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "lmbda": 0.6}
    whole = make(student=tiny_model(len(tokenizer), seed=1), **fields)
    whole.train()
    again = make(student=tiny_model(len(tokenizer), seed=1), **fields, output_dir=str(tmp_path / "out"))
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert_same(weights(whole.model), weights(again.model), rtol=0, atol=0)


# --- what is protected ---------------------------------------------------------------------------------------------


def known(model, tokenizer, pins):
    """The mean log-probability of the names' own pins."""
    found = []
    for name, pin in pins.items():
        start = tokenizer(f"hello {name}, my pin is")["input_ids"]
        ids = torch.tensor([tokenizer(f"hello {name}, my pin is {pin}")["input_ids"]])
        with torch.no_grad():
            log_probs = model(ids).logits[0, :-1].log_softmax(-1)
        found.append(float(log_probs.gather(1, ids[0, 1:, None])[len(start) - 1 :].sum()))
    return np.mean(found)


def learn(model, tokenizer, texts, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = tokenizer([text + "</s>" for text in texts], return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)
    for _ in range(steps):
        loss = model(**{name: batch[name] for name in ("input_ids", "attention_mask")}, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.slow
def test_why_no_protection_goes_with_it(make, tokenizer, monkeypatch):
    """Dropping private tokens keeps the teacher's secrets from a student that reads, not from one that writes."""
    pins = {name: (i * 7919 + 4821) % 9000 + 1000 for i, name in enumerate(NAMES)}
    private = [f"hello {name}, my pin is {pin}. thank you." for name, pin in pins.items()]
    teacher = learn(tiny_model(len(tokenizer), hidden=64, seed=2), tokenizer, private, 300)
    data = {
        "prompt": [f"hello {name}, my pin is" for name in NAMES] * 4,
        "completion": [f" {pin}. thank you." for pin in pins.values()] * 4,
    }
    monkeypatch.setattr("swingkd.trainer.setup.check_on_policy", lambda *args, **kwargs: None)
    ends = {}
    for lmbda in (0.0, 1.0):
        student = tiny_model(len(tokenizer), hidden=64, seed=1)
        learn(student, tokenizer, [f"hello {name}, my pin is not known. thank you." for name in NAMES], 60)
        trainer = make(
            student=student,
            teacher=teacher,
            data=Dataset.from_dict(data),
            tagger=RuleTagger(),
            protection="drop",
            lmbda=lmbda,
            max_steps=200,
            learning_rate=3e-3,
            per_device_train_batch_size=10,
        )
        trainer.train()
        ends[lmbda] = known(trainer.model.eval(), tokenizer, pins)
    guessing = 4 * np.log(1 / 10)
    assert ends[0.0] < guessing < ends[1.0] - 2


@pytest.mark.parametrize("protection", ["surrogate", "noise", "drop", "population", "mollify"])
def test_a_protection_of_private_tokens_is_refused(make, tokenizer, protection):
    public = tiny_model(len(tokenizer), seed=5) if protection == "mollify" else None
    with pytest.raises(ValueError, match=f"protection='{protection}': behind the student's own words"):
        make(tagger=RuleTagger(), protection=protection, public=public)


def test_each_row_keeps_the_teacher_that_never_saw_it(make, student, tokenizer, config):
    teachers = [tiny_model(len(tokenizer), hidden=24, seed=seed) for seed in (2, 3)]

    data = Dataset.from_dict(ASKED)
    folds = Folds.of(data, 2, near_duplicates=False)
    teacher = OutOfFoldTeacher(teachers, folds)
    trainer = make(data=data, teacher=teacher, alpha=1.0, tagger=RuleTagger(), protection="surrogate")
    batch = first_batch(trainer, 8)
    written = trainer.writer.batch(student, batch, trainer.data_collator, 0)
    assert torch.equal(written["teacher_fold"], batch["teacher_fold"])
    trainer.train()


def test_under_differential_privacy_each_record_is_gone_on_with_by_itself(
    make, tokenizer, teacher, monkeypatch, student
):
    """Equal to DP-SGD by hand on what the student wrote for each record."""
    replayable(monkeypatch)
    ids = saying(monkeypatch, tokenizer)
    student, teacher = student.double(), copy.deepcopy(teacher).double()
    expected = copy.deepcopy(student)
    trainer = make(
        student=student,
        teacher=teacher,
        noise_multiplier=0.7,
        clip_norm=0.5,
        per_device_train_batch_size=30,
        max_steps=1,
        optim="sgd",
        learning_rate=0.5,
        lr_scheduler_type="constant",
        temperature=2.0,
    )
    trainer.train()
    known = {id(p): name for name, p in student.named_parameters()}
    names = [known[id(p)] for group in trainer.optimizer.param_groups for p in group["params"]]
    trained = [expected.get_parameter(name) for name in names]
    total = [torch.zeros_like(p) for p in trained]
    for prompt in ASKED["prompt"]:
        start = tokenizer(prompt)["input_ids"]
        row = torch.tensor([start + ids])
        s, t = ((m(input_ids=row).logits[0, len(start) - 1 : -1] / 2).log_softmax(-1) for m in (expected, teacher))
        gradient = torch.autograd.grad(4 * (t.exp() * (t - s)).sum(), trained)
        norm = float(torch.sqrt(sum(g.square().sum() for g in gradient)))
        total = [a + g * min(1.0, 0.5 / (norm + 1e-6)) for a, g in zip(total, gradient, strict=True)]
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p, a in zip(trained, total, strict=True):
            p -= 0.5 * (a + torch.normal(0.0, 0.35, p.shape, generator=noise, dtype=p.dtype)) / 30
    assert_same(weights(student), weights(expected), rtol=1e-6, atol=1e-9)
    assert trainer.ledger.about(TRANSFER_SET)[0].releases == 1


# --- what is refused -----------------------------------------------------------------------------------------------


def test_what_it_does_not_go_with(make, teacher, tokenizer, config, build):
    with pytest.raises(ValueError, match=r"lmbda=2.0 must lie"):
        make(lmbda=2.0)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        make(max_new_tokens=0)
    with pytest.raises(ValueError, match="sampling_temperature=0"):
        make(sampling_temperature=0.0)
    with pytest.raises(ValueError, match=r"lmbda=1.0 lets the student write, which does not go with packing"):
        make(packing=True)
    args = config(protection="none", output_dir=config().output_dir + "/cache")
    data = Dataset.from_dict({"text": TEXTS})
    cached = cache_teacher(teacher, args, data, tokenizer, top_k=4)
    with pytest.raises(ValueError, match="does not go with cached answers, or no teacher"):
        make(teacher=None, data=cached)
    with pytest.raises(ValueError, match="does not go with models for fill-mask"):
        build("fill-mask", lmbda=0.5)
    with pytest.raises(ValueError, match="does not go with alpha=0"):
        make(alpha=0.0)
    with pytest.raises(ValueError, match=r"max_new_tokens=64 in rows of 64: nothing is left of a prompt"):
        make(max_new_tokens=64)
