"""How right a classifier is: of examples, and of the entities in a text."""

from __future__ import annotations

import warnings

import numpy as np
from seqeval.metrics import f1_score as entity_f1
from seqeval.metrics import precision_score, recall_score
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import accuracy_score, f1_score
from transformers import EvalPrediction

from swingkd.data.columns import IGNORE


def example_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Return accuracy and macro-F1 of examples (over the classes that occur)."""
    guessed, labels = np.asarray(prediction.predictions).argmax(-1), np.asarray(prediction.label_ids)
    known = labels != IGNORE
    return {
        "accuracy": float(accuracy_score(labels[known], guessed[known])),
        "macro_f1": float(f1_score(labels[known], guessed[known], average="macro", zero_division=0.0)),
    }


def entity_metrics(prediction: EvalPrediction, names: list[str]) -> dict[str, float]:
    """Return the accuracy of words, and precision, recall and F1 of entities as seqeval counts them.

    Args:
        prediction: logits [B, T, C] and labels [B, T].
        names: of the classes; without a prefix such as "B-" each run of a class is one entity, and "O" or class 0 is
            none.
    """
    guessed, labels = np.asarray(prediction.predictions).argmax(-1), np.asarray(prediction.label_ids)
    known = labels != IGNORE
    tags = _tags(names)
    true, predicted = (
        [[tags[number] for number in row[at]] for row, at in zip(values, known, strict=True) if at.any()]
        for values in (labels, guessed)
    )
    with warnings.catch_warnings():
        # No entity at all, true or found: 0, and that says enough.
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        return {
            "accuracy": float(accuracy_score(labels[known], guessed[known])),
            "precision": float(precision_score(true, predicted)),
            "recall": float(recall_score(true, predicted)),
            "f1": float(entity_f1(true, predicted)),
        }


def _tags(names: list[str]) -> list[str]:
    if any(name[:2] in ("B-", "I-") for name in names):
        return names
    none = names.index("O") if "O" in names else 0
    return ["O" if i == none else f"I-{name}" for i, name in enumerate(names)]
