"""The models of a run, loaded for one task, with what prepares their inputs and what is known of their past."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel

from swingkd.data.columns import FOLD, unseen
from swingkd.models.experts import check_balance
from swingkd.models.half import check_half
from swingkd.models.inputs import padding
from swingkd.models.loading import is_hub_id, load_pretrained, load_processor, name_of, public_name
from swingkd.models.shared_vocabulary import SharedVocabulary, same_tokens
from swingkd.privacy import PrivacyLedger
from swingkd.tagging import Tagger
from swingkd.tasks import Reading, Task, task_of
from swingkd.trainer.check_columns import check_columns
from swingkd.trainer.check_data import check_dp_rows, check_rows
from swingkd.trainer.check_models import (
    check_different_models,
    check_one_device,
    check_processing,
    check_public,
    check_publishing,
    check_teacher_processing,
    positions,
)
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.ledgers import first_ledger
from swingkd.trainer.out_of_fold import OutOfFoldTeacher, is_out_of_fold


@dataclass(frozen=True)
class GivenModels:
    """The models that the trainer was made with, or their names, see `PrivateDistillationTrainer`."""

    student: str | os.PathLike | PreTrainedModel
    teacher: str | os.PathLike | PreTrainedModel | OutOfFoldTeacher | None = None
    public: str | os.PathLike | PreTrainedModel | None = None
    processing_class: Any = None
    teacher_processing_class: Any = None
    peft_config: PeftConfig | None = None


@dataclass(frozen=True)
class Models:
    """The models of a run, for their task, with what prepares their inputs and what is known of where they come from.

    Args:
        task: what they are for.
        student, teacher, public: the models; `None`: there is none.
        processing_class: tokenizer or image processor of the student, and of the teacher unless it has its own.
        teacher_processing_class: the teacher's own.
        ledger: what was released before the run.
        names: what student and teacher may be called in public.
        began_on_hub: whether the student's is a name on the Hub.
    """

    task: Task
    student: Any
    teacher: PreTrainedModel | OutOfFoldTeacher | None
    public: PreTrainedModel | None
    processing_class: Any
    teacher_processing_class: Any
    ledger: PrivacyLedger
    names: dict[str, str | None]
    began_on_hub: bool

    @property
    def by_role(self) -> dict[str, PreTrainedModel]:
        """Those that there are; of several teachers, which are of one kind, one."""
        teacher = self.teacher.one if isinstance(self.teacher, OutOfFoldTeacher) else self.teacher
        every = {"student": self.student, "teacher": teacher, "public": self.public}
        return {role: model for role, model in every.items() if model is not None}

    @property
    def every(self) -> list[tuple[str, PreTrainedModel]]:
        """Each model with its role, of several teachers each one."""
        teachers = self.teacher.models if isinstance(self.teacher, OutOfFoldTeacher) else [self.teacher]
        every = [("student", self.student), *(("teacher", one) for one in teachers), ("public", self.public)]
        return [(role, model) for role, model in every if model is not None]

    def checked(self, rows: Any) -> Any:
        """Return prepared rows that the models can read; a stream is looked at as it flows.

        Raises:
            ValueError: names the column and the row that they cannot.
        """
        if rows is None:
            return None
        # Wrong columns first: what else is looked at counts on them.
        rows = check_columns(rows, self.task, self.by_role, self.processing_class)
        # A teacher with a tokenizer of its own was cut to what it reads.
        own = {"teacher"} if self.teacher_length is not None else set()
        check_rows(rows, {role: model for role, model in self.by_role.items() if role not in own})
        return rows

    def evaluated(self, rows: Any, reading: Reading, description: str) -> Any:
        """Return rows that are prepared to be evaluated: no teacher was trained on them."""
        if isinstance(self.teacher, OutOfFoldTeacher):
            rows = unseen(rows)
        return self.task.prepare(rows, reading, description=description, keep=(FOLD,))

    @cached_property
    def shared(self) -> SharedVocabulary | None:
        """The tokens that teacher and student share, where the teacher has a tokenizer of its own."""
        if self.teacher_processing_class is None or not self.task.predicts_tokens:
            return None
        return SharedVocabulary.of(self.processing_class, self.teacher_processing_class)

    @property
    def teacher_length(self) -> int | None:
        """How many tokens of its own tokenizer the teacher can place."""
        own = self.by_role.get("teacher") if self.teacher_processing_class is not None else None
        return positions(own) if own is not None and self.task.predicts_tokens else None

    def reading(self, tagger: Tagger | None, args: PrivateDistillationConfig) -> Reading:
        """Return how rows are read."""
        return Reading(
            self.processing_class,
            tagger,
            args.data_settings,
            self.student,
            self.teacher_processing_class,
            args.dataset_num_proc,
            teacher_length=self.teacher_length,
        )

    def read_by(self, role: str) -> Any:
        """Return what prepares the inputs of a model."""
        own = self.teacher_processing_class if role == "teacher" else None
        return own if own is not None else self.processing_class


def load_models(given: GivenModels, rows: Any, args: PrivateDistillationConfig) -> Models:
    """Load the models and what prepares their inputs, once everything was looked at that needs no model.

    Args:
        given: the models, or their names.
        rows: what is trained on, as the user has it.
        args: the settings.
    """
    student, teacher, public = _known(given)
    check_one_device(args)
    check_half(args.bf16, args.device)
    check_publishing(args)
    if args.differentially_private:
        check_dp_rows(args.privacy_unit, rows)
    first = teacher.one if isinstance(teacher, OutOfFoldTeacher) else teacher
    task = task_of(first if first is not None else student, args.task)
    check_teacher_processing(task, given.teacher_processing_class, args)
    processing_class = given.processing_class
    if processing_class is None:
        processing_class = _load_processing_class(student, task, args)
    check_processing(processing_class, task)
    processing_class, teacher_processing_class = map(padding, (processing_class, given.teacher_processing_class))
    if (
        task.predicts_tokens
        and teacher_processing_class is not None
        and same_tokens(processing_class, teacher_processing_class)
    ):
        teacher_processing_class = None
    ledger = first_ledger(student, teacher, args)
    teacher_options: Any = args.teacher_model_init_kwargs or {}
    if teacher_options and not isinstance(teacher, str):
        raise ValueError(
            "teacher_model_init_kwargs are for a teacher that is given by its name; this one is loaded already. Load "
            "it with them, or pass its name."
        )
    return Models(
        task,
        load_student(task, student, args),
        load_pretrained(task.auto_model, teacher, role="teacher", **teacher_options) if teacher is not None else None,
        load_pretrained(task.auto_model, public, role="public model") if public is not None else None,
        processing_class,
        teacher_processing_class,
        ledger,
        names={"student": public_name(name_of(student)), "teacher": _said(teacher)},
        began_on_hub=is_hub_id(name_of(student)),
    )


def _known(given: GivenModels) -> tuple[Any, Any, Any]:
    """Return student, teacher and public model, by their names where they have them; several teachers are loaded.

    Raises:
        ValueError: one is no model, or two are one.
    """
    student, teacher, public = map(_named, (given.student, given.teacher, given.public))
    if isinstance(teacher, str) and is_out_of_fold(teacher):
        teacher = OutOfFoldTeacher.load(teacher)
    for role, model in (("model_init", student), ("teacher_model", teacher), ("public_model", public)):
        kinds = (str, PreTrainedModel, PeftModel, *((OutOfFoldTeacher,) if role == "teacher_model" else ()))
        if model is not None and not isinstance(model, kinds):
            raise ValueError(f"{role} gives a {type(model).__name__}. Pass a model of transformers, or its name.")
    check_different_models(student, teacher)
    check_public(public, teacher)
    return student, teacher, public


def _said(teacher: Any) -> str | None:
    """Return what a teacher is called in public, or several."""
    name = public_name(name_of(teacher))
    if not isinstance(teacher, OutOfFoldTeacher):
        return name
    return f"{teacher.k} out-of-fold teachers{f' that began with {name}' if name else ''}"


def load_student(task: Task, student: str | PreTrainedModel, args: PrivateDistillationConfig) -> PreTrainedModel:
    """Load the student, or look at one that is loaded."""
    # A checkpoint in half precision would be trained in half precision: the student's weights are float32.
    given: Any = dict(args.model_init_kwargs or {})  # type: ignore[arg-type]
    # As transformers called it before.
    options: Any = {"dtype": given.pop("torch_dtype", torch.float32)} | given
    if args.model_init_kwargs and not isinstance(student, str):
        raise ValueError(
            "model_init_kwargs are for a student that is given by its name; this one is loaded already. Load it with "
            "them, or pass its name."
        )
    model = load_pretrained(task.auto_model, student, role="student", new_head=not task.predicts_tokens, **options)
    check_balance(model, args.differentially_private)
    return model


def _named(model: Any) -> Any:
    """Return a folder by its name."""
    return str(model) if isinstance(model, os.PathLike) else model


def _load_processing_class(student: str | PreTrainedModel, task: Task, args: PrivateDistillationConfig) -> Any:
    name = student if isinstance(student, str) else student.config._name_or_path
    if not name:
        raise ValueError(
            "The student has no name to load its tokenizer or image processor from: pass processing_class=..."
        )
    given: Any = args.model_init_kwargs or {}
    return load_processor(task.auto_processor, name, **{key: given[key] for key in ("gguf_file",) if key in given})
