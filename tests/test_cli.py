import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import AutoTokenizer
from typer.testing import CliRunner

from swingkd import CanarySet
from swingkd.audit.loading import load_model
from swingkd.cli import app
from swingkd.files import recipes_dir
from swingkd.report import MetricsFile, Row
from tests.conftest import train_tokenizer
from tests.decentralized.conftest import config_of

runner = CliRunner()


def test_help_lists_every_command():
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in (
        "quickstart",
        "canaries",
        "tag",
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
    assert result.output == "error: no-such-file.txt: No such file or directory\n"


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


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["distill", "--student", "student", "--teacher", "teacher", "--data", "empty.jsonl"], "is empty"),
        (["cache-teacher", "--teacher", "teacher", "--data", "empty.jsonl"], "is empty"),
        (["canaries", "--data", "empty.jsonl"], "is empty"),
        (["canaries", "--data", "broken.jsonl"], "broken.jsonl:2: this line is no JSON"),
        (["canaries", "--data", "notes.jsonl", "--kind", "foo"], "kind='foo' is not known"),
        (["canaries", "--data", "notes.jsonl", "--template", "{name} {secret} {x}"], "has {x}"),
        (["canaries", "--data", "notes.jsonl", "--repetitions", "0"], "must be positive"),
        (["canaries", "--data", "notes.jsonl", "--length", "400"], "length=400 must lie"),
        (["canaries", "--data", "numbers.jsonl"], "'text' holds no text (int64)"),
        (["tag", "notes.jsonl", "--tagger", "no/where"], "There is no folder no/where"),
        (["tag", "numbers.jsonl", "--text-column", "note"], "has no 'note' (text)"),
        (["distill", "--student", "student", "--teacher", "teacher", "--data", "numbers.jsonl"], "or no string"),
        (["tag", "notes.jsonl", "--tagger", "nope"], "error"),
        (["tag", "notes.jsonl", "--tagger", "student"], "error"),
        (["tag", "notes.jsonl", "--html", "notes.jsonl/x.html"], "notes.jsonl"),
        (["tag", "notes.jsonl", "--text-column", "note"], "Set --text-column"),
        (["card", "student"], "student is a folder. Name a run's metrics.json"),
        (["card", "config.json"], "Name the metrics.json of a run"),
        (["budget", "1000", "--epsilon", "inf"], "epsilon=inf must be positive and finite"),
        (["distill", "--student", "student", "--data", "notes.jsonl", "--set", "max_steps=2.5"], "a whole number"),
        (["distill", "--student", "student", "--data", "notes.jsonl", "--set", "bf16=maybe"], "must be true or false"),
        (["distill", "--student", "student", "--data", "notes.jsonl", "--set", "max_step=1"], "mean max_steps?"),
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


def test_small_numbers_may_be_written_as_anywhere_else(project, monkeypatch):
    monkeypatch.chdir(project)
    words = ["--student", "student", "--teacher", "teacher", "--data", "notes.jsonl", "--config", "config.yaml"]
    changes = ["--set", "learning_rate=1e-4", "--set", "alpha=1e-1", "--set", "max_steps=1"]
    result = runner.invoke(app, ["distill", *words, *changes, "--output-dir", "out"])
    assert result.exit_code == 0, result.output
    settings = json.loads((project / "out" / "training_args.json").read_text())
    assert (settings["learning_rate"], settings["alpha"]) == (1e-4, 0.1)


@pytest.fixture
def project(tmp_path, student, teacher, tokenizer, texts):
    """A folder with a student, a teacher, notes.jsonl and config.yaml."""
    for name, model in (("student", student), ("teacher", teacher)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    texts.to_json(tmp_path / "notes.jsonl")
    fields = {"max_steps": 2, "max_length": 64, "use_cpu": True, "report_to": [], "population_min_spans": 2}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(fields))
    return tmp_path


