"""Settings that every training on images has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType
from transformers import get_scheduler

from swingkd.guards import check_not_negative, check_numbers, check_positive


@dataclass(kw_only=True)
class ImageArguments:
    """Settings that every training on images has.

    Args:
        output_dir: where checkpoints are written.
        seed: of the order of batches, the augmentation and the selection; never of a guarantee's noise.
        batch_size: images a step, in all processes together.
        eval_batch_size: images a forward pass, where nothing is learnt.
        optimizer: one of `torch.optim`, by its name ("AdamW", "SGD"); or any class of optimizers, or a function that
            makes one of parameters and `lr` (of timm's or bitsandbytes', say).
        learning_rate, weight_decay: of it.
        optimizer_args: what else it takes, such as {"momentum": 0.9, "nesterov": True}.
        lr_scheduler: over the whole run: "constant", "linear", "cosine", or another of `transformers.get_scheduler`.
        warmup_steps: over which the learning rate rises.
        mixed_precision: "no" or "bf16"; default: as `accelerate launch` says.
        label_smoothing: how much of a label's probability goes to all classes alike.
        ema_decay: of the running mean of the weights, which the model has in the end; 0: the last ones.
        channels_last: keep the channels of a pixel together, which convolutions are faster with; not under DP-SGD.
        checkpoint_every: so many units (epochs, mostly); 0: never.
        progress: show a progress bar.
        log_with: trackers of Accelerate, by their names ("tensorboard", "wandb") or as objects; they are told the mean
            loss of each unit, where it may be told.

    Raises:
        ValueError: a number is out of range; the optimizer is none or does not take its settings; or there is no such
            scheduler or tracker.
    """

    output_dir: str
    seed: int = 0
    batch_size: int = 128
    eval_batch_size: int = 512
    optimizer: str | Callable[..., torch.optim.Optimizer] = "AdamW"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    optimizer_args: dict[str, Any] = field(default_factory=dict)
    lr_scheduler: str = "constant"
    warmup_steps: int = 0
    mixed_precision: str | None = None
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    channels_last: bool = True
    checkpoint_every: int = 1
    progress: bool = True
    log_with: Any = None

    def __post_init__(self) -> None:
        check_numbers(self)
        check_positive(self, "batch_size", "eval_batch_size", "learning_rate")
        check_not_negative(self, "weight_decay", "warmup_steps", "checkpoint_every", "label_smoothing", "ema_decay")
        for name in ("label_smoothing", "ema_decay"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie below 1.")
        self._try_a_step()
        _check_trackers(self.log_with)
        if self.mixed_precision not in (None, "no", "bf16"):
            # fp16 scales gradients, which noise is added to.
            raise ValueError(f"mixed_precision={self.mixed_precision!r}: choose 'no' or 'bf16'.")
        if self.warmup_steps and self.lr_scheduler == "constant":
            raise ValueError("lr_scheduler='constant' knows no warm-up: use 'constant_with_warmup'.")

    def _try_a_step(self) -> None:
        """Refuse optimizers and schedules that cannot make one: those that want the loss, or no dense gradient."""
        weights = [torch.zeros(1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)]
        optimizer = self.optimizer_of(weights)
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        try:
            schedule = get_scheduler(self.lr_scheduler, optimizer, self.warmup_steps, max(self.warmup_steps, 1))
            optimizer.step()
            schedule.step()
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"optimizer={self.optimizer!r} and lr_scheduler={self.lr_scheduler!r} make no step together: {error}"
            ) from error

    def optimizer_of(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        """Return the optimizer of some parameters, or groups of them.

        Raises:
            ValueError: there is no such optimizer, or it does not take its settings.
        """
        given = self.optimizer
        kind: Any = getattr(torch.optim, given, None) if isinstance(given, str) else given
        named = not isinstance(given, str) or (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer))
        if not named or not callable(kind) or kind is torch.optim.Optimizer:
            raise ValueError(
                f"optimizer={given!r} is none of torch.optim: 'AdamW' and 'SGD' are two. Others are passed as classes."
            )
        # Some know no decay: that there is none need not be said.
        knows_decay = "weight_decay" in inspect.signature(kind).parameters
        decay: dict[str, Any] = {"weight_decay": self.weight_decay} if knows_decay or self.weight_decay else {}
        try:
            made = kind(parameters, lr=self.learning_rate, **decay, **self.optimizer_args)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.optimizer_name} does not take these settings: {error}") from error
        if not isinstance(made, torch.optim.Optimizer):
            raise ValueError(f"optimizer={given!r} made no optimizer of torch, but {type(made).__name__}.")
        return made

    @property
    def optimizer_name(self) -> str:
        """What the optimizer is called: a checkpoint is gone on from with the same one."""
        return self.optimizer if isinstance(self.optimizer, str) else getattr(self.optimizer, "__qualname__", "own")


def _check_trackers(log_with: Any) -> None:
    """Refuse trackers that Accelerate does not know, or that are not installed.

    Raises:
        ValueError: names the first.
    """
    for given in log_with if isinstance(log_with, list | tuple) else [log_with]:
        name = getattr(given, "value", given)
        if not isinstance(name, str) or name == "all":
            continue
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(f"log_with={name!r} is no tracker. There are {', '.join(LOGGER_TYPE_TO_CLASS)}.")
        if name in LoggerType.list() and name not in get_available_trackers():
            raise ValueError(f"log_with={name!r}: it is not installed. Run `pip install {name}`, or leave it out.")
