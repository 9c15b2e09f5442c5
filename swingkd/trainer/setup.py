"""What a trainer decides before it begins: its models, what protects private tokens, how long rows are, its rows.

A constructor decides and never writes into what the user passed: the decisions live in `Setup`, and its `args` are a
copy of the caller's with what was decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.data.columns import FOLD
from swingkd.data.teacher_columns import CacheInfo
from swingkd.losses import HintProjection
from swingkd.models.inputs import align_padding
from swingkd.surrogates import Surrogates
from swingkd.tagging import ConsistentTagger, Tagger
from swingkd.targets import Protection
from swingkd.tasks import Reading
from swingkd.trainer.adapters import adapter_of_task
from swingkd.trainer.check_cache import check_cached_teacher, check_same_cache
from swingkd.trainer.check_data import check_best_metric, check_kind, check_something_private, check_something_to_learn
from swingkd.trainer.check_models import (
    check_adapter,
    check_apart,
    check_length,
    check_padding_is_unread,
    check_precision,
    check_public,
    check_start,
    check_task,
    check_teacher_processing,
    check_tokenizer,
    hidden_size,
    longest_row,
)
from swingkd.trainer.check_pixels import check_pixels
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.made_up_rows import can_be_made_up, check_made_up, consistent, with_surrogates
from swingkd.trainer.on_policy import check_on_policy
from swingkd.trainer.out_of_fold import OutOfFoldTeacher, check_out_of_fold
from swingkd.trainer.protections import check_protection, default_protection
from swingkd.trainer.run_models import GivenModels, Models, load_models, load_student


@dataclass(frozen=True)
class GivenData:
    """The data that the trainer was made with, and what the user does about them, see `PrivateDistillationTrainer`."""

    train_dataset: Dataset | IterableDataset | None = None
    eval_dataset: Dataset | IterableDataset | dict[str, Dataset] | None = None
    tagger: Tagger | None = None
    target_protection: Protection | None = None
    surrogates: Surrogates | None = None


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
        models = load_models(given, data.train_dataset, args)
        args, cache, why = choose_protection(data, args, models)
        args = check_fit(given.peft_config, args, models)
        models = add_adapter(given.peft_config, args, models)
        return replace(prepare_rows(data, given.peft_config, args, models, cache), why=why)

    def with_student(self, student: PreTrainedModel) -> Setup:
        """Return the same with another student, which is looked at as the first one was.

        Raises:
            ValueError: it does not fit.
        """
        models = replace(self.models, student=load_student(self.models.task, student, self.args))
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
    # Once more: by now a protection was chosen.
    check_teacher_processing(models.task, models.teacher_processing_class, args)
    check_public(models.public, models.teacher)
    # No answer of out-of-fold teachers needs a protection: that is not to say that nothing is private.
    private = args.protection != "none" or isinstance(models.teacher, OutOfFoldTeacher)
    if isinstance(models.teacher, OutOfFoldTeacher):
        check_out_of_fold(models.teacher, args)
    for role, model in models.every[1:]:
        check_apart(models.student, model, role)
        if role == "teacher" and private and not args.start_from_teacher:
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
            # A teacher that reads its own tokens reads as many as it can.
            if role != "teacher" or models.teacher_length is None:
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
    live = models.teacher if cache is None else None
    check_on_policy(args, task, live, out_of_fold=isinstance(live, OutOfFoldTeacher))
    reading = models.reading(data.tagger, args)
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
        check_something_to_learn(train, args.alpha)
        if args.protection != "none" or data.tagger is not None or data.target_protection is not None:
            check_something_private(train, args.protection, args.private_threshold)
    return Setup(args, models, cache, adapter, reading, train, evaluation, data.target_protection, mentions=mentions)
