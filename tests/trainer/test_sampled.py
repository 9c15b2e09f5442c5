"""Text that the teachers write themselves: nobody's record, and answered by the one that did not write it."""

import hashlib
import json

import pytest
import torch
from datasets import Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from typer.testing import CliRunner

from swingkd import (
    Folds,
    OutOfFoldTeacher,
    PrivateDistillationConfig,
    PrivateDistillationTrainer,
    sample_transfer,
    train_out_of_fold,
)
from swingkd.cli import app
from swingkd.data.columns import FOLD
from swingkd.models.loading import placed
from swingkd.privacy import NO_TEACHER, TEACHER_DATA, LedgerEntry, PrivacyLedger
from swingkd.trainer import sampled
from swingkd.trainer.check_cache import shares_text
from tests.harness import NAMES, tiny_model

LINES = [
    f"{word} {name}, my pin is {i}{j}."
    for i, word in enumerate(("hello", "bye", "dear"))
    for j, name in enumerate(NAMES)
]
COPIED = "my word is apple river stone cloud green table winter paper."


@pytest.fixture(scope="module")
def rows():
    return Dataset.from_dict({"text": [*LINES * 2, *[COPIED] * 12]}).shuffle(seed=0)


@pytest.fixture(scope="module", params=["whole", "adapters"])
def folder(request, rows, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    tiny_model(len(tokenizer), hidden=32, seed=0).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    args = PrivateDistillationConfig(
        str(folder / "teachers"), max_steps=60, learning_rate=1e-2, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no", per_device_train_batch_size=16,
    )  # fmt: skip
    lora = LoraConfig(r=16, lora_alpha=64, target_modules="all-linear") if request.param == "adapters" else None
    folds = Folds.of(rows, 2, near_duplicates=False, seed=1)
    train_out_of_fold(str(folder / "base"), args, rows, tokenizer, folds=folds, peft_config=lora)
    return folder / "teachers"


def drawn_from(teacher, tokenizer, rows):
    lengths = {"max_new_tokens": 24, "least_tokens": 2, "run": 9}
    return sample_transfer(
        teacher, tokenizer, 30, rows["text"], temperature=1.3, bound=80.0, seed=3, progress=False, **lengths
    )


def test_each_text_is_answered_by_the_teacher_that_did_not_write_it(folder, rows, tokenizer, student, config):
    teacher = OutOfFoldTeacher.load(folder)
    drawn, report = drawn_from(teacher, tokenizer, rows)
    assert len(drawn) == report.kept == 30
    assert set(drawn[FOLD]) == {0, 1}
    assert len(set(drawn["text"])) == 30
    assert sum(report.to_dict().values()) - report.drawn >= report.kept
    # No run of words of a private record is left, so not the text that was copied.
    assert not any("apple river stone" in text for text in drawn["text"])
    trainer = PrivateDistillationTrainer(
        student,
        config(alpha=1.0, protection="none"),
        teacher_model=teacher,
        train_dataset=drawn,
        processing_class=tokenizer,
    )
    assert trainer.train_dataset[FOLD] == drawn[FOLD]
    trainer.train()
    again, _ = drawn_from(teacher, tokenizer, rows)
    assert again["text"][:] == drawn["text"][:]


def test_what_only_its_writer_knows_is_left_out(folder, tokenizer):
    teacher = OutOfFoldTeacher.load(folder).eval()
    (unseen_by,) = set(teacher.folds.of_texts([COPIED]).tolist())
    if teacher.adapted:
        return  # so short a training leaves nothing to know by heart
    for writer in (0, 1):
        drawing = sampled._Drawing(teacher, tokenizer, None, 1, 13, 5.0)
        drawing.add([COPIED], writer)
        # The other one was trained on it, and knows it by heart.
        assert drawing.counts["memorised"] == (writer != unseen_by)


def test_a_public_base_writes_too(tokenizer):
    drawn, report = sample_transfer(
        tiny_model(len(tokenizer), seed=1), tokenizer, 5, max_new_tokens=12, temperature=2.0, progress=False
    )
    assert drawn.column_names == ["text"]
    assert report.memorised == report.copies == 0


def test_the_command(folder, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows["text"]))
    words = ["sample", "--teacher", str(folder), "--private", "notes.jsonl", "--count", "6"]
    words += ["--max-new-tokens", "24", "--temperature", "1.5", "--bound", "80"]
    result = CliRunner().invoke(app, [*words, "--output", "sampled.jsonl"])
    assert result.exit_code == 0, result.output
    assert "sampled texts are kept" in result.output
    drawn = [json.loads(line) for line in (tmp_path / "sampled.jsonl").read_text().splitlines()]
    assert len(drawn) == 6
    assert (tmp_path / "sampled.jsonl").stat().st_mode & 0o077 == 0
    result = CliRunner().invoke(app, [*words, "--output", "sampled.txt"])
    assert (result.exit_code, "must end in .jsonl" in result.output) == (2, True)


