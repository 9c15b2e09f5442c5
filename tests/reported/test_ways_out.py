"""What leaves, and what is left behind: files that are whole, folders that are one's own, no secret on the way."""

import io
import os
import signal
import stat
import sys
import threading

import pytest
from typer.testing import CliRunner

from swingkd import PrivateDistillationTrainer
from swingkd.audit import CanarySet
from swingkd.cli import app
from swingkd.cli.common import plain_console, printable
from swingkd.files import PRIVATE, alone_in, folder_written_whole, private_folder, write_json, written_whole
from swingkd.report.published import public_files
from swingkd.targets import NoiseKey
from swingkd.trainer import StopOnInterrupt

FULL = OSError(28, "No space left on device")


def fill(path, text):
    """Write some of it; then the disk is full."""
    path.write_text(text)
    raise FULL


def test_a_full_disk_leaves_the_old_file_and_nothing_of_the_new(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left"), written_whole(path) as part:
        fill(part, "ne")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


def test_a_folder_that_was_not_finished_does_not_block_the_retry(tmp_path):
    with pytest.raises(OSError, match="No space left"), folder_written_whole(tmp_path / "cache") as part:
        fill(part / "a", "x")
    assert list(tmp_path.iterdir()) == []
    with folder_written_whole(tmp_path / "cache", owner_only=True) as part:
        (part / "a").write_text("x")
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_private_folders_are_their_owners_alone(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / PRIVATE).mkdir(0o755)
        NoiseKey.load_or_create(tmp_path / PRIVATE / "noise_key")
        canaries = CanarySet.generate("pin {secret}", length=3, count=1, repetitions=(1,), controls=0, seed=0)
        canaries.save(tmp_path / "other" / PRIVATE / "canaries.json")
        write_json(tmp_path / "third" / PRIVATE / "more.json", {})
    finally:
        os.umask(before)
    for folder in tmp_path.rglob(PRIVATE):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for file in folder.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert private_folder(tmp_path / "x").is_dir()


def test_two_runs_do_not_share_a_folder(tmp_path, config, student, teacher, texts, tokenizer):
    trainer = PrivateDistillationTrainer(
        student, config(protection="none"), teacher_model=teacher, train_dataset=texts, processing_class=tokenizer
    )
    with alone_in(tmp_path / "out"), pytest.raises(ValueError, match="Another run is writing into"):
        trainer.train()
    trainer.train()


def test_a_hub_token_is_in_no_file(tmp_path, config, student, teacher, texts, tokenizer):
    args = config(protection="none", save_strategy="steps", save_steps=1, hub_token="hf_secretsecretsecret")
    trainer = PrivateDistillationTrainer(
        student, args, teacher_model=teacher, train_dataset=texts, processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    assert trainer.args.hub_token == "hf_secretsecretsecret"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    assert not [path for path in files if b"hf_secretsecret" in path.read_bytes()]


def test_links_are_not_followed(tmp_path):
    (tmp_path / "secret").write_text("4711")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "vocab.txt").symlink_to(tmp_path / "secret")
    (folder / "config.json").write_text("{}")
    (folder / "canaries.json").write_text("{}")
    assert [path.name for path in public_files(folder)] == ["config.json"]


def test_sigterm_leaves_a_checkpoint_as_ctrl_c_does(tmp_path, config, student, teacher, texts, tokenizer):
    stop = StopOnInterrupt()
    args = config(protection="none", max_steps=50, save_strategy="steps", save_steps=1000)
    trainer = PrivateDistillationTrainer(
        student, args, teacher_model=teacher, train_dataset=texts, processing_class=tokenizer, callbacks=[stop]
    )
    before = signal.getsignal(signal.SIGTERM)
    assert threading.current_thread() is threading.main_thread()
    original = trainer.training_step

    def step(*args, **kwargs):
        if trainer.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    trainer.training_step = step
    with stop:
        trainer.train()
    assert stop.interrupted
    assert trainer.state.global_step == 3
    assert (tmp_path / "out" / "checkpoint-3" / "trainer_state.json").exists()
    assert signal.getsignal(signal.SIGTERM) is before


# --- the terminal ---


def test_foreign_text_does_not_steer_a_terminal():
    assert printable("a\x1b[31mb\x07\u202ec") == "a\ufffd[31mb\ufffd\ufffdc"
    out = io.StringIO()
    plain_console(file=out, width=80).print("[red]name[/red] :smile:")
    assert out.getvalue().strip() == "[red]name[/red] :smile:"


def test_errors_about_names_with_escapes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["tag", "no\x1b[31m.jsonl"])
    assert result.exit_code == 2
    assert "\x1b[31m" not in result.output


def test_an_ascii_terminal_is_no_reason_to_stop(tmp_path, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    (tmp_path / "notes.txt").write_text("Zoë's pin is 4711\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        app(["tag", str(tmp_path / "notes.txt")])
    sys.stdout.flush()
    assert ended.value.code == 0
    assert b"\\xeb" in raw.getvalue()
