"""Run a command that ends with whoever started this: even a kill that nobody can catch closes the pipe between them.

python -P leash.py command argument ...: by its file, so that nothing else of the package is imported.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

# Seconds from the friendly signal to the other one.
_PATIENCE = 30.0


def hold(command: list[str]) -> int:
    """Run a command in a session of its own until it ends, or the standard input does; return its exit status."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_wait_for_the_end, args=(process,), daemon=True).start()
    return process.wait()


def _wait_for_the_end(process: subprocess.Popen) -> None:
    # Not through sys.stdin: a thread that waits there keeps the interpreter from ending.
    while os.read(0, 4096):
        pass
    for sent in (signal.SIGTERM, signal.SIGKILL):
        # The command's own children as well.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        deadline = time.monotonic() + _PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(hold(sys.argv[1:]))