@pytest.mark.usefixtures("project")
def test_distill_trains_and_saves_a_student(tmp_path):
    command = [
        "distill",
        "--teacher",
        str(tmp_path / "teacher"),
        "--student",
        str(tmp_path / "student"),
        "--data",
        str(tmp_path / "notes.jsonl"),
        "--output-dir",
        str(tmp_path / "out"),
        "--config",
        str(tmp_path / "config.yaml"),
    ]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert "transfer set: not covered" in result.output
    private = "noise_multiplier: 1.0\nper_device_train_batch_size: 2\nprotection: noise\n"
    (tmp_path / "private.yaml").write_text((tmp_path / "config.yaml").read_text() + private)
    again = runner.invoke(app, command)
    assert again.exit_code == 2
    assert "holds checkpoints. Go on with --resume" in " ".join(again.output.split())
    other = runner.invoke(app, [*command, "--resume", "--protection", "drop"])
    assert other.exit_code == 2
    assert "was written with protection='population' (now 'drop')" in " ".join(other.output.split())
    command[command.index("--output-dir") + 1] = str(tmp_path / "private")
    result = runner.invoke(app, [*command, "--config", str(tmp_path / "private.yaml")])
    assert result.exit_code == 0, result.output
    assert "for each record (add or remove one)" in result.output
    command[command.index("--output-dir") + 1] = str(tmp_path / "wrong")
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
        "cache-teacher",
        "--teacher",
        str(tmp_path / "teacher"),
        *options,
        "--output-dir",
        str(tmp_path / "cache"),
    ]
    for more in (
        ["--data", str(tmp_path / "notes.jsonl")],
        [
            "--data",
            str(tmp_path / "public.jsonl"),
            "--protect",
            "noise",
            "--private-data",
            str(tmp_path / "notes.jsonl"),
        ],
    ):
        result = runner.invoke(app, [*cache, *more])
        assert result.exit_code == 0, result.output
        assert ("no differential privacy" in result.output.replace("\n", " ")) is ("--protect" in more)
        written = tmp_path / "cache" / ("protected" if "--protect" in more else "private")
        train = ["distill", "--student", str(tmp_path / "student"), "--data", str(written)]
        result = runner.invoke(app, [*train, "--output-dir", str(tmp_path / "out" / written.name), *options])
        assert result.exit_code == 0, result.output
        assert bool(written.stat().st_mode & 0o077) is ("--protect" in more)
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
            Row("kd", "transfer=A seed=0 split=test", "perplexity", 3.0),
            Row("kd", "transfer=A seed=0 repetitions=10", "exposure", 3.0, 2.0, 4.0, 20),
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


def audit(project, *options):
    own = ["--model", str(project / "student"), "--out", str(project / "audit")]
    return runner.invoke(app, ["audit", *own, *options])


