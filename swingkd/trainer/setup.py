"""What a trainer decides before it begins: its models, what protects private tokens, how long rows are, its rows.

A constructor decides and never writes into what the user passed: the decisions live in `Setup`, and its `args` are a
copy of the caller's with what was decided.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.data.columns import FOLD, unseen
from swingkd.data.teacher_columns import CacheInfo
from swingkd.losses import HintProjection
from swingkd.models.experts import check_balance
from swingkd.models.half import check_half
from swingkd.models.inputs import align_padding, padding
from swingkd.models.loading import is_hub_id, load_pretrained, load_processor, name_of, public_name
from swingkd.privacy import PrivacyLedger
from swingkd.surrogates import Surrogates
from swingkd.tagging import ConsistentTagger, Tagger
from swingkd.targets import Protection
from swingkd.tasks import Reading, Task, task_of
from swingkd.trainer.adapters import adapter_of_task
from swingkd.trainer.check_cache import check_cached_teacher, check_same_cache
from swingkd.trainer.check_columns import check_columns
from swingkd.trainer.check_data import (
    check_best_metric,
    check_dp_rows,
    check_kind,
    check_rows,
    check_something_private,
    check_something_to_learn,
)
from swingkd.trainer.check_models import (
    check_adapter,
    check_apart,
    check_different_models,
    check_length,
    check_one_device,
    check_padding_is_unread,
    check_precision,
    check_processing,
    check_public,
    check_publishing,
    check_start,
    check_task,
    check_teacher_processing,
    check_tokenizer,
    hidden_size,
    longest_row,
)
from swingkd.trainer.check_pixels import check_pixels
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.ledgers import first_ledger
from swingkd.trainer.made_up_rows import can_be_made_up, check_made_up, consistent, with_surrogates
from swingkd.trainer.out_of_fold import OutOfFoldTeacher, check_out_of_fold, is_out_of_fold
from swingkd.trainer.protections import check_protection, default_protection


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
class GivenData:
    """The data that the trainer was made with, and what the user does about them, see `PrivateDistillationTrainer`."""

    train_dataset: Dataset | IterableDataset | None = None
    eval_dataset: Dataset | IterableDataset | dict[str, Dataset] | None = None
    tagger: Tagger | None = None
    target_protection: Protection | None = None
    surrogates: Surrogates | None = None


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
        check_rows(rows, self.by_role)
        return rows

    def evaluated(self, rows: Any, reading: Reading, description: str) -> Any:
        """Return rows that are prepared to be evaluated: no teacher was trained on them."""
        if isinstance(self.teacher, OutOfFoldTeacher):
            rows = unseen(rows)
        return self.task.prepare(rows, reading, description=description, keep=(FOLD,))

    def read_by(self, role: str) -> Any:
        """Return what prepares the inputs of a model."""
        own = self.teacher_processing_class if role == "teacher" else None
        return own if own is not None else self.processing_class


@dataclass(frozen=True)
class Setup:
    """What a trainer decided.

    Args:
        args: the caller's settings with the protection, the row length and what DP-SGD needs.
        models: the loaded models; the student with its adapter and hint projection.
        cache: what wrote the teacher's targets into the training rows; `None`: a live teacher, or none.
        adapter: what a new student is to get.
        reading: how rows are made of what a user has.
        train_dataset, eval_dataset: the prepared rows.
        own: the user's own protection.
        why: the reason for the protection.
        mentions: how many of them the tagger had missed, of values that it had found elsewhere.
    """

    args: PrivateDistillationConfig
    models: Models
    cache: CacheInfo | None
    adapter: PeftConfig | None
    reading: Reading
    train_dataset: Dataset | IterableDataset | None
    eval_dataset: Dataset | IterableDataset | dict[str, Dataset] | None
    own: Protection | None = None
    why: str = ""
    mentions: int = 0

    @classmethod
    def of(cls, given: GivenModels, data: GivenData, args: PrivateDistillationConfig) -> Setup:
        """Load the models, choose the protection, check that all fit, add the adapter, and prepare the rows.

        Args:
            given, data: what the trainer was made with.
            args: the settings; they are left as they are.

        Raises:
            ValueError: what was given does not fit together; what costs little is looked at first.
        """
        args = args.settled()
        if any(isinstance(part, IterableDataset) for part in (data.train_dataset, *parts_of(data.eval_dataset))):
            args = args.of_streams()
        check_kind(data.train_dataset, "train_dataset", several=False, named=False)
        check_kind(data.eval_dataset, "eval_dataset", named=False)
        check_best_metric(args, data.eval_dataset)
        models = load_models(given, data, args)
        args, cache, why = choose_protection(data, args, models)
        args = check_fit(given.peft_config, args, models)
        models = add_adapter(given.peft_config, args, models)
        return replace(prepare_rows(data, given.peft_config, args, models, cache), why=why)

    def with_student(self, student: PreTrainedModel) -> Setup:
        """Return the same with another student, which is looked at as the first one was.

        Raises:
            ValueError: it does not fit.
        """
        models = replace(self.models, student=_student_of(self.models.task, student, self.args))
        check_fit(self.adapter, self.args, models)
        return replace(self, models=add_adapter(self.adapter, self.args, models))

    def evaluated(self, dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
        """Return rows that are evaluated, prepared as the training rows were; a classifier's may lack labels."""
        # Row by row, as they were given: whoever asks for predictions counts on it.
        settings = replace(self.reading.settings, packing=None)
        reading = replace(self.reading, labelled=False, settings=settings)
        return self.models.checked(self.models.evaluated(dataset, reading, "eval"))

    def collator(self) -> Callable:
        """Return what makes batches of the rows."""
        models = self.models
        return models.task.collator(models.processing_class, models.teacher_processing_class, self.cache)

    @property
    def written(self) -> bool:
        """Whether cached targets were protected when they were written down."""
        return self.cache is not None and self.cache.protection is not None


