"""Text that the teachers write themselves: nobody's record, and answered by the one that did not write it."""

import json

import pytest
from datasets import Dataset
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
from swingkd.trainer import sampled
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
