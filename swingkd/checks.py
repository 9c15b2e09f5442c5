"""Checks before the first step: each finds one mistake early and says what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from numpy.lib.stride_tricks import sliding_window_view
from peft import PeftConfig
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from swingkd.cached_columns import CacheInfo, model_fingerprint, tokenizer_fingerprint
from swingkd.classes import refuse_other_classes, refuse_other_problems
from swingkd.config import LONGEST, PrivateDistillationConfig
from swingkd.data import IGNORE, column_names
from swingkd.tasks import TASKS, Task, task_of


def different_models(student: str | PreTrainedModel, teacher: str | PreTrainedModel | None) -> None:
    """Refuse a teacher that is the student."""
    if student is teacher or (isinstance(student, str) and student == teacher):
        raise ValueError(
            "The teacher is the student: there would be nothing to distil. Pass two models; for self-distillation "
            "load the checkpoint twice."
        )


def one_device_per_process(args: TrainingArguments) -> None:
    """Refuse torch's DataParallel."""
    if args.n_gpu > 1:
        raise ValueError(
            f"This process sees {args.n_gpu} GPUs and would use DataParallel, which splits batches behind the loss's "
            "back. Start one process per GPU: accelerate launch --num_processes <GPUs> your_script.py."
        )


def can_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a padding token."""
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "The tokenizer has no padding token, so rows of different length cannot share a batch. Set one, for "
            "example tokenizer.pad_token = tokenizer.eos_token."
        )


def fits_tokenizer(
    role: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task = TASKS[0]
) -> None:
    """Refuse a model whose head or whose own tokenizer does not fit the shared one; added tokens are fine."""
    head = model.get_output_embeddings() if task.predicts_tokens else model.get_input_embeddings()
    rows = head.weight.shape[0] if head else model.config.vocab_size
    if rows < len(tokenizer):
        raise ValueError(
            f"The {role} model {'predicts' if task.predicts_tokens else 'knows'} {rows} tokens, the tokenizer has "
            f"{len(tokenizer)}. Teacher and student must share one tokenizer: pass the one both were trained with."
        )
    name = getattr(model.config, "_name_or_path", "")
    if not name:
        return
    try:
        own = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError):
        return  # Saved without a tokenizer: the size of its head is all there is to compare.
    if len(own) <= len(own.all_special_tokens):
        return  # transformers makes up an empty tokenizer where a folder has none.
    ids = tokenizer.get_vocab()
    if any(ids.get(token) != number for token, number in own.get_vocab().items()):
        raise ValueError(
            f"The {role} model {name!r} has another tokenizer ({len(own)} tokens) than the one passed "
            f"({len(tokenizer)}): the same id would mean different tokens. "
            + (
                "Choose a teacher and a student of one family."
                if task.predicts_tokens
                else "Pass the teacher's own as teacher_processing_class, the student's as processing_class."
            )
        )


def positions(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model can place; `None` where it names no limit."""
    allowed = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None) if name.endswith("position_embeddings") else None
        # RoBERTa and its kin count from behind the padding token.
        if allowed is not None and padding is not None:
            return allowed - padding - 1
    return allowed


def longest_row(args: PrivateDistillationConfig, models: Iterable[PreTrainedModel], *tokenizers: object) -> int:
    """Return how many tokens a row may have: what was asked for, or what every model and tokenizer allows."""
    if args.max_length is not None:
        return args.max_length
    allowed = [positions(model) for model in models]
    allowed += [getattr(tokenizer, "model_max_length", None) for tokenizer in tokenizers]
    return min([LONGEST, *(limit for limit in allowed if limit)])


def fits_length(role: str, model: PreTrainedModel, max_length: int) -> None:
    """Refuse rows longer than the model's positions."""
    allowed = positions(model)
    if allowed is not None and max_length > allowed:
        raise ValueError(
            f"max_length={max_length} is longer than the {role} model allows ({allowed} positions). Set "
            f"max_length={allowed} or less."
        )


def rows_fit(dataset: Dataset | IterableDataset, models: dict[str, PreTrainedModel]) -> None:
    """Refuse an empty data set, and tokenised rows that are longer than the positions of a model (by its role)."""
    if not isinstance(dataset, Dataset):
        return
    if not len(dataset):
        raise ValueError("The data set is empty: no row is left after tokenising.")
    if "input_ids" not in dataset.column_names:
        return
    longest = max(
        pc.max(pc.list_value_length(batch["input_ids"])).as_py()
        for batch in dataset.select_columns(["input_ids"]).with_format("arrow").iter(10_000)
    )
    for role, model in models.items():
        allowed = positions(model)
        if allowed is not None and longest > allowed:
            raise ValueError(
                f"The longest tokenised row has {longest} tokens, the {role} model allows {allowed}. Cut the rows, or "
                "pass packing=True to have them cut into blocks of max_length."
            )


