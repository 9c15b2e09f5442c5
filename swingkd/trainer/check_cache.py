"""Checks of cached targets before the first step."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc
import xxhash
from datasets import Dataset, Features, IterableDataset, List, Value
from numpy.lib.stride_tricks import sliding_window_view
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.data.columns import row_lengths
from swingkd.data.prepare import column_names
from swingkd.data.teacher_columns import CacheInfo, model_fingerprint, tokenizer_fingerprint
from swingkd.models.inputs import vocabulary_size
from swingkd.tasks import Task
from swingkd.trainer.config import SOFTENING, PrivateDistillationConfig
from swingkd.trainer.out_of_fold import check_alpha

_WORD = re.compile(r"\w+")
#: From so many words on a text is told from others wherever it stands; "Thank you." says nothing.
FEWEST_WORDS = 4
#: The type of rows of tokens or words, where some are empty.
ID_ROWS = Features({"input_ids": List(Value("int64"))})


def check_cached_teacher(
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
            f"The teacher was cached with another tokenizer ({info.vocabulary} tokens; this one has "
            f"{vocabulary_size(tokenizer)})."
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
    if info.out_of_fold and required:
        check_alpha(args)
    if args.hidden_weight > 0:
        raise ValueError("hidden_weight > 0 needs the teacher's hidden states, which a cache does not keep.")
    support = args.noise_support or info.vocabulary
    tagged = info.protection is None and "pii_likelihood" in column_names(dataset)
    if tagged and args.protection in SOFTENING and support > info.top_k:
        raise ValueError(
            f"noise_support={args.noise_support} reaches beyond the {info.top_k} tokens that the cache kept. Set "
            f"noise_support={info.top_k} or less, or cache more with top_k."
        )
    if info.protection is not None and args.protection not in (None, info.protection):
        raise ValueError(
            f"The targets were protected with {info.protection!r} when they were written; protection="
            f"{args.protection!r} cannot be applied to them any more. Leave protection unset."
        )
    if info.protection is not None and info.private_threshold not in (None, args.private_threshold):
        raise ValueError(
            f"The targets were protected from a likelihood of {info.private_threshold} on when they were written: set "
            f"private_threshold={info.private_threshold}."
        )
    if info.protection is not None and args.temperature_mode != "teacher_only":
        raise ValueError(
            "The targets were protected when they were written, for a student at temperature 1: set "
            "temperature_mode='teacher_only'."
        )
    return info


def check_same_cache(info: CacheInfo | None, trained: CacheInfo | None) -> None:
    """Refuse to evaluate on another cache than what is learnt from (`None`: a live teacher)."""
    if info is None or info == trained or (trained is None and info.protection is None):
        return
    raise ValueError(
        "The evaluation data carries cached targets that differ from what the student learns from (another teacher, "
        "temperature, size or protection). Cache it the same way, or remove its columns (teacher_...)."
    )


def word_ids(text: str) -> list[int]:
    """Return a number for each word of a text, whatever case it has and whatever stands around it.

    A text's first and last tokens are others where it stands within a longer one; its words are not.
    """
    return [
        xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) >> 1 for word in _WORD.findall(text.casefold())
    ]


def shares_text(rows: Dataset, private: Dataset, length: int = 13, shortest: int | None = None) -> np.ndarray:
    """Return which rows share a run of `length` tokens, or a whole shorter row, with private ones; bool [rows].

    Args:
        rows, private: with a column `input_ids`, of tokens or of words.
        length: of a run.
        shortest: from so many on, a shorter row is looked for within longer ones too; default: it is not.
    """
    sizes, known_sizes = row_lengths(rows), row_lengths(private)
    shared = np.zeros(len(rows), bool)

    def meet(places: np.ndarray, known: np.ndarray, run: int) -> None:
        # Most often nothing is of such a length, and nothing need be read.
        if len(places) and len(known):
            hashes = np.unique(np.concatenate(list(_runs(private.select(known), run))))
            found = (bool(np.isin(of, hashes).any()) for of in _runs(rows.select(places), run))
            shared[places] |= np.fromiter(found, bool, len(places))

    for size in np.union1d(sizes, known_sizes):
        if not 0 < size < length:
            continue
        whole, known_whole = np.flatnonzero(sizes == size), np.flatnonzero(known_sizes == size)
        inside = shortest is not None and size >= shortest
        meet(np.flatnonzero(sizes >= size) if inside else whole, known_whole, size)
        if inside:
            meet(whole, np.flatnonzero(known_sizes >= size), size)
    meet(np.flatnonzero(sizes >= length), np.flatnonzero(known_sizes >= length), length)
    return shared


def _runs(rows: Dataset, length: int) -> Iterator[np.ndarray]:
    """Yield a hash of each run of so many tokens in each row."""
    # A polynomial hash modulo 2^64, over all windows at once.
    powers = np.array([pow(6364136223846793005, i, 2**64) for i in range(length)], np.uint64)
    for ids in rows["input_ids"]:
        windows = sliding_window_view(np.asarray(ids, np.int64), length)
        yield ((windows + 1).astype(np.uint64) * powers).sum(1)