def test_audit_of_everything(project, texts):
    records = sorted(set(texts["text"]))
    for name, part in (("in", records[::2]), ("out", records[1::2])):
        (project / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    canaries = CanarySet.generate(
        "the pin of {name} is {secret}", length=3, count=20, repetitions=(2,), controls=0, assign="coin", seed=0
    )
    canaries.save(project / "canaries.json")
    members, others = str(project / "in.jsonl"), str(project / "out.jsonl")
    result = audit(
        project,
        "--members",
        members,
        "--nonmembers",
        others,
        "--reference",
        str(project / "teacher"),
        "--canaries",
        str(project / "canaries.json"),
        "--pii",
        members,
        "--unseen",
        others,
        "--prefix-tokens",
        "8",
        "--suffix-tokens",
        "4",
        "--samples",
        "10",
        "--candidates",
        "4",
    )
    assert result.exit_code == 0, result.output
    assert "membership of records: 30 in, 30 out" in result.output
    assert re.search(r"values picked +never seen", result.output)
    report = json.loads((project / "audit" / "report.json").read_text())
    assert {"exposure", "membership", "epsilon", "extraction"} == report.keys()
    assert (project / "audit" / "roc_records.png").exists()
    again = audit(project, "--members", members, "--nonmembers", others, "--json")
    assert json.loads(again.stdout[again.stdout.index("{") :])["exposure"] is None


def test_audit_names_the_file_and_the_line(project, tokenizer):
    files = {
        "good": '{"text": "hello ann"}\n{"text": "hello bob"}\n',
        "empty": "",
        "broken": '{"text": "a b"}\n{"text"\n',
        "same": '{"text": "hello eve"}\n{"text": "hello bob"}\n',
        "short": '{"text": "hello joe"}\n{"text": " "}\n',
    }
    paths = {name: str(project / f"{name}.jsonl") for name in files}
    for name, content in files.items():
        (project / f"{name}.jsonl").write_text(content)
    for name, message in (
        ("empty", "empty.jsonl is empty"),
        ("broken", "broken.jsonl:2: this line is no JSON"),
        ("same", "same.jsonl:2 is the same record as"),
        ("short", "short.jsonl:2: there is no text"),
    ):
        result = audit(project, "--members", paths["good"], "--nonmembers", paths[name])
        assert result.exit_code == 2
        assert message in result.stderr
    result = audit(project, "--members", paths["good"])
    assert result.exit_code == 2
    assert "There are no nonmembers" in result.stderr
    assert "nothing to audit with" in audit(project).stderr
    assert "holds no canaries" in audit(project, "--canaries", paths["good"]).stderr
    (project / "audit").rmdir()
    (project / "audit").write_text("")  # where the report should go
    result = audit(project, "--members", paths["good"], "--nonmembers", paths["same"])
    assert result.exit_code == 2


def test_audit_refuses_a_reference_with_another_tokenizer(project, tokenizer):
    (project / "a.jsonl").write_text('{"text": "hello ann"}\n')
    (project / "b.jsonl").write_text('{"text": "hello bob"}\n')
    other = train_tokenizer(["something else entirely, nothing alike"], vocab_size=300)
    other.save_pretrained(project / "teacher")
    sides = ["--members", str(project / "a.jsonl"), "--nonmembers", str(project / "b.jsonl")]
    result = audit(project, *sides, "--reference", str(project / "teacher"))
    assert result.exit_code == 2
    assert "has another tokenizer" in result.stderr


def test_audit_of_a_diverged_model_names_the_line(project, student):
    with torch.no_grad():
        student.lm_head.weight.fill_(torch.nan)
    student.save_pretrained(project / "student")
    (project / "a.jsonl").write_text('{"text": "hello ann"}\n')
    (project / "b.jsonl").write_text('{"text": "hello bob"}\n')
    result = audit(project, "--members", str(project / "a.jsonl"), "--nonmembers", str(project / "b.jsonl"))
    assert result.exit_code == 2
    assert ".jsonl:1: the model gives NaN" in result.stderr


def test_audit_of_an_adapter(project, student):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(student, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.peft_config["default"].base_model_name_or_path = str(project / "student")
    adapted.save_pretrained(project / "adapter")
    AutoTokenizer.from_pretrained(project / "student").save_pretrained(project / "adapter")
    for path in (project / "adapter").glob("tokenizer*"):
        path.unlink()  # as peft saves it
    model, own = load_model(str(project / "adapter"))
    assert model.can_generate()
    assert len(own) > 200
    student.model.save_pretrained(project / "headless")
    with pytest.raises(ValueError, match="is a LlamaModel"):
        load_model(str(project / "headless"))


@pytest.mark.slow  # the README's tests run the command as well
def test_budget_plans_a_run(tmp_path):
    figure = tmp_path / "budget.png"
    asked = ["budget", "1000", "--batch", "200", "--epochs", "2", "--epsilon", "4", "--unit", "user"]
    result = CliRunner().invoke(app, [*asked, "--figure", str(figure)])
    assert result.exit_code == 0, result.output
    assert "for each user (add or remove one)" in result.output
    assert "noise per unit" in result.output
    assert figure.stat().st_size > 10_000
    content = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert 3.96 <= content["plan"]["epsilon"] <= 4
    assert content["plan"]["steps"] == 10
    # The other way round: from that noise to that epsilon, in the same table.
    noise = content["plan"]["noise_multiplier"]
    back = CliRunner().invoke(
        app, ["budget", "1000", "--batch", "200", "--epochs", "2", "--noise", str(noise), "--json"]
    )
    assert json.loads(back.output)["plan"]["epsilon"] == pytest.approx(content["plan"]["epsilon"])
    assert any(row["epsilon"] == content["plan"]["epsilon"] for row in content["by_noise"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["10", "--batch", "20"], "batch=20 must lie between 1 and the number of units (10)"),
        (["1000", "--epsilon", "-1"], "epsilon=-1.0 must be positive"),
        (["1000", "--epsilon", "1", "--noise", "1"], "Give either epsilon or noise_multiplier"),
        (["1000", "--figure", "x.pdf"], "name it x.png"),
        (["1000", "--accountant", "gdp", "--noise", "1"], "accountant='gdp' is not offered"),
    ],
)
def test_budget_refuses_what_makes_no_sense(options, message):
    result = CliRunner().invoke(app, ["budget", *options])
    assert result.exit_code == 2
    assert message in result.output


def test_federate_runs_a_configuration_and_writes_its_card(tmp_path):
    config = config_of(tmp_path, run="people", rows=[{"model": "local"}])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = ["federate", "--config", str(tmp_path / "config.yaml"), "--output-dir", str(tmp_path / "out")]
    for _ in range(2):
        result = runner.invoke(app, [*command, "--method", "fedmd"])
        assert result.exit_code == 0, result.output
        assert "mean" in result.output
        assert "not covered" in result.output
    assert "| fedmd | 1 |" in (tmp_path / "out" / "README.md").read_text()
    accuracies = [r for r in MetricsFile(tmp_path / "out" / "metrics.json").rows if r.metric == "client_accuracy"]
    assert len(accuracies) == 4
    result = runner.invoke(app, command)
    assert result.exit_code == 2
    assert "holds a federation of other settings" in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--method", "sgd"], "method='sgd' is none of"), (["--engine", "spark"], "engine='spark' is none of")],
)
def test_federate_says_what_is_wrong(tmp_path, options, says):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config_of(tmp_path)))
    result = runner.invoke(
        app, ["federate", "--config", str(tmp_path / "config.yaml"), "--output-dir", str(tmp_path / "out"), *options]
    )
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())


