"""What a stranger tries on the command line: other endings, other columns, what is printed as next, a dry run."""

import gzip
import json
import shlex
import shutil
import zipfile

import pytest
from datasets import load_from_disk
from safetensors.torch import load_file
from typer.testing import CliRunner

from swingkd import __version__
from swingkd.cli import app
from tests.harness import TEXTS
from tests.models.served import Served, serving

runner = CliRunner()
ROWS = [{"text": text} for text in TEXTS]


def written(folder, name):
    """Write the rows into a file of any ending."""
    lines = "\n".join(map(json.dumps, ROWS)) + "\n"
    path = folder / name
    ending = name.lower()
    if ending.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif ending.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("rows.jsonl", lines)
    elif ending.endswith((".csv", ".tsv")):
        path.write_text("\n".join(["text", *(f'"{row["text"]}"' for row in ROWS)]))
    elif ending.endswith(".txt"):
        path.write_text("\n".join(TEXTS))
    else:
        path.write_text(lines)
    return path


def distil(project, data, *more, out="out"):
    words = ["distill", "--teacher", str(project / "teacher"), "--student", str(project / "student")]
    words += ["--data", str(data), "--config", str(project / "config.yaml"), "--output-dir", str(project / out)]
    return runner.invoke(app, [*words, *more])


@pytest.mark.parametrize("words", [["--version"], ["-h"], ["distill", "-h"], ["budget", "--help"]])
def test_version_and_help(words):
    result = runner.invoke(app, words)
    assert result.exit_code == 0
    assert __version__ in result.output or "Usage" in result.output


def test_help_shows_the_defaults_in_brackets():
    assert "[out/student]" in runner.invoke(app, ["distill", "-h"], env={"COLUMNS": "200"}).output


@pytest.mark.parametrize("name", ["r.tsv", "r.jsonl.gz", "r.zip", "R.JSONL", "R.CSV", "r.ndjson", "a [b] *.jsonl"])
def test_files_of_any_ending_are_read(project, name):
    path = written(project, name)
    result = runner.invoke(app, ["tag", str(path), "--json"])
    assert result.exit_code == 0, result.output
    shown = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in shown] == TEXTS
    result = runner.invoke(app, ["canaries", "--data", str(path), "--output-dir", str(project / "c"), "--count", "2"])
    assert result.exit_code == 0, result.output


def test_a_file_that_is_here_is_asked_for_nowhere_else(project, monkeypatch):
    def asked(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", asked)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", asked)
    (project / "rows.foo").write_text("hello")
    for name, says in (("rows.foo", "how to read it is not known"), ("nowhere.jsonl", "There is no file")):
        result = distil(project, project / name)
        assert result.exit_code == 2
        assert says in " ".join(result.output.split())


def test_the_text_may_stand_in_another_column(project):
    lines = [json.dumps({"note": text, "text": "nothing"}) for text in TEXTS]
    (project / "other.jsonl").write_text("\n".join(lines))
    data = project / "other.jsonl"
    result = distil(project, data, "--text-column", "note")
    assert result.exit_code == 0, result.output
    assert "It flags" in result.output
    for command in (
        ["tag", str(data)],
        ["audit", "--model", str(project / "out"), "--members", str(data), "--nonmembers", str(data)],
    ):
        right = runner.invoke(app, [*command, "--text-column", "note"])
        wrong = runner.invoke(app, [*command, "--text-column", "body"])
        assert "--text-column" in wrong.output
        assert wrong.exit_code == 2
        assert "no column" not in right.output, right.output


def test_the_command_that_is_printed_runs_as_printed(project, monkeypatch):
    blank = project / "a folder"
    blank.mkdir()
    shutil.copy(project / "notes.jsonl", blank / "notes.jsonl")
    (blank / "held out.jsonl").write_text("\n".join(json.dumps({"text": t.replace("hello", "dear")}) for t in TEXTS))
    result = distil(
        project, blank / "notes.jsonl", "--eval-data", str(blank / "held out.jsonl"), out="a folder/student"
    )
    assert result.exit_code == 0, result.output
    printed = next(line for line in result.output.splitlines() if line.startswith("  swingkd "))
    monkeypatch.chdir(project)
    done = runner.invoke(app, shlex.split(printed)[1:])
    assert done.exit_code == 0, done.output
    assert "membership" in (blank / "student" / "README.md").read_text().lower()


def test_a_dry_run_says_what_would_happen_and_leaves_nothing(project):
    before = load_file(project / "student" / "model.safetensors")
    result = distil(project, project / "notes.jsonl", "--dry-run")
    assert result.exit_code == 0, result.output
    for words in ("Rows: 60", "Protection of private tokens: surrogate", "It flags", "for 2 steps", "Memory:"):
        assert words in result.output, words
    assert "Nothing was trained" in result.output
    assert not (project / "out").exists()
    after = load_file(project / "student" / "model.safetensors")
    assert all((before[name] == after[name]).all() for name in before)
    private = distil(
        project, project / "notes.jsonl", "--dry-run", "--set", "target_epsilon=8", "--set", "max_steps=4"
    )
    assert private.exit_code == 0, private.output
    assert "for 4 steps" in private.output
    wrong = distil(project, project / "notes.jsonl", "--dry-run", "--set", "max_length=9999")
    assert wrong.exit_code == 2
    assert "--set max_length=256 or less" in " ".join(wrong.output.split())


def test_a_teacher_behind_a_server(project, teacher, tokenizer):
    with serving(Served(teacher, tokenizer)) as url:
        words = ["cache-teacher", "--teacher", url, "--tokenizer", str(project / "teacher"), "--top-k", "20"]
        words += ["--data", str(project / "notes.jsonl"), "--output-dir", str(project / "cache")]
        result = runner.invoke(app, [*words, "--config", str(project / "config.yaml")])
    assert result.exit_code == 0, result.output
    rows = load_from_disk(project / "cache" / "private")
    assert len(rows) == 60
    words = ["distill", "--student", str(project / "student"), "--data", str(project / "cache" / "private")]
    words += ["--config", str(project / "config.yaml"), "--output-dir", str(project / "out")]
    result = runner.invoke(app, [*words, "--set", "noise_support=20"])
    assert result.exit_code == 0, result.output


def test_an_audit_foretells_its_time(project):
    words = [
        "audit",
        "--model",
        str(project / "teacher"),
        "--pii",
        str(project / "notes.jsonl"),
        "--out",
        str(project),
    ]
    result = runner.invoke(app, [*words, "--quick", "--samples", "16", "--limit", "8", "--candidates", "3"])
    assert result.exit_code == 0, result.output
    assert "The search for private values takes about" in result.output
    report = json.loads((project / "report.json").read_text())
    assert report["extraction"]["values"]["samples"] == 4
    assert report["extraction"]["inference"]["right"]["n"] == 2
    assert runner.invoke(
        app, ["audit", "--model", "x", "--canaries", str(project / "config.yaml"), "--quick"]
    ).exit_code
