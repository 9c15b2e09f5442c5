"""A command on a leash ends with whoever started it."""

import signal
import subprocess
import sys
import time

import pytest

from swingkd.decentralized import leash

START = """
import subprocess, sys
held = subprocess.Popen([sys.executable, "-P", *sys.argv[1:]], stdin=subprocess.PIPE)
held.wait()
"""
# It starts a child, says both numbers, and sleeps; the second kind hears no friendly signal.
COMMAND = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def alive(number: int) -> bool:
    # It may end while it is looked at.
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_starter_however_that_ends(sent):
    starter = subprocess.Popen(
        [sys.executable, "-c", START, leash.__file__, sys.executable, "-c", COMMAND], stdout=subprocess.PIPE
    )
    held, child = map(int, starter.stdout.readline().split())
    assert alive(held)
    assert alive(child)
    starter.send_signal(sent)
    starter.wait()
    deadline = time.monotonic() + 20
    while (alive(held) or alive(child)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(held)
    assert not alive(child)


def test_its_exit_status_is_the_commands():
    command = [sys.executable, "-P", leash.__file__, sys.executable, "-c", "raise SystemExit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as held:
        assert held.wait() == 7
