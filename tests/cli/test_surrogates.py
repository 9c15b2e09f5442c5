import json
import os

import pytest
from datasets import Dataset
from typer.testing import CliRunner

from swingkd.cli import app

runner = CliRunner()


@pytest.fixture
def notes(tmp_path):
    texts = ["my account number is 48213774. bye", "so 48213774 it was; mail ann@gmail.com", "nothing here"]
    Dataset.from_dict({"note": texts, "id": [1, 2, 3]}).to_json(tmp_path / "notes.jsonl")
    return tmp_path / "notes.jsonl"


def run(*words):
    return runner.invoke(app, ["surrogates", *map(str, words)])


def rows_of(folder):
    return [json.loads(line) for line in (folder / "with_surrogates.jsonl").read_text().splitlines()]


def test_text_is_written_without_real_values(notes, tmp_path):
    command = ["--data", notes, "--text-column", "note", "--output-dir", tmp_path / "out"]
    result = run(*command)
    assert result.exit_code == 0, result.output
    rows = rows_of(tmp_path / "out")
    assert [len(row["spans"]) for row in rows] == [1, 2, 0]
    assert set(rows[0]) == {"note", "spans"}
    text = (tmp_path / "out" / "with_surrogates.jsonl").read_text()
    for value in ("48213774", "ann@gmail.com"):
        assert value not in text
        assert value not in result.output
    assert "EMAIL_ADDRESS" in result.output
    assert "3 values" in result.output
    assert os.stat(tmp_path / "out" / "_private" / "surrogate_key").st_mode & 0o777 == 0o600
    # Again, it is the same text.
    assert run(*command).exit_code == 0
    assert rows_of(tmp_path / "out") == rows


def test_only_one_kind(notes, tmp_path):
    command = ["--data", notes, "--text-column", "note", "--output-dir", tmp_path / "out", "--kind", "EMAIL_ADDRESS"]
    assert run(*command).exit_code == 0
    assert "48213774" in rows_of(tmp_path / "out")[0]["note"]


def test_spans_of_the_data(tmp_path):
    spans = [[{"start": 0, "end": 3, "label": "PERSON"}]]
    Dataset.from_dict({"text": ["Ann came"], "spans": spans}).to_json(tmp_path / "rows.jsonl")
    result = run("--data", tmp_path / "rows.jsonl", "--output-dir", tmp_path / "out")
    assert "the data's spans" in " ".join(result.output.split())
    assert rows_of(tmp_path / "out")[0]["text"].split()[0] != "Ann"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "has no column 'text' (it has note, id)"),
        (["--text-column", "id"], "Row 0 has no text in id"),
        (["--text-column", "note", "--locale", "xx"], "locale='xx' is not one of Faker's"),
    ],
)
def test_mistakes_are_told(notes, tmp_path, words, says):
    result = run("--data", notes, "--output-dir", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert says in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out" / "with_surrogates.jsonl").exists()