def parts_of(dataset: Any) -> list[Any]:
    """Return a data set, or those of a dict."""
    return list(dataset.values()) if isinstance(dataset, dict) else [dataset]


def load_models(given: GivenModels, data: GivenData, args: PrivateDistillationConfig) -> Models:
    """Load the models and what prepares their inputs, once everything was looked at that needs no model."""
    student, teacher, public = map(_named, (given.student, given.teacher, given.public))
    if isinstance(teacher, str) and is_out_of_fold(teacher):
        teacher = OutOfFoldTeacher.load(teacher)
    for role, model in (("model_init", student), ("teacher_model", teacher), ("public_model", public)):
        known = (str, PreTrainedModel, PeftModel, *((OutOfFoldTeacher,) if role == "teacher_model" else ()))
        if model is not None and not isinstance(model, known):
            raise ValueError(f"{role} gives a {type(model).__name__}. Pass a model of transformers, or its name.")
    check_different_models(student, teacher)
    check_public(public, teacher)
    check_one_device(args)
    check_half(args.bf16, args.device)
    check_publishing(args)
    if args.differentially_private:
        check_dp_rows(args, data.train_dataset)
    first = teacher.one if isinstance(teacher, OutOfFoldTeacher) else teacher
    task = task_of(first if first is not None else student, args.task)
    check_teacher_processing(task, given.teacher_processing_class)
    processing_class = given.processing_class
    if processing_class is None:
        processing_class = _load_processing_class(student, task, args)
    check_processing(processing_class, task)
    processing_class, teacher_processing_class = map(padding, (processing_class, given.teacher_processing_class))
    ledger = first_ledger(student, teacher, args)
    teacher_options: Any = args.teacher_model_init_kwargs or {}
    if teacher_options and not isinstance(teacher, str):
        raise ValueError(
            "teacher_model_init_kwargs are for a teacher that is given by its name; this one is loaded already. Load "
            "it with them, or pass its name."
        )
    return Models(
        task,
        _student_of(task, student, args),
        load_pretrained(task.auto_model, teacher, role="teacher", **teacher_options) if teacher is not None else None,
        load_pretrained(task.auto_model, public, role="public model") if public is not None else None,
        processing_class,
        teacher_processing_class,
        ledger,
        names={"student": public_name(name_of(student)), "teacher": public_name(name_of(teacher))},
        began_on_hub=is_hub_id(name_of(student)),
    )


def _student_of(task: Task, student: str | PreTrainedModel, args: PrivateDistillationConfig) -> PreTrainedModel:
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


def choose_protection(
    data: GivenData, args: PrivateDistillationConfig, models: Models
) -> tuple[PrivateDistillationConfig, CacheInfo | None, str]:
    """Return the settings with a protection, what wrote cached targets (they may be protected), and the reason.

    A protection of the user's own has no name; nothing else is chosen in its place.
    """
    cache = check_cached_teacher(
        models.task, data.train_dataset, teacher=models.teacher, tokenizer=models.processing_class, args=args
    )
    written = cache.protection if cache is not None else None
    public, has_teacher = models.public is not None, models.teacher is not None or cache is not None
    own = data.target_protection
    chosen, why = args.protection or written, "as asked for" if args.protection else "as the cache was written"
    if own is not None:
        why = "the caller's own"
    elif chosen is None:
        known = {"public": public, "teacher": has_teacher}
        replaceable = cache is None and can_be_made_up(models.task, data.train_dataset, data.tagger)
        chosen, why = default_protection(args, models.task, **known, replaceable=replaceable)
    check_protection(chosen, args, own, public=public, known=written is not None or own is not None)
    return args.settled(protection=chosen), cache, why


