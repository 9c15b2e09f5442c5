"""A training that nobody watches says every half minute how far it is."""

from __future__ import annotations

from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from swingkd.progress import Clock, seen_live


class LineProgress(TrainerCallback):
    """Print a line every half minute: the step, the time that is left, the last loss that was logged."""

    def __init__(self) -> None:
        self._clock: Clock | None = None
        self._told = ""

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Start the clock."""
        self._clock, self._told = Clock(state.max_steps, state.global_step), ""

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs) -> None:
        """Remember the loss."""
        if logs and "loss" in logs:
            self._told = f", loss {logs['loss']:.4g}"

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Print a line where one is due."""
        line = self._clock.line(state.global_step) if self._clock is not None and args.should_log else None
        if line is not None:
            print(f"training: {line}{self._told}", flush=True)


def show_lines(trainer: Trainer) -> None:
    """Let a trainer show lines in the place of a bar, where nobody looks on."""
    if seen_live():
        return
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(PrinterCallback)
    trainer.add_callback(LineProgress())
