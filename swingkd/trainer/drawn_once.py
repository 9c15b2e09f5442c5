"""What one process draws and all of a run use, whatever disks they have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock

from swingkd.files import private_folder, written_whole


def drawn_once(path: Path, draw: Callable[[], object]) -> None:
    """Let the first process make a private file; where another process has a disk of its own, write the same there.

    Two draws of one run would be two: rows with other surrogates on each machine, a noised table that is released
    twice and counted once.  All processes call this together.

    Args:
        path: the file.
        draw: writes it, unless it is there.

    Raises:
        RuntimeError: in the others, where the first process failed.
    """
    state, failure, content = PartialState(), None, [b""]
    if state.is_main_process:
        try:
            draw()
            content = [path.read_bytes()]
        except Exception as error:
            failure = error
    if state.num_processes > 1:
        broadcast_object_list(content)
    if failure is not None:
        raise failure
    if not content[0]:
        raise RuntimeError(f"The first process could not make {path}. Its own error says why.")
    with FileLock(f"{private_folder(path.parent) / path.name}.lock"):
        if not path.exists() or path.read_bytes() != content[0]:
            with written_whole(path, owner_only=True) as part:
                part.write_bytes(content[0])