def _values(dataset: Dataset, column: str) -> Iterator[pa.ChunkedArray]:
    """Yield the numbers of a column in parts, of all tokens where it holds lists."""
    for batch in dataset.select_columns([column]).with_format("arrow").iter(10_000):
        values = batch[column]
        yield pc.list_flatten(values) if pa.types.is_nested(values.type) else values


def masks_anew(args: PrivateDistillationConfig) -> None:
    """Refuse workers that would go on with the masks of the first epoch.

    Raises:
        ValueError: they are persistent.
    """
    if args.dataloader_persistent_workers:
        raise ValueError(
            "dataloader_persistent_workers=True keeps the masks of the first epoch. Leave it out for fill-mask."
        )


def something_to_learn(dataset: Dataset | IterableDataset) -> None:
    """Refuse data in which no token has a label."""
    if not isinstance(dataset, Dataset) or "labels" not in dataset.column_names:
        return
    if not any(pc.any(pc.not_equal(part, IGNORE)).as_py() for part in _values(dataset, "labels")):
        raise ValueError(
            "No token of the training set has a label, so nothing would be learnt. Prompts longer than max_length "
            "leave nothing of their completions: raise max_length, or pass completion_only_loss=False."
        )


def cached_teacher(
    task: Task,
    dataset: Dataset | IterableDataset | None,
    *,
    teacher: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    args: PrivateDistillationConfig,
    required: bool = True,
) -> CacheInfo | None:
    """Return what wrote the teacher's targets into the data, `None` where nothing did; refuse what does not fit."""
    if dataset is None:
        return None
    if "teacher_cache" not in column_names(dataset):
        if teacher is None and required and args.alpha > 0:
            raise ValueError(
                "There is no teacher: pass teacher_model=..., or data in which its targets are cached (swingkd "
                "cache-teacher). To learn from the text alone, set alpha=0."
            )
        return None
    if task.name != "text-generation":
        raise ValueError(
            f"A cached teacher is for causal language models, not for {task.name}: pass teacher_model=..."
        )
    if isinstance(dataset, Dataset):
        writers = pc.unique(dataset.with_format("arrow")["teacher_cache"].combine_chunks()).to_pylist()
    else:
        writers = [next(iter(dataset))["teacher_cache"]]
    if len(writers) != 1:
        raise ValueError(
            f"The rows carry targets of {len(writers)} different caches. Cache one teacher, with one setting, on all."
        )
    info = CacheInfo.loads(writers[0])
    if info.tokenizer != tokenizer_fingerprint(tokenizer):
        raise ValueError(
            f"The teacher was cached with another tokenizer ({info.vocabulary} tokens; this one has {len(tokenizer)})."
        )
    if info.temperature != args.temperature:
        raise ValueError(
            f"The teacher was cached for temperature={info.temperature}, the tail at temperature={args.temperature} "
            f"is not known. Set temperature={info.temperature}, or cache the teacher again."
        )
    if teacher is not None and info.teacher != model_fingerprint(teacher):
        raise ValueError(
            "The data carries the targets of another teacher than teacher_model. Pass teacher_model=None to learn "
            "from the cache, or remove its columns (teacher_...) to ask this teacher."
        )
    if args.hidden_weight > 0:
        raise ValueError("hidden_weight > 0 needs the teacher's hidden states, which a cache does not keep.")
    support = args.noise_support or info.vocabulary
    tagged = info.protection is None and "pii_likelihood" in column_names(dataset)
    if tagged and args.protection in ("noise", "none") and support > info.top_k:
        raise ValueError(
            f"noise_support={args.noise_support} reaches beyond the {info.top_k} tokens that the cache kept. Set "
            f"noise_support={info.top_k} or less, or cache more with top_k."
        )
    if info.protection is not None and args.protection not in (None, info.protection):
        raise ValueError(
            f"The targets were protected with {info.protection!r} when they were written; protection="
            f"{args.protection!r} cannot be applied to them any more. Leave protection unset."
        )
    if info.protection is not None and args.temperature_mode != "teacher_only":
        raise ValueError(
            "The targets were protected when they were written, for a student at temperature 1: set "
            "temperature_mode='teacher_only'."
        )
    return info


def keeps_positions(peft_config: PeftConfig) -> None:
    """Refuse adapters that put tokens of their own before the text (a prefix in the cache is fine)."""
    if peft_config.is_prompt_learning and peft_config.peft_type != "PREFIX_TUNING":
        raise ValueError(
            f"{type(peft_config).__name__} puts tokens of its own before the text: student and teacher would not look "
            "at the same positions. Use an adapter on the weights, for example LoraConfig."
        )


