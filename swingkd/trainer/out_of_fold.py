"""Out-of-fold teachers: a row is answered by a teacher that was trained without it, and without all that is like it.

What no teacher of a row has seen, no answer about that row can give away, and no tagger has to find it.  Statistics
call it cross-fitting; for classifiers SELENA (Tang et al. 2022) distils from such teachers.  What stays is the input:
the student reads the row itself, and fits it a little better than others.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import ModelOutput

from swingkd.data.columns import FOLD
from swingkd.data.folds import Folds, check_folds
from swingkd.files import PRIVATE, SEAL_FILE, check_seal, read_as
from swingkd.models.loading import load_pretrained
from swingkd.privacy import LedgerEntry, PrivacyLedger
from swingkd.privacy.ledger_entry import compose
from swingkd.tasks import Task, task_of
from swingkd.trainer.config import PrivateDistillationConfig

#: How the adapter of a fold is called, and its folder.
NAME = "fold-{}"
#: What stands beside them.
ABOUT_FILE = "out_of_fold.json"
FOLDS_FILE = f"{PRIVATE}/folds.safetensors"


class OutOfFoldTeacher(nn.Module):
    """K teachers in the place of one: a row is answered by those alone that were trained without its fold.

    `PrivateDistillationTrainer` and `cache_teacher` take it as `teacher_model`; set `alpha=1` there, since hard labels
    are the row's own text.

    Args:
        models: K models of one kind, or one with K adapters (LoRA) named `fold-0`, `fold-1`, ...; number i was trained
            without the folds i, i + 1, ... of `held_out`, the last of which is followed by the first.
        folds: which row is in which fold; `None`: rows say so in the column `teacher_fold`.
        held_out: how many folds each teacher was trained without.  A row has so many teachers; they answer with the
            mean of their probabilities.
        k: how many folds there are, where `models` is one with adapters; default: as many as it has.

    Raises:
        ValueError: there are fewer teachers than two, a fold has none, or an adapter is missing.
    """

    def __init__(
        self,
        models: PeftModel | Sequence[PreTrainedModel],
        folds: Folds | None = None,
        *,
        held_out: int = 1,
        k: int | None = None,
    ):
        super().__init__()
        self.adapted = isinstance(models, PeftModel)
        if isinstance(models, PeftModel):
            self.models = nn.ModuleList([models])
            self.k = k or (folds.k if folds is not None else len(models.peft_config))
            _check_adapters(models, self.k)
        else:
            self.models = nn.ModuleList(models)
            self.k = len(models)
        check_held_out(self.k, held_out)
        if folds is not None and folds.k != self.k:
            raise ValueError(f"The rows are in {folds.k} folds, and there are {self.k} teachers. Give one for each.")
        if not self.adapted and any(type(model) is not type(self.one) for model in self.models):
            raise ValueError("The teachers are of different kinds. Train all of them from one model.")
        self.folds, self.held_out = folds, held_out
        #: What the training of each released, where that is known.
        self.ledgers: tuple[PrivacyLedger | None, ...] = ()

    def promised(self) -> list[LedgerEntry]:
        """Return what all teachers together promise of a record they learnt from; empty where nothing is.

        A record is in the training rows of `k - held_out` teachers, and their guarantees add up over these.  That
        holds only where the fold of each unit was drawn for itself (`Folds.apart`).
        """
        told = [ledger.as_teacher() for ledger in self.ledgers if ledger is not None]
        if self.folds is None or self.folds.unit is None or len(told) < self.k or not all(told):
            return []
        # The largest stand for any others.  Whoever is in several folds is in the rows of all teachers.
        units = {entry.unit for entries in told for entry in entries}
        seen = self.k - self.held_out if units <= {"record", self.folds.unit} else self.k
        largest = sorted(told, key=lambda entries: -compose(entries)[0])[:seen]
        note = f"each {self.folds.unit} is in the training rows of {seen} of {self.k} teachers"
        return [
            replace(entry, caveat="; ".join(filter(None, (entry.caveat, note)))) for part in largest for entry in part
        ]

    @classmethod
    def load(cls, folder: str | os.PathLike, base: PreTrainedModel | None = None) -> OutOfFoldTeacher:
        """Load the teachers that `train_out_of_fold` wrote, and which row is in which fold.

        Args:
            folder: of the teachers.
            base: the model below the adapters; default: it is loaded by its name.

        Raises:
            ValueError: the teacher of a fold is missing or was changed, or the base has no name.
        """
        folder = Path(folder)
        about = About.read(folder)
        folders = [folder / NAME.format(number) for number in range(about.k)]
        for number, path in enumerate(folders):
            if not (path / SEAL_FILE).exists():
                raise ValueError(
                    f"{folder} has no teacher for fold {number}. Train it: train_out_of_fold, or swingkd crossfit, "
                    "goes on where it stopped."
                )
            check_seal(path)
        task = task_of(about.base or "", about.task)
        folds = Folds.load(folder / FOLDS_FILE)
        if folds.digest() != about.folds:
            raise ValueError(
                f"{folder / FOLDS_FILE} is of another division than the teachers were trained on: a row would be "
                "answered by one that saw it. Put the file back that was there, or train the teachers again."
            )
        if about.adapted:
            models = _adapted(_base(task, folder, about, base), folders)
        else:
            models = [load_pretrained(task.auto_model, str(path), role="teacher") for path in folders]
        teacher = cls(models, folds, held_out=about.held_out)
        teacher.ledgers = tuple(PrivacyLedger.of_weights(path) for path in folders)
        return teacher

    @property
    def inside(self) -> _Inside:
        """Teachers that did see a row, to compare with those that did not (`MemorisationTagger`)."""
        return _Inside(self)

    @property
    def one(self) -> PreTrainedModel:
        """One of the teachers, for questions about their kind; it has seen most rows."""
        return self.models[0]  # type: ignore[return-value]

    @property
    def config(self) -> Any:
        """The teachers' configuration."""
        return self.one.config

    @property
    def hf_device_map(self) -> Any:
        """Where `from_pretrained` put the parts of a base that is quantised or spread over devices."""
        return getattr(self.one, "hf_device_map", None)

    def get_base_model(self) -> PreTrainedModel:
        """Return the model below the adapters, or one of the models."""
        return self.one.get_base_model() if isinstance(self.one, PeftModel) else self.one

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings of one of the teachers."""
        return self.one.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the head that all teachers share, so that the loss may read it; `None`: each has its own."""
        return self.one.get_output_embeddings() if self.adapted and self.held_out == 1 else None

    def dealt(self, dataset: Dataset | IterableDataset) -> Dataset:
        """Return rows that say in which fold they are.

        Args:
            dataset: rows that the teachers' folds were made of; or others that have the column `teacher_fold`.

        Raises:
            ValueError: the rows are a stream, or nobody knows the fold of one of them.
        """
        if self.folds is not None:
            return self.folds.add_to(dataset)  # type: ignore[arg-type]
        if not isinstance(dataset, Dataset):
            raise ValueError("A stream says too late in which fold a row is. Read it into a Dataset first.")
        if FOLD not in dataset.column_names:
            raise ValueError(
                f"The rows do not say in which fold they are. Pass the folds to OutOfFoldTeacher(folds=...), or add "
                f"the column {FOLD} (Folds.add_to)."
            )
        check_folds(dataset.with_format("numpy")[FOLD][:], self.k)
        return dataset

    def forward(self, teacher_fold: torch.Tensor, **inputs: Any) -> ModelOutput:
        """Answer each row by the teachers that never saw it.

        Args:
            teacher_fold: [rows] of each row; -1: no teacher saw it, and the first answers.
            **inputs: of the models' forward.
        """
        fold = teacher_fold.clamp(min=0)
        if self.held_out == 1:
            return self._answer(fold, inputs)
        answers = [
            self._answer((fold - place) % self.k, inputs).logits.float().log_softmax(-1)
            for place in range(self.held_out)
        ]
        return ModelOutput(logits=torch.stack(answers).logsumexp(0) - math.log(len(answers)))

    def _answer(self, teacher: torch.Tensor, inputs: dict[str, Any]) -> ModelOutput:
        """Ask for each row another teacher, [rows] int."""
        if self.adapted:
            return self.one(**inputs, adapter_names=[NAME.format(number) for number in teacher.tolist()])
        logits: torch.Tensor | None = None
        for number in teacher.unique().tolist():
            rows = (teacher == number).nonzero()[:, 0]
            own = {name: value[rows] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
            said = self.models[number](**own).logits
            logits = said.new_empty(len(teacher), *said.shape[1:]) if logits is None else logits
            logits[rows] = said
        return ModelOutput(logits=logits)


class _Inside(nn.Module):
    """Answers each row by a teacher that was trained on it."""

    def __init__(self, teacher: OutOfFoldTeacher):
        super().__init__()
        self.teacher = teacher

    @property
    def config(self) -> Any:
        return self.teacher.config

    def forward(self, teacher_fold: torch.Tensor, **inputs: Any) -> ModelOutput:
        # The first fold that this one is trained without is the next: so it knows the row's own.
        return self.teacher._answer((teacher_fold + 1) % self.teacher.k, inputs)


@dataclass(frozen=True)
class About:
    """What stands beside the teachers.

    Args:
        k, held_out: see `OutOfFoldTeacher`.
        adapted: whether they are adapters on one base.
        task: what they are for.
        base: the name of the model that they were trained from, if it has one.
        folds: digest of which row is in which fold.
        settings: of their training.
    """

    k: int
    held_out: int
    adapted: bool
    task: str
    base: str | None
    folds: str
    settings: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> About:
        """Read what stands in a folder."""
        return read_as(cls, (folder / ABOUT_FILE).read_bytes(), str(folder / ABOUT_FILE))


def is_out_of_fold(folder: str) -> bool:
    """Tell whether a folder holds the teachers of several folds."""
    return (Path(folder) / ABOUT_FILE).is_file()


def _base(task: Task, folder: Path, about: About, given: PreTrainedModel | None) -> PreTrainedModel:
    if given is not None:
        return given
    if not about.base:
        raise ValueError(
            f"The teachers in {folder} are adapters on a model that had no name. Pass it: "
            "OutOfFoldTeacher.load(folder, base=...)."
        )
    # Its head may be one of the adapters' own.
    config = AutoConfig.from_pretrained(folder)
    return load_pretrained(task.auto_model, about.base, role="base", new_head=not task.predicts_tokens, config=config)


def _adapted(base: PreTrainedModel, folders: list[Path]) -> PeftModel:
    for path in folders:
        if not (path / SAFETENSORS_WEIGHTS_NAME).is_file():
            raise ValueError(f"{path} holds no adapter as safetensors. Train it again.")
    model = PeftModel.from_pretrained(base, folders[0], adapter_name=NAME.format(0))
    for number, path in enumerate(folders[1:], 1):
        model.load_adapter(str(path), adapter_name=NAME.format(number))
    return model


def _check_adapters(model: PeftModel, k: int) -> None:
    missing = [name for name in map(NAME.format, range(k)) if name not in model.peft_config]
    if missing:
        raise ValueError(
            f"The model has the adapters {', '.join(model.peft_config)}, and {missing[0]} is missing: the rows of "
            "that fold would have no teacher. Train it (train_out_of_fold goes on where it stopped)."
        )
    check_adapters(model.peft_config.values())


def check_adapters(configs: Iterable[PeftConfig]) -> None:
    """Refuse adapters of which each row of a batch cannot have one of its own.

    Args:
        configs: of the adapters.

    Raises:
        ValueError: says which are needed.
    """
    for config in configs:
        if config.peft_type != "LORA":
            wrong = f"are {config.peft_type.value}"
        elif getattr(config, "use_dora", False):
            wrong = "use DoRA"
        elif getattr(config, "bias", "none") != "none":
            wrong = f"train biases of the base, which they share (bias={config.bias!r})"  # type: ignore[attr-defined]
        else:
            continue
        raise ValueError(
            f"The adapters {wrong}, and only plain LoRA answers each row of a batch with an adapter of its own. Train "
            'LoraConfig(use_dora=False, bias="none"), or whole models.'
        )


def check_held_out(k: int, held_out: int) -> None:
    """Refuse teachers that are too few, or that would have nothing to learn from.

    Raises:
        ValueError: says how many there are.
    """
    if k < 2 or not 1 <= held_out < k:
        raise ValueError(
            f"{k} teachers, each trained without {held_out} of as many folds: give two or more, and leave each of "
            "them something to learn from."
        )


def check_out_of_fold(teacher: OutOfFoldTeacher, args: PrivateDistillationConfig) -> None:
    """Refuse settings that teach a record what its teachers keep back.

    Args:
        teacher: the teachers.
        args: of the student's training.

    Raises:
        ValueError: names the setting.
    """
    check_alpha(args)
    if args.hidden_weight > 0 and teacher.get_output_embeddings() is None:
        raise ValueError(
            "hidden_weight > 0 reads the hidden states of one model, and these teachers are several. Set "
            "hidden_weight=0, or train adapters on one base, each without one fold."
        )


def check_alpha(args: PrivateDistillationConfig) -> None:
    """Refuse hard labels where teachers are out of fold.

    Raises:
        ValueError: there is a weight left for them.
    """
    if args.alpha < 1:
        raise ValueError(
            f"alpha={args.alpha} teaches hard labels too, and they are the record itself, which no teacher of it has "
            "seen. Set alpha=1."
        )
