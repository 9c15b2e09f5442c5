"""What a classifier reads of a user's rows: texts, pairs of texts or words, their labels, and how private they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from swingkd.data import DataSettings
from swingkd.data.columns import IGNORE, stored
from swingkd.models.class_labels import class_number, described
from swingkd.tagging import CharTags, align, dilate
from swingkd.targets import TokenFacts
from swingkd.targets.population import GROUP_STRIDE

_LABEL_FIELDS = ("label", "labels", "ner_tags", "tags")
_PAIR = ("sentence1", "sentence2")


def text_parts(batch: dict[str, list], settings: DataSettings) -> tuple[list[list[str]], list[str]]:
    """Return the columns with text, one or the two of a pair, and the whole text of each row.

    Raises:
        ValueError: there are none, or a row has no text.
    """
    field = settings.text_field
    names = [field] if isinstance(field, str) else list(field)
    if names == ["text"] and "text" not in batch and set(_PAIR) <= set(batch):
        names = list(_PAIR)
    parts = [batch[name] for name in names if name in batch]
    if not len(parts) == len(names) <= 2 or not all(isinstance(text, str) for part in parts for text in part):
        raise ValueError(
            f"A row has no text in {' and '.join(map(repr, names))} (the columns are {', '.join(batch)}). Set "
            "dataset_text_field, to two columns for sentence pairs, and drop rows without text."
        )
    return parts, ["\n".join(row) for row in zip(*parts, strict=True)]


def encoded_parts(
    tokenizer: PreTrainedTokenizerBase, parts: list[list[str]], max_length: int
) -> tuple[dict[str, list], list[np.ndarray]]:
    """Return what a model reads of texts or pairs, and where each token stands in the whole text, [tokens, 2]."""
    encoded = tokenizer(*parts, truncation=True, max_length=max_length, return_offsets_mapping=True)
    # Which of the two it is of; of one text it says nothing.
    names = ("input_ids", *(("token_type_ids",) if len(parts) > 1 and "token_type_ids" in encoded else ()))
    offsets = [np.array(of, np.int64).reshape(-1, 2) for of in encoded["offset_mapping"]]
    for i, of in enumerate(offsets if len(parts) > 1 else ()):
        second = np.array([part == 1 for part in encoded.sequence_ids(i)])
        of[second] += len(parts[0][i]) + 1
    return {name: encoded[name] for name in names}, offsets


def label_field(columns: Sequence[str], settings: DataSettings, needed: bool = True) -> str | None:
    """Return the column with the labels; `None` where there is none and none is needed.

    Raises:
        ValueError: there is none.
    """
    names = (settings.label_field,) if settings.label_field else _LABEL_FIELDS
    if settings.label_field is None and {"label", "labels"} <= set(columns):
        raise ValueError(
            "The dataset has a column 'label' and a column 'labels'. Name the one to learn: dataset_label_field."
        )
    field = next((name for name in names if name in columns), None)
    if field is None and needed:
        raise ValueError(
            f"The dataset has the columns {list(columns)}; none of them is {' or '.join(map(repr, names))}. Set "
            "dataset_label_field to the column with the labels."
        )
    return field


def known_labels(dataset: Dataset | IterableDataset, field: str | None, needed: bool) -> str | None:
    """Return the column with the labels; `None` where it holds none: -1 in each row, as of test sets, or nothing."""
    if field is None or needed or not isinstance(dataset, Dataset) or not len(dataset):
        return field
    if isinstance(dataset.with_format(None).select_columns([field])[0][field], list):
        return field
    return None if set(dataset.with_format(None).unique(field)) <= {-1, None} else field


def by_number(dataset: Dataset | IterableDataset, config: Any) -> Dataset | IterableDataset:
    """Return rows whose `labels` are numbers of the model's classes."""
    if isinstance(dataset, IterableDataset):
        return dataset.map(numbered, batched=True, fn_kwargs={"config": config})
    labels = numbered({"labels": dataset.with_format(None)["labels"][:]}, config)["labels"]
    # Only this column is written: images are left where they are.
    return dataset.remove_columns("labels").add_column("labels", labels)


def number(label: Any, config: Any) -> int:
    """Return the number of a class.

    Raises:
        ValueError: the model has no such class.
    """
    if label == IGNORE:
        return IGNORE
    known = class_number(label, config)
    if known is None:
        raise ValueError(
            f"A label ({described(label)}) is none of the model's {config.num_labels} classes. Give its number, or "
            "its name in the model's config (id2label); dataset_label_field names the column with the labels."
        )
    return known


def numbered(batch: dict[str, list], config: Any) -> dict[str, list]:
    """Return the labels of a batch by their numbers, of examples or of tokens."""
    labels = [
        [number(label, config) for label in row] if isinstance(row, (list, tuple)) else number(row, config)
        for row in batch["labels"]
    ]
    return {"labels": labels}


def example_facts(text: str, tags: CharTags, offsets: np.ndarray, settings: DataSettings) -> TokenFacts:
    """Return what a whole example inherits of its tokens.

    Args:
        text: the example.
        tags: of its characters.
        offsets: [tokens, 2] of the tokens that a model sees, special ones empty.
        settings: `example_likelihood`.
    """
    real = offsets[:, 1] > offsets[:, 0]
    of_tokens = align(tags.likelihood, offsets)
    whole = of_tokens[real].mean() if settings.example_likelihood == "mean" else of_tokens.max(initial=0.0)
    likelihood = int(stored(whole if real.any() else 0.0))
    label = int(align(tags.labels, offsets)[of_tokens.argmax()]) if likelihood else 0
    group = label * GROUP_STRIDE + 1 if likelihood else 0
    return TokenFacts(likelihood=likelihood, group=group, span=text_hash(text))


def word_facts(words: list[str], tags: CharTags, dilation: int) -> TokenFacts:
    """Return what is known of each word, all [words]."""
    offsets = word_offsets(words)
    likelihood = stored(dilate(align(tags.likelihood, offsets), dilation))
    private = likelihood > 0
    group = np.where(private, align(tags.labels, offsets).astype(np.int64) * GROUP_STRIDE + 1, 0)
    span = np.array([text_hash(word) for word in words], np.int64).reshape(-1)
    return TokenFacts(likelihood=likelihood, group=group, shape=np.zeros_like(span), span=span)


def word_offsets(words: list[str]) -> np.ndarray:
    """Return where words stand that blanks join, [words, 2]."""
    lengths = np.array([len(word) for word in words], np.int64)
    starts = np.cumsum(lengths + 1) - lengths - 1
    return np.stack([starts, starts + lengths], axis=1).reshape(-1, 2)


def first_tokens(words: list[str], offsets: np.ndarray) -> np.ndarray:
    """Return the first token of each word, [words]; -1 where it has none (cut off, or not a character of it is known).

    Args:
        words: that blanks join.
        offsets: [tokens, 2] in the joined text.
    """
    first = np.full(len(words), -1, np.int64)
    real = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
    if not len(real) or not words:
        return first
    # By its last character: the first may be the blank before it.
    word = np.searchsorted(word_offsets(words)[:, 0], offsets[real, 1] - 1, side="right") - 1
    present, at = np.unique(word, return_index=True)
    first[present] = real[at]
    return first


def text_hash(text: str) -> int:
    """Hash an example or a word, whatever its case."""
    digest = hashlib.blake2b(text.casefold().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
