"""Checkpoints that a kill left half written or half removed, at each change of a file: the next run gets over them."""

import os
import signal
import sys

import pytest
from transformers.trainer_utils import rotate_checkpoints

from swingkd.trainer.checkpoints import (
    begin_checkpoint,
    forget_unfinished,
    last_complete_checkpoint,
    later_checkpoints,
)
from swingkd.trainer.resuming import save_run_settings

pytestmark = pytest.mark.filterwarnings("ignore:.*fork")
CHANGES = ("open", "os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.utime")


def killed_at(change: int, work) -> bool:
    """Do some work in a process that is killed just before so many changes of checkpoints; whether it was."""
    if (child := os.fork()) == 0:
        seen = 0

        def hook(event, args):
            nonlocal seen
            # A file that is removed below an open folder is told by its name alone.
            if event in CHANGES and (event.startswith("os.r") or "checkpoint-" in str(args[0])):
                seen += 1
                if seen > change:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def write(runs, step: int) -> None:
    checkpoint = runs / f"checkpoint-{step}"
    begin_checkpoint(str(checkpoint))
    (checkpoint / "weights").write_bytes(bytes([step]))
    (checkpoint / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    (checkpoint / "pieces").mkdir(exist_ok=True)
    (checkpoint / "pieces" / "one").write_bytes(b"1")
    save_run_settings(str(checkpoint), {"seed": 1})


def at_each_change(tmp_path, prepare, work):
    """Yield the folder of runs as a kill left it, one for each change of the work."""
    for change in range(200):
        runs = tmp_path / str(change)
        runs.mkdir()
        prepare(runs)
        killed = killed_at(change, lambda runs=runs: work(runs))
        yield runs
        if not killed:
            # All of the work was done.
            assert change > 5
            return
    raise AssertionError("the work has no end")


def step_of(checkpoint: str | None) -> int:
    return int(checkpoint.rpartition("-")[2]) if checkpoint else 0


def goes_on(runs) -> int:
    """Resume as a run does: forget what is half written, then write the next one; where it went on from."""
    last = step_of(last_complete_checkpoint(str(runs)))
    forget_unfinished(later_checkpoints(str(runs), last))
    assert not later_checkpoints(str(runs), last)
    write(runs, last + 3)
    assert step_of(last_complete_checkpoint(str(runs))) == last + 3
    return last


@pytest.mark.parametrize("steps_before", [0, 3])
def test_killed_while_one_is_written(tmp_path, steps_before):
    def prepare(runs):
        if steps_before:
            write(runs, steps_before)

    last = [goes_on(runs) for runs in at_each_change(tmp_path, prepare, lambda runs: write(runs, steps_before + 3))]
    # All the old one, until the new one is whole.
    assert last == sorted(last)
    assert set(last) == {steps_before, steps_before + 3}


def test_killed_while_one_is_written_over(tmp_path):
    last = [goes_on(runs) for runs in at_each_change(tmp_path, lambda runs: write(runs, 3), lambda r: write(r, 3))]
    # Whole until the first file changes, and once the last one has.
    assert last[0] == last[-1] == 3
    assert 0 in last


def test_killed_while_a_half_written_one_is_removed(tmp_path):
    def prepare(runs):
        write(runs, 3)
        (runs / "checkpoint-3" / "seal.json").unlink()
        (runs / "checkpoint-3" / "unfinished").touch()

    def forget(runs):
        forget_unfinished(later_checkpoints(str(runs), 0))

    assert {goes_on(runs) for runs in at_each_change(tmp_path, prepare, forget)} == {0}


def test_killed_while_old_ones_make_room(tmp_path):
    def prepare(runs):
        for step in (3, 6):
            write(runs, step)

    def rotate(runs):
        rotate_checkpoints(output_dir=str(runs), save_total_limit=1, use_mtime=True)

    assert {goes_on(runs) for runs in at_each_change(tmp_path, prepare, rotate)} == {6}


def test_files_of_that_name_and_checkpoints_of_others(tmp_path):
    (tmp_path / "checkpoint-9.zip").write_bytes(b"")
    assert last_complete_checkpoint(str(tmp_path)) is None
    (tmp_path / "checkpoint-3").mkdir()
    assert last_complete_checkpoint(str(tmp_path)) is None
    (tmp_path / "checkpoint-3" / "weights").write_bytes(b"1")
    with pytest.raises(ValueError, match="has no seal"):
        last_complete_checkpoint(str(tmp_path))
