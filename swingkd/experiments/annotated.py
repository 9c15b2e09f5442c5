"""Annotated text: its many labels brought down to a few kinds, or cut into words with a tag each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerFast

from swingkd.audit.scores import RecordScores, score_logits
from swingkd.experiments import corpus
from swingkd.tasks.examples import first_tokens

_FEATURES = Features(
    text=Value("string"), spans=List({"start": Value("int64"), "end": Value("int64"), "label": Value("string")})
)


def make_model(spec: dict[str, Any], tokenizer: Any, names: list[str]) -> PreTrainedModel:
    """Load a token classifier by name, or build one from its sizes."""
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    if "name" in spec:
        return AutoModelForTokenClassification.from_pretrained(spec["name"], **labels)
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **spec}
    return AutoModelForTokenClassification.from_config(AutoConfig.for_model(**sizes, **labels))


@dataclass(frozen=True)
class Annotated:
    """Train, validation and test text with spans."""

    splits: dict[str, Dataset]

    @classmethod
    def load(cls, spec: dict[str, Any], kinds: dict[str, str]) -> Annotated:
        """Load a data set.

        Args:
            spec: the arguments of `load_dataset` for each split (`train` alone where nothing is measured on it); or
                those of one, `whole`, and `by`, the column whose values (templates, say) must not stand on both
                sides; and `limit`, by split.
            kinds: which kind each label is; labels that are not in it are not private.
        """
        if "whole" in spec:
            parts = _split(corpus.load(spec["whole"]), spec["by"])
        else:
            parts = {name: corpus.load(spec[name]) for name in ("train", "validation", "test") if name in spec}
        limits = spec.get("limit", {})
        return cls(
            {
                name: _mapped(part.select(range(min(len(part), limits.get(name, len(part))))), kinds)
                for name, part in parts.items()
            }
        )


def _split(data: Dataset, column: str) -> dict[str, Dataset]:
    """Deal 70, 10 and 20 % of a column's values out to train, validation and test."""
    values = np.unique(data[column])
    np.random.default_rng(0).shuffle(values)
    ends = [int(0.7 * len(values)), int(0.8 * len(values))]
    groups = dict(zip(("train", "validation", "test"), np.split(values, ends), strict=True))
    own = np.array(data[column])
    return {name: data.select(np.flatnonzero(np.isin(own, group))) for name, group in groups.items()}


def _mapped(data: Dataset, kinds: dict[str, str]) -> Dataset:
    def map_row(row):
        spans = [
            {"start": span["start"], "end": span["end"], "label": kinds[span["label"]]}
            for span in row["spans"]
            if span["label"] in kinds
        ]
        return {"text": row["text"], "spans": spans}

    return data.map(map_row, remove_columns=data.column_names, features=_FEATURES)


def words_and_tags(row: dict[str, Any]) -> dict[str, list[str]]:
    """Cut a text at its blanks; say of each word which span it begins (B-) or goes on with (I-)."""
    words, tags, at = row["text"].split(), [], 0
    for word in words:
        start = row["text"].index(word, at)
        at = start + len(word)
        span = next((s for s in row["spans"] if s["start"] < at and s["end"] > start), None)
        tags.append("O" if span is None else f"{'B' if start <= span['start'] else 'I'}-{span['label']}")
    return {"tokens": words, "ner_tags": tags}


def tagged_spans(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the tagged words of a row as spans of its words, joined by blanks."""
    at = 0
    for word, tag in zip(row["tokens"], row["ner_tags"], strict=True):
        if tag != "O":
            yield {"start": at, "end": at + len(word), "label": tag[2:]}
        at += len(word) + 1


def word_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, Any]]
) -> RecordScores:
    """Score each row by the tag of its first tagged word."""
    model.eval()
    logits, labels = [], []
    with torch.no_grad():
        for row in rows:
            place = next(i for i, tag in enumerate(row["ner_tags"]) if tag != "O")
            encoded = tokenizer(" ".join(row["tokens"]), return_tensors="pt", return_offsets_mapping=True)
            first = first_tokens(row["tokens"], encoded["offset_mapping"][0].numpy())[place]
            inputs = {key: encoded[key].to(model.device) for key in ("input_ids", "attention_mask")}
            logits.append(model(**inputs).logits[0, first].float().cpu())
            labels.append(model.config.label2id[row["ner_tags"][place]])
    return score_logits(torch.stack(logits), torch.tensor(labels))
