"""Classifiers of texts and of words: the answers are classes, and the likelihood is that of the text they are about.

A whole example inherits the largest likelihood of its tokens, or their mean (`example_likelihood`); a word the largest
of its own.  What is private about an answer is that it belongs to *this* example, or to this word, so the draw of
replayed noise is chosen by a hash of the example or the word: copies share it, wherever they stand.

The teacher may have a tokenizer of its own: its answers are about the same examples, or the same words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from swingkd.data import PII_COLUMNS, DataSettings, column_names, pad_rows, ready, tagged_map, unformatted
from swingkd.data.columns import IGNORE, likelihoods, stored
from swingkd.models.class_labels import check_class_names, class_number, described
from swingkd.models.inputs import OF_TOKENS, of_tokens
from swingkd.tagging import CharTags, align, dilate, tag_texts
from swingkd.tagging.windows import check_fast_tokenizer
from swingkd.targets import ProtectionName, TokenFacts
from swingkd.targets.population import GROUP_STRIDE
from swingkd.tasks.base import Task, labelled
from swingkd.tasks.classification_metrics import entity_metrics, example_metrics
from swingkd.tasks.predicted import predicted_tokens

_LABEL_FIELDS = ("label", "labels", "ner_tags", "tags")
TEACHER_INPUTS = ("teacher_input_ids", "teacher_attention_mask", "teacher_token_type_ids", "teacher_labels")


class LabelTask(Task):
    """A task whose answers are classes."""

    predicts_tokens = False

    def at(self, inputs):
        return labelled(inputs["labels"])

    def predicted(self, inputs, width, end):
        at = self.at(inputs)
        # Copies of an example or a word share their draw, wherever they stand.
        context = inputs["pii_span"][..., None].expand(*at.shape, width)
        return predicted_tokens(inputs, at, at, context)


class TextTask(LabelTask):
    """A classifier that reads text."""

    auto_processor = AutoTokenizer
    columns = ("input_ids", "attention_mask", *OF_TOKENS, *TEACHER_INPUTS)

    def prepare(self, dataset, reading, *, description="train", keep=()):
        dataset = unformatted(dataset)
        columns = column_names(dataset)
        field = label_field(columns, reading.settings)
        config, other = reading.model.config, reading.teacher_processing_class
        check_class_names(dataset.features, field, config)
        if "input_ids" in columns:
            needed = {"teacher_input_ids"} | ({"teacher_labels"} if self.name == "token-classification" else set())
            if other is not None and not needed <= set(columns):
                raise ValueError(
                    "The dataset is tokenised already, so it cannot be tokenised for the teacher. Pass the text."
                )
            dataset = dataset if field == "labels" else dataset.rename_column(field, "labels")
            each = ("input_ids", "attention_mask", *OF_TOKENS)
            if self.name == "token-classification":
                each = (*each, "labels", *PII_COLUMNS)
            dataset = ready(dataset, reading.tagger, each)
            return by_number(dataset, config)
        for tokenizer in (reading.processing_class, other):
            if tokenizer is not None:
                check_fast_tokenizer(tokenizer)
        known = {
            "tokenizer": reading.processing_class,
            "teacher_tokenizer": other,
            "tagger": reading.tagger,
            "settings": reading.settings,
            "config": config,
            "field": field,
        }
        return tagged_map(dataset, self.tokenise, known, **reading.mapping(dataset, description, keep))

    @staticmethod
    def tokenise(batch, tokenizer, teacher_tokenizer, tagger, settings, config, field, version):
        """Tokenise and tag a batch of rows."""
        raise NotImplementedError

    def collator(self, processing_class, teacher_processing_class=None, cache=None):
        teacher = teacher_processing_class.pad_token_id if teacher_processing_class is not None else 0
        return LabelCollator(processing_class.pad_token_id, teacher)

    def call(self, inputs, model):
        return {name: inputs[name] for name in ("input_ids", "attention_mask")} | of_tokens(inputs, model)

    def of_teacher(self, inputs):
        if "teacher_input_ids" not in inputs:
            return inputs
        own = {name.removeprefix("teacher_"): inputs[name] for name in TEACHER_INPUTS if name in inputs}
        return {"labels": inputs["labels"]} | own


class SequenceClassification(TextTask):
    """Say which class a text is of.  Rows have `text` and `label`, or `input_ids` and `label`."""

    name = "text-classification"
    auto_model = AutoModelForSequenceClassification
    # Of what is marked it leaves least to find (model_cards/swing-mts-sections): the class has other examples.
    default_protection: ClassVar[ProtectionName] = "drop"
    endings = ("ForSequenceClassification",)

    @staticmethod
    def tokenise(batch, tokenizer, teacher_tokenizer, tagger, settings, config, field, version):
        texts = batch.get(settings.text_field)
        if texts is None or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"A row has no text in {settings.text_field!r} (the columns are {', '.join(batch)}). Set "
                "dataset_text_field, and drop rows without text."
            )
        options = {"truncation": True, "max_length": settings.max_length}
        encoded = tokenizer(texts, return_offsets_mapping=True, **options)
        out: dict[str, list] = {
            "input_ids": encoded["input_ids"],
            "labels": [number(label, config) for label in batch[field]],
        }
        read = [encoded["offset_mapping"]]
        if teacher_tokenizer is not None:
            teacher_encoded = teacher_tokenizer(texts, return_offsets_mapping=True, **options)
            out["teacher_input_ids"] = teacher_encoded["input_ids"]
            read.append(teacher_encoded["offset_mapping"])
        if tagger is None:
            return out
        out |= {key: [] for key in PII_COLUMNS}
        for i, (text, tags) in enumerate(zip(texts, tag_texts(tagger, texts), strict=True)):
            # What one of the two models sees of a text, its answer may be about.
            every = [example_facts(text, tags, np.array(of[i], np.int64).reshape(-1, 2), settings) for of in read]
            tagged = max(every, key=lambda facts: (facts.likelihood, facts.group))
            for column, value in zip(PII_COLUMNS, tagged, strict=True):
                out[column].append(value)
        return out

    def metrics(self, prediction, model):
        return example_metrics(prediction)


class TokenClassification(TextTask):
    """Say which class each word is of.  Rows have `tokens` (words) and `ner_tags`; a word's first token is asked."""

    name = "token-classification"
    auto_model = AutoModelForTokenClassification
    endings = ("ForTokenClassification",)

    @staticmethod
    def tokenise(batch, tokenizer, teacher_tokenizer, tagger, settings, config, field, version):
        if "tokens" not in batch:
            raise ValueError(
                f"The rows have {', '.join(batch)}; a token classifier needs 'tokens' (words) and labels."
            )
        if not all(isinstance(row, list) and all(isinstance(word, str) for word in row) for row in batch["tokens"]):
            raise ValueError("A row's 'tokens' are no list of words (None, or no text among them). Drop such rows.")
        words, texts = batch["tokens"], [" ".join(row) for row in batch["tokens"]]
        firsts, out = [], {}
        for prefix, reader in (("", tokenizer), ("teacher_", teacher_tokenizer)):
            if reader is None:
                continue
            encoded = reader(texts, truncation=True, max_length=settings.max_length, return_offsets_mapping=True)
            offsets = [np.array(part, np.int64).reshape(-1, 2) for part in encoded["offset_mapping"]]
            firsts.append([first_tokens(row, at) for row, at in zip(words, offsets, strict=True)])
            out[f"{prefix}input_ids"] = encoded["input_ids"]
        lengths = [[len(ids) for ids in out[name]] for name in out]
        names = [name.replace("input_ids", "labels") for name in out]
        out |= {name: [] for name in (*names, *(PII_COLUMNS if tagger is not None else ()))}
        tagged = tag_texts(tagger, texts) if tagger is not None else [None] * len(texts)
        for i, (row, labels, tags) in enumerate(zip(words, batch[field], tagged, strict=True)):
            if len(row) != len(labels):
                raise ValueError(f"A row has {len(row)} tokens and {len(labels)} labels: one for each is needed.")
            numbers = np.array([number(label, config) for label in labels], np.int64)
            # Both models are asked about the words that both of them see.
            seen = np.all([first[i] >= 0 for first in firsts], axis=0) & (numbers != IGNORE)
            for name, first, length in zip(names, firsts, lengths, strict=True):
                column = np.full(length[i], IGNORE, np.int64)
                column[first[i][seen]] = numbers[seen]
                out[name].append(column)
            if tags is not None:
                values = word_facts(row, tags, settings.dilation)
                for column, of_words in zip(PII_COLUMNS, values, strict=True):
                    placed = np.zeros(lengths[0][i], np.int64)
                    placed[firsts[0][i][seen]] = np.broadcast_to(of_words, len(row))[seen]
                    out[column].append(placed)
        return out

    def metrics(self, prediction, model):
        return entity_metrics(prediction, [model.config.id2label[i] for i in range(model.config.num_labels)])