def fits_task(task: Task, models: dict[str, PreTrainedModel], args: PrivateDistillationConfig) -> None:
    """Refuse models that are made for another task, or classes that differ; by their role, the student first."""
    for role, model in models.items():
        if args.task is None and task_of(model) is not task:
            raise ValueError(
                f"The {role} model is a {type(model).__name__}, made for {task_of(model).name}; the teacher is for "
                f"{task.name}. Load both with {task.auto_model.__name__}."
            )
        if not task.predicts_tokens:
            refuse_other_problems(role, model.config)
            refuse_other_classes(models["student"].config, model.config)
    if args.hidden_weight > 0 and not task.predicts_tokens:
        raise ValueError(
            f"hidden_weight > 0 matches the hidden states of tokens, and {task.name} has none that both models share. "
            "Set hidden_weight=0."
        )


def own_tokenizer(task: Task, processing_class: object) -> None:
    """Refuse a tokenizer of the teacher's own where its answers are tokens, or nothing is tokenised."""
    if processing_class is not None and task.name not in ("text-classification", "token-classification"):
        raise ValueError(
            f"teacher_processing_class is for classifiers of text; with {task.name} teacher and student share one."
        )


def evaluates_the_same_teacher(info: CacheInfo | None, trained: CacheInfo | None) -> None:
    """Refuse to evaluate on another cache than what is learnt from (`None`: a live teacher)."""
    if info is None or info == trained or (trained is None and info.protection is None):
        return
    raise ValueError(
        "The evaluation data carries cached targets that differ from what the student learns from (another teacher, "
        "temperature, size or protection). Cache it the same way, or remove its columns (teacher_...)."
    )


def shares_text(rows: Dataset, private: Dataset, length: int = 13) -> np.ndarray:
    """Return which rows share a run of `length` tokens, or a whole shorter row, with private ones; bool [rows]."""

    def runs(ids: list[int]) -> np.ndarray:
        part = np.asarray(ids, np.int64)
        windows = sliding_window_view(part, min(length, len(part))) if len(part) else np.zeros((0, 1), np.int64)
        # A polynomial hash modulo 2^64, over all windows at once.
        powers = np.array([pow(6364136223846793005, i, 2**64) for i in range(windows.shape[1])], np.uint64)
        return ((windows + 1).astype(np.uint64) * powers).sum(1)

    known = np.unique(np.concatenate([runs(ids) for ids in private["input_ids"]] or [np.zeros(0, np.uint64)]))
    return np.array([bool(np.isin(runs(ids), known).any()) for ids in rows["input_ids"]], bool)


def began_with(path: Path) -> None:
    """Refuse to resume a run without the secret it began with."""
    if not path.exists():
        raise ValueError(
            f"The run cannot go on as it began: {path} is missing. Copy the _private folder beside the checkpoints, "
            "or start afresh without resume_from_checkpoint."
        )


def something_private(dataset: Dataset | IterableDataset, protection: str | None) -> None:
    """Refuse to protect nothing: no likelihood at all, or one that is zero everywhere."""
    columns = column_names(dataset)
    if "pii_likelihood" not in columns:
        raise ValueError(
            f"protection={protection!r} needs to know which tokens are private, but there is neither a tagger nor a "
            "pii_likelihood column. Pass tagger=RuleTagger(), or protection='none' for ordinary distillation."
        )
    if isinstance(dataset, Dataset) and "int" not in str(dataset.features["pii_likelihood"]):
        raise ValueError(
            "The pii_likelihood column holds no whole numbers. It counts from 0 (ordinary) to 255 (surely private): "
            "write (likelihood * 255).round().astype('uint8')."
        )
    if protection == "drop" and isinstance(dataset, Dataset) and _all_sure(dataset):
        raise ValueError(
            "protection='drop' leaves out what is private, and all of the training set is surely private: nothing "
            "would be learnt. Choose another protection, or another tagger (swingkd tag shows what it finds)."
        )
    if isinstance(dataset, Dataset) and not any(
        pc.any(pc.greater(part, 0)).as_py() for part in _values(dataset, "pii_likelihood")
    ):
        raise ValueError(
            "The tagger found nothing private in the training set: the likelihood is 0 everywhere and nothing would "
            "be protected. Check the tagger on a few texts (swingkd tag), or pass tagger=None with protection='none'."
        )


def _all_sure(dataset: Dataset) -> bool:
    return all(pc.all(pc.equal(part, 255)).as_py() for part in _values(dataset, "pii_likelihood"))


def hidden_size(role: str, model: PreTrainedModel) -> int:
    """Return the width of a model's hidden states."""
    size = getattr(model.config.get_text_config(), "hidden_size", None)
    if size is None:
        raise ValueError(f"hidden_weight > 0 needs hidden states, but the {role} model's config names no hidden_size.")
    return size
