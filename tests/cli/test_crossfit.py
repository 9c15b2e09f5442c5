"""swingkd crossfit, and a student of its teachers."""

import json
import os
import signal

import pytest
from datasets import load_from_disk
from typer.testing import CliRunner

from swingkd.cli import app
from swingkd.data.columns import FOLD
from swingkd.trainer.interruption import StopOnInterrupt
from swingkd.trainer.out_of_fold import FOLDS_FILE, OutOfFoldTeacher

runner = CliRunner()


def run(*words):
    result = runner.invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def words(project, monkeypatch):
    monkeypatch.chdir(project)
    rows = [{"text": f"{i} {chr(97 + i % 20)} my pin is {i * 37 % 9000 + 1000}", "patient": i // 2} for i in range(24)]
    (project / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = ["--base", "teacher", "--data", "notes.jsonl", "--config", "config.yaml", "--set", "save_steps=1"]
    return ["crossfit", *known, "--output-dir", "teachers"]


def test_teachers_are_trained_and_a_student_learns_from_them(words, project):
    code, output = run(*words, "--group-by", "patient", "--no-near-duplicates", "--rank", 2)
    assert code == 0, output
    assert "teachers holds 2 teachers: Folds(k=2, rows=[12, 12])" in output
    assert "swingkd distill --teacher teachers --student STUDENT --data notes.jsonl" in output
    folds = OutOfFoldTeacher.load("teachers").folds
    assert [int(fold) for fold in folds.of_row[::2]] == [int(fold) for fold in folds.of_row[1::2]]
    assert (project / "teachers" / FOLDS_FILE).stat().st_mode & 0o077 == 0
    student = ["--student", "student", "--data", "notes.jsonl", "--config", "config.yaml"]
    code, output = run("distill", "--teacher", "teachers", *student, "--output-dir", "out")
    assert code == 0, output
    assert "trained without the record" in output
    assert json.loads((project / "out" / "training_args.json").read_text())["alpha"] == 1
    code, output = run("distill", "--teacher", "teachers", *student, "--output-dir", "o", "--set", "alpha=0.5")
    assert (code, "--set alpha=1" in output) == (2, True), output
    code, output = run("cache-teacher", "--teacher", "teachers", "--data", "notes.jsonl", "--config", "config.yaml")
    assert code == 0, output
    assert load_from_disk("out/cache/private")[FOLD] == folds.of_row.tolist()
    student[3] = "out/cache/private"
    code, output = run("distill", *student, "--output-dir", "cached", "--plain", "--set", "alpha=1")
    assert code == 0, output


def test_ctrl_c_ends_a_step_and_the_command_goes_on(words, project, monkeypatch):
    ended = []
    inner = StopOnInterrupt.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        ended.append(state.global_step)
        if len(ended) == 3:  # the first step of the second teacher
            os.kill(os.getpid(), signal.SIGINT)
        inner(self, args, state, control, **kwargs)

    monkeypatch.setattr(StopOnInterrupt, "on_step_end", on_step_end)
    code, output = run(*words, "--rank", 2)
    assert code == 130, output
    assert "Run the same command with --resume" in output
    code, output = run(*words, "--rank", 2)
    assert (code, "Go on with --resume" in output) == (2, True), output
    code, output = run(*words, "--rank", 2, "--resume")
    assert code == 0, output
    assert ended == [1, 2, 1, 2]
    code, output = run(*words, "--rank", 0, "--resume")
    assert (code, "another adapted" in output) == (2, True), output
    code, output = run(*words, "--rank", 2, "--resume", "--group-by", "patient")
    assert (code, "was begun with --group-by None" in output) == (2, True), output
    code, output = run(*words, "--rank", 2, "--resume", "--k", 3)
    assert (code, "begun with 2 folds, not 3" in output) == (2, True), output


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--k", "1"], "--k 1 folds: give 2 or more"),
        (["--group-by", "person"], "--group-by person is no column"),
        (["--held-out", "2"], "to learn from"),
        (["--tagger", "model"], "Add --surrogates"),
        (["--rank", "-1"], "0 for whole models"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(words, project, more, says):
    code, output = run(*words, *more)
    assert code == 2
    assert says in output
    assert not (project / "teachers").exists() or not any((project / "teachers").glob("fold-*"))
