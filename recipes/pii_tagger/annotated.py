"""Annotated text, its many labels brought down to a few kinds; and the model that learns them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import prepare
from datasets import Dataset, Features, List, Value
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedModel

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
            spec: the arguments of `load_dataset` for each split; or those of one, `whole`, and `by`, the column whose
                values (templates, say) must not stand on both sides; and `limit`, by split.
            kinds: which kind each label is; labels that are not in it are not private.
        """
        if "whole" in spec:
            parts = _split(prepare.load(spec["whole"]), spec["by"])
        else:
            names = ("train", "validation", "test")
            parts = {name: prepare.load(spec[name]) for name in names}
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
