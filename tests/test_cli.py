import json

import pytest
import yaml
from typer.testing import CliRunner

from swingkd.cli import app, recipes_dir
from swingkd.report import MetricsFile, row

runner = CliRunner()


def test_help_lists_every_command():
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("quickstart", "distill", "cache-teacher", "tag", "card"):
        assert command in result.output
        assert "Example:" in runner.invoke(app, [command, "--help"]).output


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
    assert "cannot read no-such-file.txt" in result.output


@pytest.mark.parametrize("content", [b'{"text": null}\n', b"[1]\n", b"{\n", b"\xff\xfe"])
def test_tag_of_broken_rows_is_one_clear_line(tmp_path, content):
    (tmp_path / "notes.jsonl").write_bytes(content)
    result = runner.invoke(app, ["tag", str(tmp_path / "notes.jsonl")])
    assert result.exit_code == 2
    assert "cannot read" in result.output


@pytest.fixture
def project(tmp_path, student, teacher, tokenizer, texts):
    """A folder with a student, a teacher, notes.jsonl and config.yaml."""
    for name, model in (("student", student), ("teacher", teacher)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    texts.to_json(tmp_path / "notes.jsonl")
    fields = {"max_steps": 2, "max_length": 64, "use_cpu": True, "report_to": [], "population_min_spans": 2}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(fields))


@pytest.mark.usefixtures("project")
def test_distill_trains_and_saves_a_student(tmp_path):
    command = [
        "distill", "--teacher", str(tmp_path / "teacher"), "--student", str(tmp_path / "student"), "--data",
        str(tmp_path / "notes.jsonl"), "--output-dir", str(tmp_path / "out"),
        "--config", str(tmp_path / "config.yaml"),
    ]  # fmt: skip
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "model.safetensors").exists()
    wrong = runner.invoke(app, [*command, "--protection", "magic"])
    assert wrong.exit_code == 2
    assert "protection='magic' is not known" in wrong.output
    (tmp_path / "notes.jsonl").write_text("{")
    broken = runner.invoke(app, command)
    assert broken.exit_code == 2
    assert "error:" in broken.output


@pytest.mark.usefixtures("project")
def test_cache_a_teacher_and_distil_without_it(tmp_path):
    public = [f"good day, your pin is {i * 37 % 9000 + 1000}." for i in range(30)]
    (tmp_path / "public.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in public))
    options = ["--config", str(tmp_path / "config.yaml")]
    cache = [
        "cache-teacher", "--teacher", str(tmp_path / "teacher"), *options, "--output-dir", str(tmp_path / "cache"),
    ]  # fmt: skip
    for more in (["--data", str(tmp_path / "notes.jsonl")],
                 ["--data", str(tmp_path / "public.jsonl"), "--protect", "noise",
                  "--private-data", str(tmp_path / "notes.jsonl")]):  # fmt: skip
        result = runner.invoke(app, [*cache, *more])
        assert result.exit_code == 0, result.output
        assert ("no differential privacy" in result.output.replace("\n", " ")) is ("--protect" in more)
        written = tmp_path / "cache" / ("protected" if "--protect" in more else "private")
        train = ["distill", "--student", str(tmp_path / "student"), "--data", str(written)]
        result = runner.invoke(app, [*train, "--output-dir", str(tmp_path / "out"), *options])
        assert result.exit_code == 0, result.output
        again = runner.invoke(app, [*cache, *more])
        assert again.exit_code == 2
        assert "exists already" in again.output
    cache[-1] = str(tmp_path / "other")
    private = str(tmp_path / "notes.jsonl")
    refused = runner.invoke(app, [*cache, "--data", private, "--protect", "noise", "--private-data", private])
    assert refused.exit_code == 2
    assert "60 of 60 rows of the transfer set share private text" in refused.output.replace("\n", " ")


def test_card_from_metrics(tmp_path):
    MetricsFile(tmp_path / "metrics.json", "r", {}).add(
        [
            row("kd", "transfer=A seed=0 split=test", "perplexity", 3.0),
            row("kd", "transfer=A seed=0 repetitions=10", "exposure", 3.0, 2.0, 4.0, 20),
        ]
    )
    assert runner.invoke(app, ["card", str(tmp_path / "metrics.json")]).exit_code == 0
    assert (tmp_path / "README.md").exists()
    (tmp_path / "empty").mkdir()
    MetricsFile(tmp_path / "empty" / "metrics.json", "r", {}).add([])
    result = runner.invoke(app, ["card", str(tmp_path / "empty" / "metrics.json")])
    assert result.exit_code == 2
    assert "measured nothing yet" in result.output


@pytest.mark.parametrize("recipe", ["quickstart", "swing_clm"])
def test_recipes_are_where_the_command_looks(recipe):
    assert (recipes_dir() / recipe / "run.py").exists()