def label_field(columns: Sequence[str], settings: DataSettings) -> str:
    """Return the column with the labels.

    Raises:
        ValueError: there is none.
    """
    names = (settings.label_field,) if settings.label_field else _LABEL_FIELDS
    field = next((name for name in names if name in columns), None)
    if field is None:
        raise ValueError(
            f"The dataset has the columns {list(columns)}; none of them is {' or '.join(map(repr, names))}. Set "
            "dataset_label_field to the column with the labels."
        )
    return field


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
    return TokenFacts(likelihood=likelihood, group=group, span=span)


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


class LabelCollator:
    """Pad texts, and the labels of their words where they have them, each to the longest.

    Args:
        pad_token_id: what fills `input_ids`.
        teacher_pad_token_id: what fills `teacher_input_ids`, where the teacher has a tokenizer of its own.
    """

    def __init__(self, pad_token_id: int, teacher_pad_token_id: int = 0):
        self.fillers = {"input_ids": pad_token_id, "attention_mask": 0}
        self.teacher_fillers = {"teacher_input_ids": teacher_pad_token_id, "teacher_attention_mask": 0}

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return tensors; `labels` and those about privacy are [rows], or [rows, longest] where words have them."""
        fillers = self.fillers | {name: 0 for name in OF_TOKENS if name in rows[0]}
        own = {"labels": IGNORE, **dict.fromkeys(PII_COLUMNS, 0)}
        if isinstance(rows[0]["labels"], int):
            batch = pad_rows(rows, fillers, "input_ids")
            batch |= {name: torch.tensor([row.get(name, own[name]) for row in rows]) for name in own}
        else:
            batch = pad_rows(rows, fillers | own, "input_ids")
        if "teacher_input_ids" in rows[0]:
            own = {"teacher_labels": IGNORE, "teacher_token_type_ids": 0}
            words = {name: value for name, value in own.items() if name in rows[0]}
            batch |= pad_rows(rows, self.teacher_fillers | words, "teacher_input_ids")
        batch["pii_likelihood"] = likelihoods(batch["pii_likelihood"])
        return batch
