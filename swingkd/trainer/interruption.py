"""Ctrl-C, or a polite end from outside (SIGTERM), that ends a step, writes a checkpoint and stops."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from transformers import TrainerCallback


class StopOnInterrupt(TrainerCallback):
    """Stop a training at the end of its step when Ctrl-C is pressed or SIGTERM comes, with a checkpoint to go on from.

        stop = StopOnInterrupt()
        trainer = PrivateDistillationTrainer(..., callbacks=[stop])
        with stop:
            trainer.train()

    A second Ctrl-C stops at once.  For one process: several would have to agree on the step.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnInterrupt:
        self.interrupted = False
        # Only the main thread may listen.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        self._give_back()

    def _note(self, *_: Any) -> None:
        self.interrupted = True
        # Nothing that a handler may not do: one write, no lock.
        os.write(2, b"\nStopping after this step, with a checkpoint. Ctrl-C again stops at once.\n")
        self._give_back()

    def _give_back(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Ask for a checkpoint and the end."""
        if self.interrupted:
            control.should_save = control.should_training_stop = True
