import json

import pytest
from typer.testing import CliRunner

from swingkd import CanarySet
from swingkd.cli import app

runner = CliRunner()


def test_tag_prints_what_it_found():
    result = runner.invoke(app, ["tag"], input="My pin is 4711.\nhello\n")
    assert result.exit_code == 0
    assert "4711 ID_NUMBER" in result.output


def test_tag_writes_json_lines(tmp_path):
    (tmp_path / "notes.jsonl").write_text(json.dumps({"note": "My pin is 4711."}) + "\n")
    result = runner.invoke(app, ["tag", str(tmp_path / "notes.jsonl"), "--text-column", "note", "--json"])
    assert json.loads(result.output) == {
        "text": "My pin is 4711.",
        "spans": [{"start": 10, "end": 14, "label": "ID_NUMBER", "likelihood": 1.0}],
    }


def test_tag_of_a_missing_file_is_one_clear_line():
    result = runner.invoke(app, ["tag", "no-such-file.txt"])
    assert result.exit_code == 2
    assert result.output == "error: There is no file no-such-file.txt.\n"


@pytest.mark.parametrize("content", [b'{"text": null}\n', b"[1]\n", b"{\n", b"\xff\xfe"])
def test_tag_of_broken_rows_is_one_clear_line(tmp_path, content):
    (tmp_path / "notes.jsonl").write_bytes(content)
    result = runner.invoke(app, ["tag", str(tmp_path / "notes.jsonl")])
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert "notes.jsonl" in result.output
    assert len(result.output.splitlines()) == 1


def test_tag_never_quotes_what_it_cannot_read(tmp_path):
    (tmp_path / "notes.bin").write_bytes(b"my secret pin is 4711 \xff\xfe rest")
    result = runner.invoke(app, ["tag", str(tmp_path / "notes.bin")])
    assert result.exit_code == 2
    assert "not UTF-8 (byte 22)" in result.output
    assert "4711" not in result.output


def test_canaries_are_put_into_text(tmp_path, texts):
    texts.to_json(tmp_path / "notes.jsonl")
    command = [
        "canaries",
        "--data",
        str(tmp_path / "notes.jsonl"),
        "--output-dir",
        str(tmp_path / "out"),
        "--count",
        "3",
        "--repetitions",
        "2",
        "--length",
        "4",
    ]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    canaries = CanarySet.load(tmp_path / "out" / "_private" / "canaries.json")
    assert [canary.repetitions for canary in canaries.canaries] == [2, 2, 2, 0, 0, 0]
    rows = [json.loads(line)["text"] for line in (tmp_path / "out" / "with_canaries.jsonl").read_text().splitlines()]
    assert len(rows) == len(texts) + 6
    assert sum(canaries.canaries[0].text in row for row in rows) == 2
    assert not any(canary.secret in result.output for canary in canaries.canaries)
    again = runner.invoke(app, command)
    assert again.exit_code == 2
    assert "exists already" in again.output
    wrong = runner.invoke(app, [*command[:4], str(tmp_path / "x"), "--template", "no place for it"])
    assert wrong.exit_code == 2
    assert "{secret}" in wrong.output


def test_tag_writes_a_page_that_masks(tmp_path):
    (tmp_path / "notes.txt").write_text("My pin is 4711, and\nnothing here.\n")
    result = runner.invoke(app, ["tag", str(tmp_path / "notes.txt"), "--html", str(tmp_path / "notes.html")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "notes.html").read_text()
    assert "4711" not in page
    assert "ID_NUMBER, likelihood 1.00, temperature 16.0" in page


def test_both_texts_side_by_side(tmp_path):
    source, page = tmp_path / "notes.txt", tmp_path / "page.html"
    source.write_text("My pin is 4711. So it is 4711, write to ann.smith@gmail.com.\nNothing to see.\n")
    shown = runner.invoke(app, ["tag", str(source), "--surrogates"])
    assert shown.exit_code == 0, shown.output
    real, made, nothing = [line for line in shown.output.split("\n") if line.strip()]
    # The second mention, which no rule finds, as well.
    assert real.count("4711 ID_NUMBER") == 2
    assert "4711" not in made
    assert "ann.smith" not in made
    assert made.startswith("My pin is ")
    assert nothing == "Nothing to see."
    assert runner.invoke(app, ["tag", str(source), "--surrogates", "--html", str(page)]).exit_code == 0
    html = page.read_text()
    assert "4711" not in html
    assert html.count("<ins title=") == 3
    assert html.count("Nothing to see.") == 2
    refused = runner.invoke(app, ["tag", str(source), "--surrogates", "--json"])
    assert refused.exit_code == 2
    assert "swingkd surrogates writes the new text" in " ".join(refused.output.split())
