"""Training on images in stages, on Accelerate: any number of processes, mixed precision, and a crash at any time.

A run is a list of units of work, mostly epochs.  After each one a checkpoint is written; what a unit does follows from
the seed, its number and the weights alone, so a run that was killed goes on to the same result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from accelerate import Accelerator
from huggingface_hub import HfApi, PyTorchModelHubMixin
from safetensors.torch import save_model
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, get_scheduler

from swingkd.audit import MembershipReport
from swingkd.audit.membership import judge_scores
from swingkd.audit.scores import RecordScores, score_logits
from swingkd.privacy import PrivacyLedger, ShardAnswers, content_keys
from swingkd.report import model_card
from swingkd.vision.data import Images
from swingkd.vision.models import logits_of

_STATE = "state.json"
Module = TypeVar("Module", bound=nn.Module)


@dataclass(kw_only=True)
class ImageArguments:
    """Settings that every training on images has.

    Args:
        output_dir: where checkpoints are written.
        seed: of the order of batches, the augmentation and the selection; never of a guarantee's noise.
        batch_size: images a step, in all processes together.
        eval_batch_size: images a forward pass, where nothing is learnt.
        learning_rate, weight_decay: of AdamW.
        lr_scheduler: over the whole run: "constant", "linear", "cosine", or another of `transformers.get_scheduler`.
        warmup_steps: over which the learning rate rises.
        mixed_precision: "no", "bf16" or "fp16"; default: as `accelerate launch` says.
        channels_last: keep the channels of a pixel together, which convolutions are faster with.
        checkpoint_every: so many units (epochs, mostly); 0: never.
        progress: show a progress bar.

    Raises:
        ValueError: a number is out of range.
    """

    output_dir: str
    seed: int = 0
    batch_size: int = 128
    eval_batch_size: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    lr_scheduler: str = "constant"
    warmup_steps: int = 0
    mixed_precision: str | None = None
    channels_last: bool = True
    checkpoint_every: int = 1
    progress: bool = True

    def __post_init__(self) -> None:
        self.must_be_positive("batch_size", "eval_batch_size", "learning_rate")
        if self.warmup_steps and self.lr_scheduler == "constant":
            raise ValueError("lr_scheduler='constant' knows no warm-up: use 'constant_with_warmup'.")

    def must_be_positive(self, *names: str) -> None:
        """Refuse settings that are not.

        Raises:
            ValueError: names the first.
        """
        for name in names:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive.")


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
    run: Callable[[torch.Generator], None]


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


# What is known of a model that was trained in this process, as long as it lives.
_KNOWN: WeakKeyDictionary[nn.Module, PrivacyLedger] = WeakKeyDictionary()


class StagedTraining:
    """Train a model unit by unit; one object is one run.

    Args:
        model: what is trained.
        args: the settings.
        origin: what is known of the weights that it begins with, where they were trained before, such as
            `PrivacyLedger.of_weights(folder)`.  A model that was trained in this process is known.

    Raises:
        ValueError: a setting is out of range, or half precision is asked for that cannot be had.
    """

    #: What is trained; `wrapped`, which is there from `train` on, is the same as Accelerate wraps it.
    model: nn.Module
    wrapped: nn.Module

    def __init__(self, model: nn.Module, args: ImageArguments, origin: PrivacyLedger | None = None):
        self.args = args
        origin = origin or _KNOWN.get(model)
        self._earlier = origin.as_earlier() if origin is not None else ([], {})
        # Said aloud: without a GPU, Accelerate would not see that there are other processes.
        cpu = not torch.accelerator.is_available()
        try:
            self.accelerator = Accelerator(
                cpu=cpu, mixed_precision=args.mixed_precision, step_scheduler_with_optimizer=False
            )
        except ValueError as error:
            raise ValueError(
                f"mixed_precision={args.mixed_precision!r}, but this process began with another, and a process has "
                "one. Use that, leave it out, or start a new process."
            ) from error
        if self.accelerator.mixed_precision == "fp16":
            raise ValueError("fp16 scales gradients that noise is added to: use mixed_precision='bf16'.")
        self.model = self.place(model)
        self.done = 0
        self._begun = False
        #: The mean loss of each unit, where it may be told: which unit, its stage, and how many steps.
        self.history: list[dict[str, Any]] = []

    def units(self) -> list[Unit]:
        """Return the work of the run, in order."""
        raise NotImplementedError

    @property
    def ledger(self) -> PrivacyLedger:
        """What the model's training released, and what it brought along."""
        entries, unknown = self._earlier
        released = self.released()
        return PrivacyLedger([*entries, *released.entries], unknown={**unknown, **released.unknown})

    def released(self) -> PrivacyLedger:
        """Return what this run released so far; it follows from the settings and from what `state` counts."""
        return PrivacyLedger()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside the weights, as plain types."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""

    # -- the loop ------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: bool = False) -> None:
        """Run all units.

        Args:
            resume_from_checkpoint: go on from the last checkpoint in `output_dir`, if there is one.

        Raises:
            ValueError: the checkpoint is of other settings, or this run has begun already.
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
        bar = tqdm(
            total=len(units), initial=self.done, disable=not (self.args.progress and self.accelerator.is_main_process)
        )
        for number in range(self.done, len(units)):
            bar.set_description(units[number].stage)
            # Dropout and the like: the same whether the run was interrupted or not.
            torch.manual_seed(self.unit_seed(number) + self.accelerator.process_index)
            units[number].run(torch.Generator().manual_seed(self.unit_seed(number)))
            self.done = number + 1
            _KNOWN[self.model] = self.ledger
            if self.args.checkpoint_every and (self.done % self.args.checkpoint_every == 0 or self.done == len(units)):
                self._checkpoint()
            bar.update()
        bar.close()
        # Without the wrapper of mixed precision: it is the caller's model again.
        self.model = self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False).eval()

    def prepare(self, steps: int) -> None:
        """Make optimizer and schedule, and hand them and the model to Accelerate."""
        # Weight decay is not for biases and norms, which have one dimension.
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            groups, lr=self.args.learning_rate, weight_decay=self.args.weight_decay
        )
        optimizer = self.protect(optimizer)
        schedule = get_scheduler(self.args.lr_scheduler, optimizer, self.args.warmup_steps, max(steps, 1))
        self.wrapped, self.optimizer, self.schedule = self.accelerator.prepare(self.model, optimizer, schedule)

    def protect(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Return what updates the model in the optimizer's place."""
        return optimizer

    def unit_seed(self, number: int) -> int:
        """Return the seed of a unit; that of another run or unit is far from it."""
        return (self.args.seed * 1_000_003 + number) * 1_009

    def update(self) -> None:
        """Make a step with the gradients that are there."""
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

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

    def shared_sum(self, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        """Add tensors up over processes; for gradients that DDP does not see."""
        return [self.accelerator.reduce(gradient, "sum") for gradient in gradients]

    def place(self, model: Module) -> Module:
        """Move a model to this process's device and memory format."""
        form = torch.channels_last if self.args.channels_last else torch.contiguous_format
        return model.to(self.accelerator.device, memory_format=form)  # type: ignore[call-overload]  # torch's stubs

    def batch(self, images: Images, indices: torch.Tensor, generator: torch.Generator | None) -> Batch:
        """Return this process's part of a batch, augmented where a generator is given."""
        own = self.own(torch.arange(len(indices)))
        inputs = self.inputs(images.inputs(indices, generator, own))
        return Batch(inputs, indices[own], images.labels[indices[own]].to(inputs.device), len(indices))

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        """Return this process's part of rows."""
        return rows.tensor_split(self.accelerator.num_processes)[self.accelerator.process_index]

    def inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """Move images to this process's device and memory format."""
        form = torch.channels_last if self.args.channels_last else torch.contiguous_format
        return pixels.to(self.accelerator.device, memory_format=form)

    def forget(self) -> None:
        """Remove the checkpoint of another run from the folder."""
        if self.accelerator.is_main_process:
            for path in Path(self.args.output_dir).glob("checkpoint*"):
                shutil.rmtree(path)
        self.accelerator.wait_for_everyone()

    def note(self, stage: str, part: torch.Tensor | None) -> None:
        """Add a step's loss to the history of its stage; a part of it from each process, or nothing."""
        if part is None:
            return
        if not self.history or self.history[-1]["stage"] != stage or self.history[-1]["unit"] != self.done:
            self.history.append({"unit": self.done, "stage": stage, "loss": 0.0, "steps": 0})
        last = self.history[-1]
        loss = float(self.accelerator.reduce(part.detach().float(), "sum"))
        last["loss"] = (last["loss"] * last["steps"] + loss) / (last["steps"] + 1)
        last["steps"] += 1

    # -- asking models -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logits(self, model: nn.Module, images: Images | torch.Tensor) -> torch.Tensor:
        """Return what a model says of all images as they are, [n, classes] on the CPU; processes share the work.

        Args:
            model: an image classifier.
            images: the images, or what a model sees of them [n, channels, height, width].
        """
        training = model.training
        model.eval()
        indices = torch.arange(len(images))
        found = []
        for part in self.own(indices).split(self.args.eval_batch_size):
            with self.accelerator.autocast():
                inputs = images.inputs(part) if isinstance(images, Images) else images[part].float()
                found.append(logits_of(model, self.inputs(inputs)))
        model.train(training)
        return self.together(torch.cat(found), len(images)).cpu()

    def together(self, part: torch.Tensor, count: int) -> torch.Tensor:
        """Gather what the processes made of their parts of `count` rows, in order."""
        # Parts may differ by a row.
        padded = self.accelerator.pad_across_processes(part)
        sizes = [len(rows) for rows in torch.arange(count).tensor_split(self.accelerator.num_processes)]
        gathered = self.accelerator.gather(padded).split(padded.shape[0])
        return torch.cat([rows[:size] for rows, size in zip(gathered, sizes, strict=True)])

    def evaluate(self, images: Images) -> float:
        """Return the model's accuracy."""
        return float((self.logits(self.model, images).argmax(1) == images.labels).double().mean())

    def audit(
        self, members: Images, nonmembers: Images, references: Sequence[nn.Module] = (), *, resamples: int = 1000
    ) -> MembershipReport:
        """Attack the model: can images that its teacher, or it, was trained on be told from others?

        Args:
            members: images that were used, directly or through a teacher.
            nonmembers: images alike that were not.
            references: models that saw none of either; they add the attacks ratio and rmia.
            resamples: of the bootstrap.

        Raises:
            ValueError: a side is empty, an image is on both, or the model gives no finite logits.
        """
        both_sides = set(content_keys(members.pixels)) & set(content_keys(nonmembers.pixels))
        if both_sides:
            raise ValueError(f"{len(both_sides)} images are said to be in and out: drop them from one side.")
        labels = torch.cat([members.labels, nonmembers.labels])

        def score(model: nn.Module) -> RecordScores:
            both = [self.logits(model, images) for images in (members, nonmembers)]
            return score_logits(torch.cat(both), labels)

        others = [score(self.place(model)) for model in references]
        return judge_scores(score(self.model), len(members), references=others, resamples=resamples)

    # -- files ---------------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be gone on from."""
        free = ("output_dir", "progress", "checkpoint_every", "eval_batch_size")
        given = {name: value for name, value in asdict(self.args).items() if name not in free}
        return given | {"origin": PrivacyLedger(self._earlier[0], unknown=self._earlier[1]).lines()}

    def check_student(self, images: Images) -> None:
        """Refuse a model that cannot learn these images, before anything is trained.

        Raises:
            ValueError: it has other classes, or no weight that may change.
        """
        found = self.logits(self.model, images.select(torch.arange(min(2, len(images)))))
        if found.shape[1] != images.classes:
            raise ValueError(f"{type(self.model).__name__} has {found.shape[1]} classes, the images {images.classes}.")
        check_trainable(self.model)

    def _checkpoint(self) -> None:
        folder = Path(self.args.output_dir)
        part = folder / "checkpoint.part"
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(part))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            content = {"done": self.done, "history": self.history, "settings": self.settings(), "state": self.state()}
            (part / _STATE).write_text(json.dumps(content))
            self.ledger.save(part)
            old = folder / "checkpoint.old"
            if (folder / "checkpoint").exists():
                # A crash may have left it.
                shutil.rmtree(old, ignore_errors=True)
                (folder / "checkpoint").rename(old)
            part.rename(folder / "checkpoint")
            shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        folders = [Path(self.args.output_dir) / name for name in ("checkpoint", "checkpoint.old")]
        folder = next((folder for folder in folders if (folder / _STATE).exists()), None)
        if folder is None:
            return
        content = json.loads((folder / _STATE).read_text())
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

    def save_model(self, folder: str | Path, title: str = "student", results: dict[str, float] | None = None) -> None:
        """Write the model as safetensors, its ledger and a card; nothing else of the run.

        Args:
            folder: where.
            title: what the card calls the model.
            results: what was measured on it, for the card.
        """
        if not self.accelerator.is_main_process:
            return
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        if isinstance(self.model, PreTrainedModel | PyTorchModelHubMixin):
            self.model.save_pretrained(path)
        else:
            save_model(self.model, str(path / "model.safetensors"))
        (path / "README.md").write_text(model_card(title, self.ledger, results or {}, settings=self.settings()))
        self.ledger.seal(path)

    def push_to_hub(
        self, repo_id: str, *, private: bool = True, title: str = "student", results: dict[str, float] | None = None
    ) -> str:
        """Upload what `save_model` writes to the Hub, and return its address.

        Args:
            repo_id: "name/of-model".
            private: who may see a repository that is made by this.
            title, results: for the card.
        """
        folder = Path(self.args.output_dir) / "model"
        self.save_model(folder, title, results)
        if not self.accelerator.is_main_process:
            return repo_id
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"{title}, by swingkd"))


def check_trainable(model: nn.Module) -> None:
    """Refuse a model without a weight that may change.

    Raises:
        ValueError: and what may be the reason.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("The student has no weight that may change: is it frozen, or the teacher as well?")


def described(value: Any) -> Any:
    """Return what a checkpoint says of an object: its public settings as plain types, and no weights.

    Whoever goes on with other noise would have the steps before counted with it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PrivacyLedger):
        return value.lines()
    if isinstance(value, ShardAnswers):
        return {"noise_multiplier": value.noise_multiplier, "form": value.form, "unit": value.unit}
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        public = {f.name: described(getattr(value, f.name)) for f in fields(value) if not f.name.startswith("_")}
        return {"kind": type(value).__name__, **public}
    return getattr(value, "__qualname__", type(value).__name__)
