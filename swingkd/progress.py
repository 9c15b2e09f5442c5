"""Progress that can be seen: a bar on a terminal and in a notebook, a line every half minute anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm

#: Seconds between two lines.
EVERY = 30.0


def seen_live() -> bool:
    """Tell whether somebody looks on: a terminal, or a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class _Lines(plain_tqdm):
    """A bar that is a line now and then."""

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        def say(line: str) -> None:
            if line.strip():
                print(line, file=file, flush=True)

        return say


def progress_bar(
    iterable: Iterable | None = None, *, desc: str = "", total: int | None = None, done: int = 0, disable: bool = False
):
    """Return tqdm's bar, or one that prints a line every half minute where nobody could see a bar move.

    Args:
        iterable: what is gone through, if it is.
        desc: what is done.
        total: how many there are.
        done: how many were done before.
        disable: show nothing.
    """
    if seen_live():
        return tqdm(iterable, desc=desc, total=total, initial=done, disable=disable)
    form = "{desc}: {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left"
    lines: dict[str, Any] = {"bar_format": form, "mininterval": EVERY, "delay": EVERY}
    return _Lines(iterable, desc=desc, total=total, initial=done, disable=disable, **lines)


class Clock:
    """Says when the next line is due, and how long is left.

    Args:
        total: steps there are.
        done: steps that were done before.
        now: the time in seconds, for tests.
    """

    def __init__(self, total: int, done: int = 0, now: Callable[[], float] = time.monotonic):
        self.total, self.first, self.now = total, done, now
        self.began = self.last = now()

    def line(self, step: int) -> str | None:
        """Return a line where one is due: how far it is, how long it took and how long is left."""
        now = self.now()
        if now - self.last < EVERY or step <= self.first:
            return None
        self.last = now
        gone = now - self.began
        left = gone / (step - self.first) * (self.total - step)
        return (
            f"step {step:,} of {self.total:,}, {plain_tqdm.format_interval(gone)} gone, "
            f"{plain_tqdm.format_interval(left)} left"
        )


def duration(seconds: float) -> str:
    """Say how long something takes, for people."""
    if seconds < 90:
        return "a second" if seconds < 1.5 else f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
