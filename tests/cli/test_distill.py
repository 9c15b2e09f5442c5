import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from swingkd.cli import app

runner = CliRunner()


def test_small_numbers_may_be_written_as_anywhere_else(project, monkeypatch):
    monkeypatch.chdir(project)
    words = ["--student", "student", "--teacher", "teacher", "--data", "notes.jsonl", "--config", "config.yaml"]
    changes = ["--set", "learning_rate=1e-4", "--set", "alpha=1e-1", "--set", "max_steps=1"]
    result = runner.invoke(app, ["distill", *words, *changes, "--output-dir", "out"])
    assert result.exit_code == 0, result.output
    settings = json.loads((project / "out" / "training_args.json").read_text())
    assert (settings["learning_rate"], settings["alpha"]) == (1e-4, 0.1)


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
    assert "was written with --protection surrogate (now 'drop')" in " ".join(other.output.split())
    command[command.index("--output-dir") + 1] = str(tmp_path / "private")
    result = runner.invoke(app, [*command, "--config", str(tmp_path / "private.yaml")])
    assert result.exit_code == 0, result.output
    assert "for each record (add or remove one)" in result.output
    command[command.index("--output-dir") + 1] = str(tmp_path / "wrong")
    wrong = runner.invoke(app, [*command, "--protection", "magic"])
    assert wrong.exit_code == 2
    assert "--protection magic is not known" in wrong.output
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
    root = str(Path(__file__).parents[2])
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
