import pytest
from typer.testing import CliRunner

from swingkd.cli import app

runner = CliRunner()


def test_help_lists_every_command():
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in (
        "quickstart",
        "canaries",
        "tag",
        "surrogates",
        "distill",
        "cache-teacher",
        "audit",
        "budget",
        "federate",
        "card",
        "env",
    ):
        assert command in result.output
        assert "Example" in runner.invoke(app, [command, "--help"]).output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["distill", "--student", "student", "--teacher", "teacher", "--data", "empty.jsonl"], "is empty"),
        (["cache-teacher", "--teacher", "teacher", "--data", "empty.jsonl"], "is empty"),
        (["canaries", "--data", "empty.jsonl"], "is empty"),
        (["canaries", "--data", "broken.jsonl"], "broken.jsonl:2: this line is no JSON"),
        (["canaries", "--data", "notes.jsonl", "--kind", "foo"], "--kind foo is not known"),
        (["canaries", "--data", "notes.jsonl", "--template", "{name} {secret} {x}"], "has {x}"),
        (["canaries", "--data", "notes.jsonl", "--repetitions", "0"], "must be positive"),
        (["canaries", "--data", "notes.jsonl", "--length", "400"], "--length 400 must lie"),
        (["canaries", "--data", "numbers.jsonl"], "'text' holds no text (int64)"),
        (["tag", "notes.jsonl", "--tagger", "no/where"], "There is no folder no/where"),
        (["tag", "numbers.jsonl", "--text-column", "note"], "has no column 'note' (it has text)"),
        (["distill", "--student", "student", "--teacher", "teacher", "--data", "numbers.jsonl"], "or no string"),
        (["tag", "notes.jsonl", "--tagger", "nope"], "error"),
        (["tag", "notes.jsonl", "--tagger", "student"], "error"),
        (["tag", "notes.jsonl", "--html", "notes.jsonl/x.html"], "notes.jsonl"),
        (["tag", "notes.jsonl", "--text-column", "note"], "Name another one: --text-column"),
        (["card", "student"], "student is a folder. Name a run's metrics.json"),
        (["card", "config.json"], "Name the metrics.json of a run"),
        (["budget", "1000", "--epsilon", "inf"], "--epsilon=inf must be finite"),
        (["distill", "--student", "student", "--data", "notes.jsonl", "--set", "max_steps=2.5"], "a whole number"),
        (["distill", "--student", "student", "--data", "notes.jsonl", "--set", "bf16=maybe"], "must be true or false"),
        (["distill", "--student", "student", "--data", "notes.jsonl", "--set", "max_step=1"], "mean --set max_steps?"),
        (
            [
                "distill",
                "--student",
                "student",
                "--teacher",
                "teacher",
                "--data",
                "notes.jsonl",
                "--task",
                "fill-mask",
            ],
            "cannot be loaded as AutoModelForMaskedLM",
        ),
    ],
)
def test_wrong_input_is_one_clear_line(project, monkeypatch, words, says):
    monkeypatch.chdir(project)
    (project / "empty.jsonl").touch()
    (project / "numbers.jsonl").write_text('{"text": 5}\n')
    (project / "config.json").write_text('{"exposure": null}')
    (project / "broken.jsonl").write_text('{"text": "my pin is 4711"}\n{"text": \n')
    result = runner.invoke(app, words)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert says in line
    assert "4711" not in line


@pytest.mark.parametrize("name", ["./nix", "out/nothere", "nix"])
@pytest.mark.parametrize("command", ["distill", "audit", "cache-teacher"])
def test_a_model_that_is_not_there(project, monkeypatch, command, name):
    monkeypatch.chdir(project)
    words = {
        "distill": ["--teacher", "teacher", "--student", name, "--data", "notes.jsonl"],
        "audit": ["--model", name, "--pii", "notes.jsonl"],
        "cache-teacher": ["--teacher", name, "--data", "notes.jsonl"],
    }
    result = runner.invoke(app, [command, *words[command]])
    assert result.exit_code == 2
    assert f"error: There is no folder {name}, and the Hub gave no model" in result.stderr


def test_completion_is_there():
    result = runner.invoke(app, ["--help"])
    assert "--install-completion" in result.output