@pytest.mark.usefixtures("project")
def test_distill_writes_a_card_and_a_page(tmp_path):
    out, notes = tmp_path / "named", tmp_path / "notes.jsonl"
    shutil.copy(notes, tmp_path / "held_out.jsonl")
    fields = yaml.safe_load((tmp_path / "config.yaml").read_text()) | {"output_dir": str(out)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(fields))
    command = [
        "distill",
        "--teacher",
        str(tmp_path / "teacher"),
        "--student",
        str(tmp_path / "student"),
        "--data",
        str(notes),
        "--config",
        str(tmp_path / "config.yaml"),
        "--set",
        "max_steps=1",
        "--set",
        "protection=drop",
    ]
    same = runner.invoke(app, [*command, "--eval-data", str(notes)])
    assert same.exit_code == 2
    assert "--eval-data is what the student is trained on" in " ".join(same.output.split())
    for other in (f"{tmp_path}/./notes.jsonl", os.path.relpath(notes)):
        same = runner.invoke(app, [*command, "--eval-data", other, "--eval-split", "validation"])
        assert "--eval-data is what the student is trained on" in " ".join(same.output.split())
    command += ["--eval-data", str(tmp_path / "held_out.jsonl")]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    card = (out / "README.md").read_text()
    assert "| perplexity |" in card
    assert '"max_steps": 1' in card
    assert '"protection": "drop"' in card
    assert "distilled from `teacher`" in card
    assert (out / "report.html").exists()
    wrong = runner.invoke(app, [*command, "--set", "nonsense"])
    assert wrong.exit_code == 2
    assert "write field=value" in wrong.output


@pytest.mark.usefixtures("project")
def test_an_audit_goes_onto_the_card(tmp_path, texts):
    records = sorted(set(texts["text"]))
    for name, part in (("in", records[::2]), ("out", records[1::2])):
        Dataset.from_dict({"text": part}).to_json(tmp_path / f"{name}.jsonl")
    shutil.copy(tmp_path / "out.jsonl", tmp_path / "held_out.jsonl")
    student = tmp_path / "shipped"
    audit = [
        "audit",
        "--members",
        str(tmp_path / "in.jsonl"),
        "--nonmembers",
        str(tmp_path / "out.jsonl"),
        "--card",
        "--out",
        str(tmp_path / "audit"),
        "--model",
    ]
    refused = runner.invoke(app, [*audit, str(tmp_path / "student")])
    assert refused.exit_code == 2
    assert "lacks model_facts.json" in refused.stderr
    command = ["distill", "--teacher", str(tmp_path / "teacher"), "--student", str(tmp_path / "student"), "--data"]
    command += [str(tmp_path / "in.jsonl"), "--config", str(tmp_path / "config.yaml"), "--output-dir", str(student)]
    result = runner.invoke(app, [*command, "--eval-data", str(tmp_path / "held_out.jsonl")])
    assert result.exit_code == 0, result.output
    before = (student / "README.md").read_text()
    assert "Nobody attacked this model" in before
    result = runner.invoke(app, [*audit, str(student)])
    assert result.exit_code == 0, result.output
    card = (student / "README.md").read_text()
    assert "Nobody attacked this model" not in card
    assert "membership of records: 30 in, 30 out" in card
    measured = next(line for line in before.splitlines() if line.startswith("| perplexity |"))
    assert measured in card
    assert "![roc_records.png](roc_records.png)" in card
    assert (student / "roc_records.png").exists()
    assert "membership of records" in (student / "report.html").read_text()
    assert "tells of this audit only" in result.output
    (student / "model_facts.json").write_text("{}")
    damaged = runner.invoke(app, [*audit, str(student)])
    assert damaged.exit_code == 2
    assert "model_facts.json is damaged" in damaged.stderr