def test_the_command_says_what_holds_for_the_text(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model(len(tokenizer), seed=1).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words = ["sample", "--teacher", "model", "--count", "3", "--max-new-tokens", "12", "--output", "sampled.jsonl"]
    result = CliRunner().invoke(app, words)
    assert "unless the teacher is public, name them with --private" in " ".join(result.output.split())
    entry = LedgerEntry("randomized response", pure_epsilon=2.0, releases=1)
    PrivacyLedger([entry], unknown={TEACHER_DATA: NO_TEACHER}).seal(tmp_path / "model")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "promises holds for this text too" in output
    assert "epsilon 2" in output
    # What is compared with private records depends on them.
    (tmp_path / "notes.jsonl").write_text(json.dumps({"text": "my pin is 1"}) + "\n")
    result = CliRunner().invoke(app, [*words, "--private", "notes.jsonl"])
    output = " ".join(result.output.split())
    assert result.exit_code == 0, output
    assert "no promise of the teacher's covers" in output
    assert "epsilon" not in output


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"count": 0}, "at least 1"), ({"least_tokens": 30}, "at least 1"), ({"prompts": []}, "at least 1"),
     ({"temperature": 0.0}, "be positive"), ({"top_p": 1.5}, "top_p")],
)  # fmt: skip
def test_bad_input_is_refused(fields, says, tokenizer):
    with pytest.raises(ValueError, match=says):
        sample_transfer(
            tiny_model(len(tokenizer)), tokenizer, **{"count": 2, "max_new_tokens": 12, "progress": False} | fields
        )


def test_three_teachers_share_what_they_saw(tokenizer):
    with pytest.raises(ValueError, match="Train two"):
        sample_transfer(OutOfFoldTeacher([tiny_model(len(tokenizer), seed=i) for i in range(3)]), tokenizer, 2)


def kept_of(rate):
    """Return a detector that lets so large a share of the texts pass."""

    def left_out(self, name, texts, wrong):
        passed = [text for text in texts if name != "memorised" or hash_of(text) % 1000 < 1000 * rate]
        self.counts[name] += len(texts) - len(passed)
        return passed

    return left_out


def hash_of(text):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


@pytest.mark.parametrize("rate", [0.8, 0.3])
def test_as_many_texts_are_drawn_as_are_to_stay(rate, tokenizer, monkeypatch):
    """Of a fifth that is left out, something is missing after any number of rounds that draw what is missing."""
    teacher = OutOfFoldTeacher([tiny_model(len(tokenizer), seed=i) for i in range(2)])
    monkeypatch.setattr(sampled._Drawing, "_left_out", kept_of(rate))
    drawn, report = sample_transfer(
        teacher, tokenizer, 400, max_new_tokens=10, least_tokens=1, temperature=2.0, seed=1, progress=False
    )
    assert len(drawn) == 400
    assert report.drawn < 1.5 * 400 / rate
    monkeypatch.setattr(sampled._Drawing, "_left_out", kept_of(0.0))
    with pytest.raises(ValueError, match="Only 0 of 20 texts were left"):
        sample_transfer(teacher, tokenizer, 20, max_new_tokens=10, least_tokens=1, seed=1, progress=False)


def naive_sharing(row, known, shortest, length=13):
    """By plain lists: a run of so many tokens; or all of a shorter one inside the other."""

    def inside(part, whole):
        return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))

    if row == known and row:
        return True
    for short, other in ((row, known), (known, row)):
        if shortest <= len(short) < length and inside(short, other):
            return True
    return any(inside(row[i : i + length], known) for i in range(len(row) - length + 1))


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_copies_are_found_whole_or_in_part(data):
    tokens = st.lists(st.integers(0, 1), max_size=18)
    rows, known = data.draw(st.lists(tokens, min_size=1, max_size=4)), data.draw(st.lists(tokens, max_size=3))
    kind = Features({"input_ids": List(Value("int64"))})
    data_sets = [Dataset.from_dict({"input_ids": of}, features=kind) for of in (rows, known)]
    for shortest in (None, 4):
        expected = [any(naive_sharing(row, one, shortest or 13) for one in known) for row in rows]
        assert shares_text(*data_sets, shortest=shortest).tolist() == expected


def test_a_short_record_inside_a_longer_text_is_a_copy(tokenizer):
    private, sampled_text = "My pin is 4711, thanks a lot.", "Hello. My pin is 4711, thanks a lot. Bye now, see you."
    drawing = sampled._Drawing(tiny_model(len(tokenizer)), tokenizer, [private, "Thank you."], 1, 13, 5.0)
    drawing.add([sampled_text, "Thank you. And how are you all today, my dear old friends?"], 0)
    assert drawing.counts["copies"] == 1
    assert drawing.rows["text"][:] == ["Thank you. And how are you all today, my dear old friends?"]


def test_the_command_samples_on_the_gpu(tokenizer, monkeypatch):
    moved = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: moved.append((self, device)))
    model = tiny_model(len(tokenizer))
    assert placed(model) is model
    model.hf_device_map = {"": 0}
    placed(model)
    assert moved == [(model, "cuda")]
