"""Training on images in stages, on Accelerate: any number of processes, mixed precision, and a crash at any time.

A run is a list of units of work, mostly epochs.  After each one a checkpoint is written; what a unit does follows from
the seed, its number and the weights alone, so a run that was killed goes on to the same result.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from transformers import get_scheduler
from typing_extensions import TypedDict

from swingkd.files import check_seal, read_as, seal, write_json
from swingkd.models.logits import logits_of
from swingkd.models.whole import check_finite_weights
from swingkd.privacy import PrivacyLedger, ShardAnswers, module_digest
from swingkd.progress import progress_bar
from swingkd.vision.arguments import ImageArguments
from swingkd.vision.base import Classifier
from swingkd.vision.data import Images

_STATE = "state.json"
Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class _State(TypedDict):
    """What a checkpoint says beside its tensors."""

    done: int
    history: list[dict[str, Any]]
    settings: dict[str, Any]
    state: dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """A piece of work between two checkpoints.

    Args:
        stage: its name, for the progress bar.
        steps: how many updates it makes.
        run: does it, with the unit's own generator.
    """

    stage: str
    steps: int
    run: Callable[[torch.Generator], object]


@dataclass(frozen=True, eq=False)
class Batch:
    """This process's part of a batch.

    Args:
        inputs: [n, channels, height, width].
        indices: [n] of the images.
        labels: [n].
        whole: how many images the batch has in all processes.
    """

    inputs: torch.Tensor
    indices: torch.Tensor
    labels: torch.Tensor
    whole: int


class StagedTraining(Classifier):
    """Train an image classifier unit by unit; one object is one run.

    Args:
        model: what is trained.
        args: the settings.
        origin: what is known of the weights that it begins with, where they were trained before.

    Raises:
        ValueError: a setting is out of range.
    """

    #: The model as Accelerate wraps it; there is one from `train` on.
    wrapped: nn.Module
    #: The running mean of its weights, where one is asked for.
    mean: AveragedModel | None
    #: Mixes a batch's images and labels: [n, channels, height, width] and [n] to the same and [n, classes].
    mix: Mix | None = None

    def __init__(self, model: nn.Module, args: ImageArguments, origin: PrivacyLedger | None = None):
        super().__init__(model, args, origin)
        self.done = 0
        self._begun = False
        #: The mean loss of each unit, where it may be told: which unit, its stage, and how many steps.
        self.history: list[dict[str, Any]] = []

    def units(self) -> list[Unit]:
        """Return the work of the run, in order."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside the weights, as plain types."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""

    def train(self, resume_from_checkpoint: bool = False) -> None:
        """Run all units.

        Args:
            resume_from_checkpoint: go on from the last checkpoint in `output_dir`, if there is one.

        Raises:
            ValueError: the checkpoint is of other settings, images or teachers, or was changed; or this run has begun
                already.
        """
        if self._begun and not resume_from_checkpoint:
            raise ValueError("This run has begun: train(resume_from_checkpoint=True) goes on; or make another.")
        self._begun = True
        units = self.units()
        # After an exception: as if it was new.
        self.accelerator.free_memory()
        self.prepare(sum(unit.steps for unit in units))
        if resume_from_checkpoint:
            self._resume()
        else:
            self.forget()
        if self.args.log_with is not None:
            self.accelerator.init_trackers(type(self).__name__)
        bar = progress_bar(
            total=len(units), done=self.done, disable=not (self.args.progress and self.accelerator.is_main_process)
        )
        try:
            for number in range(self.done, len(units)):
                bar.set_description(units[number].stage)
                # Dropout and the like: the same whether the run was interrupted or not.
                torch.manual_seed(self.unit_seed(number) + self.accelerator.process_index)
                units[number].run(torch.Generator().manual_seed(self.unit_seed(number)))
                if self.history and self.history[-1]["unit"] == number:
                    self.accelerator.log({f"loss/{units[number].stage}": self.history[-1]["loss"]}, step=number)
                self.done = number + 1
                if self.args.checkpoint_every and (
                    self.done % self.args.checkpoint_every == 0 or self.done == len(units)
                ):
                    self._checkpoint()
                bar.update()
        finally:
            # Whatever ended it: the ledger has counted each step that the weights took.
            self.remember()
            # Not `end_training`, which ends the processes' talk with each other as well.
            for tracker in self.accelerator.trackers:
                tracker.finish()
        bar.close()
        self.release()

    def prepare(self, steps: int) -> None:
        """Make optimizer and schedule, and hand them and the model to Accelerate."""
        # Weight decay is not for biases and norms, which have one dimension.
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        mean = None
        if self.args.ema_decay:
            mean = AveragedModel(self.model, multi_avg_fn=partial(running_mean, self.args.ema_decay), use_buffers=True)
        optimizer = self.protect(self.args.optimizer_of(groups))
        schedule = get_scheduler(self.args.lr_scheduler, optimizer, self.args.warmup_steps, max(steps, 1))
        self.wrapped, self.optimizer, self.schedule = self.accelerator.prepare(self.model, optimizer, schedule)
        # Accelerate keeps it with the checkpoint.
        self.mean = self.accelerator.prepare_model(mean, evaluation_mode=True) if mean is not None else None

    def release(self) -> None:
        """Give the model back to the caller as it was given, but trained."""
        self.model = self.unwrapped(self.wrapped).eval()
        if self.mean is not None:
            averaged = self.unwrapped(self.mean)
            assert isinstance(averaged, AveragedModel)
            self.model.load_state_dict(averaged.module.state_dict())
            # These are other weights than those of the last step.
            self.remember()

    def unwrapped(self, model: nn.Module) -> nn.Module:
        """Return what Accelerate wrapped, without a trace of it.

        One that still looks prepared would be trained without mixed precision next time.
        """
        own = self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        own.__dict__.pop("_is_accelerate_prepared", None)
        return own

    def protect(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Return what updates the model in the optimizer's place."""
        return optimizer

    def unit_seed(self, number: int) -> int:
        """Return the seed of a unit; that of another run or unit is far from it."""
        return (self.args.seed * 1_000_003 + number) * 1_009

    def batch(self, images: Images, indices: torch.Tensor, generator: torch.Generator | None) -> Batch:
        """Return this process's part of a batch, augmented where a generator is given."""
        own = self.own(torch.arange(len(indices)))
        inputs = self.inputs(images.inputs(indices, generator, own))
        return Batch(inputs, indices[own], images.labels[indices[own]].to(inputs.device), len(indices))

    def backward(self, losses: torch.Tensor, whole: int) -> torch.Tensor:
        """Add the gradient of the mean over a whole batch; return this process's part of that mean.

        Args:
            losses: [n] of this process's images.
            whole: how many images the batch has in all processes.
        """
        part = losses.sum() / whole
        # DDP averages over processes, whose parts may differ by an image.
        self.accelerator.backward(part * self.accelerator.num_processes)
        return part.detach()

    def learn_labels(self, batch: Batch) -> torch.Tensor:
        """Add the gradient of the cross-entropy with a batch's labels; return this process's part of its mean."""
        inputs, labels = batch.inputs, batch.labels
        if self.mix is not None and len(labels):
            inputs, labels = self.mix(inputs, labels)
        return self.backward(self.label_losses(logits_of(self.wrapped, inputs), labels), batch.whole)

    def check_student(self, images: Images) -> None:
        """Refuse a model, or a mix, that cannot learn these images, before anything is trained.

        Raises:
            ValueError: the model has other classes, or no weight that may change; the images' transform makes none, or
                what is mixed is no batch of them.
        """
        super().check_student(images)
        if self.mix is None:
            return
        # As many as in training: some mix a batch's halves.
        some = self.batch(images, torch.arange(min(self.args.batch_size, len(images))), None)
        if not len(some.labels):
            return
        with torch.random.fork_rng(devices=[]):
            try:
                mixed, labels = self.mix(some.inputs, some.labels)
            except Exception as error:  # the user's own code
                raise ValueError(f"mix cannot mix {len(some.labels)} images: {error}") from error
        wanted = {(len(some.labels),), (len(some.labels), images.classes)}
        if mixed.shape != some.inputs.shape or tuple(labels.shape) not in wanted:
            raise ValueError(
                f"mix made images {tuple(mixed.shape)} and labels {tuple(labels.shape)} of {tuple(some.inputs.shape)} "
                f"and {tuple(some.labels.shape)}: images of that shape are needed, and labels [n] or "
                f"[n, {images.classes}]. Tell it how many classes there are (num_classes={images.classes})."
            )

    def label_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of logits [n, classes] with labels [n] or [n, classes], [n]."""
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.args.label_smoothing)

    def update(self) -> None:
        """Make a step with the gradients that are there."""
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.mean is not None:
            self.mean.update_parameters(self.model)

    def note(self, stage: str, part: torch.Tensor | None) -> None:
        """Add a step's loss to the history of its stage; a part of it from each process, or nothing."""
        if part is None:
            return
        if not self.history or self.history[-1]["stage"] != stage or self.history[-1]["unit"] != self.done:
            self.history.append({"unit": self.done, "stage": stage, "loss": 0.0, "steps": 0})
        last = self.history[-1]
        loss = self.checked(stage, part, last["steps"])
        last["loss"] = (last["loss"] * last["steps"] + loss) / (last["steps"] + 1)
        last["steps"] += 1

    def checked(self, stage: str, part: torch.Tensor, steps: int) -> float:
        """Return the loss of a step, a part of it from each process.

        Raises:
            ValueError: it is not finite.
        """
        loss = float(self.accelerator.reduce(part.detach().float(), "sum"))
        if not math.isfinite(loss):
            raise ValueError(f"The loss of {stage} is {loss} after {steps} steps: lower the learning rate.")
        return loss

    def forget(self) -> None:
        """Remove this run's checkpoint of an earlier start from the folder, and nothing else that lies there."""
        if self.accelerator.is_main_process:
            for path in self._folders():
                if path.is_dir():
                    shutil.rmtree(path)
        self.accelerator.wait_for_everyone()

    def _checkpoint(self) -> None:
        # The last one that was fine stays.
        check_finite_weights("model", self.model)
        whole, old, part = self._folders()
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(part))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            content = {"done": self.done, "history": self.history, "settings": self.settings(), "state": self.state()}
            write_json(part / _STATE, content)
            self.ledger.save(part)
            seal(part)
            if whole.exists():
                # A crash may have left it.
                shutil.rmtree(old, ignore_errors=True)
                whole.rename(old)
            part.rename(whole)
            shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _folders(self) -> list[Path]:
        """Return where the checkpoint is, where the one before waits until it is there, and where it is written."""
        return [Path(self.args.output_dir) / name for name in ("checkpoint", "checkpoint.old", "checkpoint.part")]

    def _resume(self) -> None:
        folder = next((folder for folder in self._folders()[:2] if (folder / _STATE).exists()), None)
        if folder is None:
            return
        check_seal(folder)
        content = read_as(_State, (folder / _STATE).read_bytes(), str(folder / _STATE))
        now = json.loads(json.dumps(self.settings()))
        different = [name for name in now if now[name] != content["settings"].get(name)]
        if different:
            name = different[0]
            raise ValueError(
                f"{folder} was written with {name}={content['settings'].get(name)!r}, now it is {now[name]!r}. "
                "Use the settings that it began with, or another output_dir."
            )
        self.accelerator.load_state(str(folder))
        self.done, self.history = content["done"], content["history"]
        self.load_state(content["state"])


def running_mean(decay: float, means: list[torch.Tensor], new: list[torch.Tensor], steps: torch.Tensor | int) -> None:
    """Move the running means of weights by another step; the first ones count for less than the decay says.

    Args:
        decay: of the means.
        means: of the steps before.
        new: what the step left; numbers that are counted are taken as they are.
        steps: how many there were before.
    """
    if means[0].is_floating_point():
        torch._foreach_lerp_(means, new, 1 - min(decay, (1 + int(steps)) / (10 + int(steps))))
    else:
        torch._foreach_copy_(means, new)


def described(value: Any) -> Any:
    """Return what a checkpoint says of an object: its public settings as plain types, and digests of weights.

    Whoever goes on with other noise, or another teacher, would have the steps before counted with it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PrivacyLedger):
        return value.lines()
    if isinstance(value, nn.Module):
        return module_digest(value)
    if isinstance(value, ShardAnswers):
        return {"noise_multiplier": value.noise_multiplier, "form": value.form, "unit": value.unit}
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        public = {f.name: described(getattr(value, f.name)) for f in fields(value) if not f.name.startswith("_")}
        return {"kind": type(value).__name__, **public}
    return getattr(value, "__qualname__", type(value).__name__)