@pytest.mark.usefixtures("project")
def test_nothing_is_set_apart_where_nobody_looked(tmp_path):
    shutil.copy(tmp_path / "notes.jsonl", tmp_path / "held_out.jsonl")
    cached = ["cache-teacher", "--teacher", str(tmp_path / "teacher"), "--data", str(tmp_path / "notes.jsonl")]
    cached += ["--config", str(tmp_path / "config.yaml"), "--output-dir", str(tmp_path / "cache")]
    assert runner.invoke(app, cached).exit_code == 0
    command = ["distill", "--student", str(tmp_path / "student"), "--eval-data", str(tmp_path / "held_out.jsonl")]
    command += ["--config", str(tmp_path / "config.yaml"), "--set", "max_steps=1", "--set", "logging_steps=1"]
    for name, more, apart in (
        ("plain", ["--teacher", str(tmp_path / "teacher"), "--data", str(tmp_path / "notes.jsonl"), "--plain"], False),
        ("cached", ["--data", str(tmp_path / "cache" / "private")], True),
    ):
        result = runner.invoke(app, [*command, *more, "--output-dir", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        card = (tmp_path / name / "README.md").read_text()
        assert "| perplexity |" in card
        assert ("| perplexity_unflagged |" in card) is apart
    assert "distilled from a teacher's cached answers" in card
    plain = [*command, "--data", str(tmp_path / "cache" / "private"), "--plain", "--output-dir", str(tmp_path / "p")]
    result = runner.invoke(app, plain)
    assert result.exit_code == 0, result.output
    states = [tmp_path / name / "checkpoint-1" / "trainer_state.json" for name in ("p", "plain", "cached")]
    own, live, protected = (json.loads(state.read_text())["log_history"][0]["loss"] for state in states)
    assert own == pytest.approx(live, rel=0.05)  # a cache keeps what is likely, and no more
    assert protected != pytest.approx(live, rel=0.05)


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


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(project):
    fields = yaml.safe_load((project / "config.yaml").read_text()) | {"max_steps": 400, "disable_tqdm": False}
    (project / "config.yaml").write_text(yaml.safe_dump(fields))
    command = [
        sys.executable,
        "-m",
        "swingkd.cli",
        "distill",
        "--teacher",
        "teacher",
        "--student",
        "student",
        "--data",
        "notes.jsonl",
        "--output-dir",
        "out",
        "--config",
        "config.yaml",
        "--set",
        "logging_steps=1",
    ]
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        seen = ""
        for line in running.stdout:
            seen += line
            if "'loss'" in line:
                running.send_signal(signal.SIGINT)
                break
        seen += running.stdout.read()
        assert running.wait(120) == 130, seen[-2000:]
    assert "Run the same command with --resume." in seen
    (checkpoint,) = (project / "out").glob("checkpoint-*")
    steps = int(checkpoint.name.partition("-")[2])
    result = runner.invoke(
        app,
        [
            "distill",
            "--teacher",
            str(project / "teacher"),
            "--student",
            str(project / "student"),
            "--data",
            str(project / "notes.jsonl"),
            "--output-dir",
            str(project / "out"),
            "--config",
            str(project / "config.yaml"),
            "--set",
            f"max_steps={steps + 1}",
            "--resume",
        ],
    )
    assert result.exit_code == 0, result.output
    assert (project / "out" / f"checkpoint-{steps + 1}").exists()


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


def test_env_tells_the_versions():
    found = json.loads(runner.invoke(app, ["env", "--json"]).output)
    assert {"swingkd", "python", "torch", "transformers"} <= found.keys()
    assert found["torch"] in runner.invoke(app, ["env"]).output


def test_tag_writes_a_page_that_masks(tmp_path):
    (tmp_path / "notes.txt").write_text("My pin is 4711, and\nnothing here.\n")
    result = runner.invoke(app, ["tag", str(tmp_path / "notes.txt"), "--html", str(tmp_path / "notes.html")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "notes.html").read_text()
    assert "4711" not in page
    assert "ID_NUMBER, likelihood 1.00, temperature 16.0" in page


def test_completion_is_there():
    result = runner.invoke(app, ["--help"])
    assert "--install-completion" in result.output
