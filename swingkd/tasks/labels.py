"""Classifiers of texts and of words: the answers are classes, and the likelihood is that of the text they are about.

A whole example inherits the largest likelihood of its tokens, or their mean (`example_likelihood`); a word the largest
of its own.  What is private about an answer is that it belongs to *this* example, or to this word, so the draw of
replayed noise is chosen by a hash of the example or the word: copies share it, wherever they stand.

The teacher may have a tokenizer of its own: its answers are about the same examples, or the same words.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from swingkd.data import PII_COLUMNS, column_names, pad_rows, ready, retagged, tagged_map, unformatted
from swingkd.data.columns import IGNORE, add_facts, fold_of, likelihoods
from swingkd.data.made_up import made_up
from swingkd.data.retag import offsets_of, placed, special_ids
from swingkd.models.class_labels import check_class_names
from swingkd.models.inputs import OF_TOKENS, of_tokens
from swingkd.tagging import tag_texts
from swingkd.tagging.base import tagger_labels
from swingkd.tagging.windows import check_fast_tokenizer
from swingkd.targets import ProtectionName
from swingkd.tasks.base import Task, labelled
from swingkd.tasks.classification_metrics import entity_metrics, example_metrics, mean_loss
from swingkd.tasks.examples import (
    by_number,
    encoded_parts,
    example_facts,
    first_tokens,
    known_labels,
    label_field,
    number,
    text_parts,
    word_facts,
)
from swingkd.tasks.predicted import predicted_tokens

TEACHER_INPUTS = ("teacher_input_ids", "teacher_attention_mask", "teacher_token_type_ids", "teacher_labels")


class LabelTask(Task):
    """A task whose answers are classes."""

    predicts_tokens = False
    answers: ClassVar[str] = "examples"

    def at(self, inputs):
        return labelled(inputs["labels"])

    def predicted(self, inputs, width, end):
        at = self.at(inputs)
        # Copies of an example or a word share their draw, wherever they stand.
        span = inputs["pii_span"] if "pii_span" in inputs else torch.zeros_like(inputs["labels"])
        context = span[..., None].expand(*at.shape, width)
        return predicted_tokens(inputs, at, at, context)


class TextTask(LabelTask):
    """A classifier that reads text."""

    auto_processor = AutoTokenizer
    reads_surrogates, teaches_values = True, False
    columns = ("input_ids", "attention_mask", *OF_TOKENS, *TEACHER_INPUTS)

    def prepare(self, dataset, reading, *, description="train", keep=()):
        dataset = unformatted(dataset)
        columns = column_names(dataset)
        field = known_labels(dataset, label_field(columns, reading.settings, reading.labelled), reading.labelled)
        if field is None:
            # Nothing is learnt of them, so nothing is protected.
            reading = replace(reading, tagger=None, surrogates=None)
        config, other = reading.model.config, reading.teacher_processing_class
        known = {"tokenizer": reading.processing_class, "tagger": reading.tagger, "settings": reading.settings}
        if field is not None:
            check_class_names(dataset.features, field, config)
        if "input_ids" in columns:
            needed = {"teacher_input_ids"} | ({"teacher_labels"} if self.name == "token-classification" else set())
            if other is not None and not needed <= set(columns):
                raise ValueError(
                    "The dataset is tokenised already, so it cannot be tokenised for the teacher. Pass the text."
                )
            dataset = dataset if field in ("labels", None) else dataset.rename_column(field, "labels")
            each = ("input_ids", "attention_mask", *OF_TOKENS)
            if self.name == "token-classification":
                each = (*each, "labels", *PII_COLUMNS)
            if reading.tagger is not None and "pii_likelihood" not in columns and self.has_text(columns, reading):
                dataset = retagged(dataset, self.retag, known)
            dataset = ready(dataset, reading.tagger, each)
            return by_number(dataset, config) if field is not None else dataset
        for tokenizer in (reading.processing_class, other):
            if tokenizer is not None:
                check_fast_tokenizer(tokenizer)
        known |= {"teacher_tokenizer": other, "config": config, "field": field, "surrogates": reading.surrogates}
        return tagged_map(dataset, self.tokenise, known, **reading.mapping(dataset, description, keep))

    def texts(self, dataset, reading):
        if "input_ids" not in column_names(dataset):
            for batch in unformatted(dataset).iter(1000):
                yield self.whole(batch, reading.settings)

    @staticmethod
    def whole(batch, settings) -> list[str]:
        """Return the text of each row."""
        raise NotImplementedError

    @staticmethod
    def tokenise(batch, indices, tokenizer, teacher_tokenizer, tagger, settings, config, field, surrogates, version):
        """Tokenise and tag a batch of rows."""
        raise NotImplementedError

    @staticmethod
    def has_text(columns, reading) -> bool:
        """Tell whether rows that are tokenised already still have their text."""
        raise NotImplementedError

    @staticmethod
    def retag(batch, indices, tokenizer, tagger, settings, version):
        """Tag a batch of rows that are tokenised already."""
        raise NotImplementedError

    def collator(self, processing_class, teacher_processing_class=None, cache=None):
        teacher = teacher_processing_class.pad_token_id if teacher_processing_class is not None else 0
        return LabelCollator(processing_class.pad_token_id, teacher)

    def call(self, inputs, model):
        read = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        return read | of_tokens(inputs, model)

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
    def tokenise(batch, indices, tokenizer, teacher_tokenizer, tagger, settings, config, field, surrogates, version):
        parts, texts = text_parts(batch, settings)
        tagged = tag_texts(tagger, texts) if tagger is not None else []
        if surrogates is not None:
            ends = [len(first) for first in parts[0]] if len(parts) > 1 else ()
            made = made_up(texts, tagged, indices, tagger_labels(tagger), surrogates, settings.threshold, ends)
            texts, tagged = [one.text for one in made], [one.tags for one in made]
            parted = [one.parted(end) for one, end in zip(made, ends, strict=False)]
            parts = [[both[side] for both in parted] for side in (0, 1)] if parted else [texts]
        out, offsets = encoded_parts(tokenizer, parts, settings.max_length)
        if field is not None:
            out["labels"] = [number(label, config) for label in batch[field]]
        read = [offsets]
        if teacher_tokenizer is not None:
            own, offsets = encoded_parts(teacher_tokenizer, parts, settings.max_length)
            out |= {f"teacher_{name}": values for name, values in own.items()}
            read.append(offsets)
        if tagger is None:
            return out
        out |= {key: [] for key in PII_COLUMNS}
        for i, (text, tags) in enumerate(zip(texts, tagged, strict=True)):
            # What one of the two models sees of a text, its answer may be about.
            every = [example_facts(text, tags, of[i], settings) for of in read]
            add_facts(out, max(every, key=lambda facts: (facts.likelihood, facts.group)))
        return out

    @staticmethod
    def whole(batch, settings):
        return text_parts(batch, settings)[1]

    @staticmethod
    def has_text(columns, reading):
        field = reading.settings.text_field
        return {field} <= set(columns) if isinstance(field, str) else False

    @staticmethod
    def retag(batch, indices, tokenizer, tagger, settings, version):
        _, texts = text_parts(batch, settings)
        offsets = placed(batch["input_ids"], texts, tokenizer, indices)
        out: dict[str, list] = {name: [] for name in PII_COLUMNS}
        for text, tags, of in zip(texts, tag_texts(tagger, texts), offsets, strict=True):
            add_facts(out, example_facts(text, tags, of, settings))
        return out

    def metrics(self, sums, answers, model):
        return mean_loss(sums) | example_metrics(answers)


class TokenClassification(TextTask):
    """Say which class each word is of.  Rows have `tokens` (words) and `ner_tags`; a word's first token is asked."""

    name = "token-classification"
    answers: ClassVar[str] = "words"
    auto_model = AutoModelForTokenClassification
    endings = ("ForTokenClassification",)

    @staticmethod
    def tokenise(batch, indices, tokenizer, teacher_tokenizer, tagger, settings, config, field, surrogates, version):
        if "tokens" not in batch:
            raise ValueError(
                f"The rows have {', '.join(batch)}; a token classifier needs 'tokens' (words) and labels."
            )
        if not all(isinstance(row, list) and all(isinstance(word, str) for word in row) for row in batch["tokens"]):
            raise ValueError("A row's 'tokens' are no list of words (None, or no text among them). Drop such rows.")
        words, texts = batch["tokens"], [" ".join(row) for row in batch["tokens"]]
        tagged = tag_texts(tagger, texts) if tagger is not None else [None] * len(texts)
        if surrogates is not None:
            made = made_up(texts, tagged, indices, tagger_labels(tagger), surrogates, settings.threshold)
            replaced = [one.words(row) for one, row in zip(made, words, strict=True)]
            words, tagged = [row for row, _ in replaced], [tags for _, tags in replaced]
            texts = [" ".join(row) for row in words]
        firsts, out = [], {}
        for prefix, reader in (("", tokenizer), ("teacher_", teacher_tokenizer)):
            if reader is None:
                continue
            encoded = reader(texts, truncation=True, max_length=settings.max_length, return_offsets_mapping=True)
            offsets = [np.array(part, np.int64).reshape(-1, 2) for part in encoded["offset_mapping"]]
            firsts.append([first_tokens(row, at) for row, at in zip(words, offsets, strict=True)])
            out[f"{prefix}input_ids"] = encoded["input_ids"]
        lengths = [[len(ids) for ids in out[name]] for name in out]
        if field is None:
            return out
        names = [name.replace("input_ids", "labels") for name in out]
        out |= {name: [] for name in (*names, *(PII_COLUMNS if tagger is not None else ()))}
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
                facts = word_facts(row, tags, settings.dilation).at(seen)
                add_facts(out, facts.spread(lengths[0][i], firsts[0][i][seen]))
        return out

    @staticmethod
    def whole(batch, settings):
        rows = batch.get("tokens", ())
        return [" ".join(row) for row in rows if isinstance(row, list) and all(isinstance(w, str) for w in row)]

    @staticmethod
    def has_text(columns, reading):
        return "tokens" in columns

    @staticmethod
    def retag(batch, indices, tokenizer, tagger, settings, version):
        words, texts = batch["tokens"], [" ".join(row) for row in batch["tokens"]]
        encoded = tokenizer(words, is_split_into_words=True, add_special_tokens=False)
        special = special_ids(tokenizer)
        out: dict[str, list] = {name: [] for name in PII_COLUMNS}
        for i, (row, ids, tags) in enumerate(zip(words, batch["input_ids"], tag_texts(tagger, texts), strict=True)):
            number = np.array(encoded.word_ids(i), np.int64)
            # A word's number in the place of a character's: first and one past it.
            spans = offsets_of(ids, encoded["input_ids"][i], np.stack([number, number + 1], 1), special, indices[i])
            real = spans[:, 1] > spans[:, 0]
            facts = word_facts(row, tags, settings.dilation).at(spans[real, 0])
            add_facts(out, facts.spread(len(ids), real))
        return out

    def metrics(self, sums, answers, model):
        names = [model.config.id2label[i] for i in range(model.config.num_labels)]
        return mean_loss(sums) | entity_metrics(answers, names)


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
        if "labels" not in rows[0]:
            # Rows that are only predicted.
            return pad_rows(rows, fillers, "input_ids")
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
        return batch | fold_of(rows)