def check_fit(
    adapter: PeftConfig | None, args: PrivateDistillationConfig, models: Models
) -> PrivateDistillationConfig:
    """Check that the models fit each other and their tokenizers; return the settings with the length of a row."""
    check_task(models.task, models.by_role, args)
    check_public(models.public, models.teacher)
    if isinstance(models.teacher, OutOfFoldTeacher):
        check_out_of_fold(models.teacher, args)
    for role, model in models.every[1:]:
        check_apart(models.student, model, role)
        if role == "teacher" and args.protection != "none" and not args.start_from_teacher:
            check_start(models.student, model)
    if models.task.name == "image-classification":
        for role, model in models.every:
            if role != "student" and models.read_by(role) is models.processing_class:
                check_pixels(role, model, models.processing_class)
    tokenizers = (models.processing_class, models.teacher_processing_class)
    length = longest_row(args, models.by_role.values(), *tokenizers)
    for role, model in models.every:
        tokenizer = models.read_by(role)
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            check_tokenizer(role, model, tokenizer, models.task)
            align_padding(role, model, tokenizer)
            check_length(role, model, length)
            if models.task.name == "text-classification":
                check_padding_is_unread(role, model, tokenizer)
    if adapter is not None:
        check_adapter(adapter)
    return args.settled(max_length=length)


def add_adapter(adapter: PeftConfig | None, args: PrivateDistillationConfig, models: Models) -> Models:
    """Give the student its adapter, and the projection that hints are learnt through."""
    student = models.student
    if adapter is not None and isinstance(student, PeftModel):
        raise ValueError(
            "The student has an adapter already, and peft_config would put another one around it. Pass one of the "
            "two: train the adapter that it has, or merge it first (model.merge_and_unload())."
        )
    if adapter is not None:
        student = get_peft_model(student, adapter_of_task(adapter, models.task, student))
    if args.hidden_weight > 0 and models.teacher is not None:
        widths = hidden_size("student", student), hidden_size("teacher", models.teacher)
        student.add_module("hint_projection", HintProjection(*widths))
    check_precision(student)
    return replace(models, student=student)


def prepare_rows(
    data: GivenData,
    adapter: PeftConfig | None,
    args: PrivateDistillationConfig,
    models: Models,
    cache: CacheInfo | None,
) -> Setup:
    """Tokenise and tag the rows, and check that there is something to learn, and to protect."""
    task, train, evaluation, mentions = models.task, data.train_dataset, data.eval_dataset, 0
    if isinstance(models.teacher, OutOfFoldTeacher) and train is not None:
        train = models.teacher.dealt(train)
    check_made_up(args, task, train, data.tagger, cache, data.surrogates)
    reading = Reading(
        models.processing_class,
        data.tagger,
        args.data_settings,
        models.student,
        models.teacher_processing_class,
        args.dataset_num_proc,
    )
    with args.main_process_first(desc="tagging", local=True):
        reading, found = consistent(reading, args, task, train)
    made_up, unlabelled = reading, replace(reading, labelled=False)
    if train is not None and cache is None:
        made_up, counted = with_surrogates(reading, args, task, train, found, data.surrogates)
        if counted is not None:
            models.ledger.record(counted)
    with args.main_process_first(desc="tokenising", local=True):
        if train is not None:
            before = reading.tagger.added if isinstance(reading.tagger, ConsistentTagger) else 0
            train = task.prepare(train, made_up, description="train", keep=(args.privacy_unit, FOLD))
            mentions = reading.tagger.added - before if isinstance(reading.tagger, ConsistentTagger) else 0
        if isinstance(evaluation, dict):
            evaluation = {name: models.evaluated(part, unlabelled, name) for name, part in evaluation.items()}
        elif evaluation is not None:
            evaluation = models.evaluated(evaluation, unlabelled, "eval")

    train = models.checked(train)
    if isinstance(evaluation, dict):
        evaluation = {name: models.checked(part) for name, part in evaluation.items()}
    else:
        evaluation = models.checked(evaluation)
    known = {"teacher": models.teacher, "tokenizer": models.processing_class, "args": args}
    for part in parts_of(evaluation):
        check_same_cache(check_cached_teacher(task, part, required=False, **known), cache)
    if train is not None:
        check_something_to_learn(train)
        if args.protection != "none" or data.tagger is not None or data.target_protection is not None:
            check_something_private(train, args.protection, args.private_threshold)
    return Setup(args, models, cache, adapter, reading, train, evaluation, data.target_protection, mentions=mentions)
