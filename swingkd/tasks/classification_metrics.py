"""How right a classifier is: of examples, and of the entities in a text."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
from seqeval.metrics import f1_score as entity_f1
from seqeval.metrics import precision_score, recall_score
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import accuracy_score, f1_score

from swingkd.data.columns import IGNORE

#: Which class was guessed for each answer of a batch, and its labels.
Answers = Iterable[tuple[np.ndarray, np.ndarray]]


def mean_loss(sums: np.ndarray) -> dict[str, float]:
    """Return the loss of an answer on average: the Trainer's own is a mean of means, and moves with the batch size."""
    answers, *_, loss = sums
    return {"loss": float(loss / answers)} if answers else {}


def example_metrics(answers: Answers) -> dict[str, float]:
    """Return accuracy and macro-F1 of examples (over the classes that occur).

    Args:
        answers: of each batch, guesses [B] and labels [B].
    """
    batches = list(answers)
    if not batches:
        return {}
    guessed, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    known = labels != IGNORE
    if not known.any():
        return {}
    return {
        "accuracy": float(accuracy_score(labels[known], guessed[known])),
        "macro_f1": float(f1_score(labels[known], guessed[known], average="macro", zero_division=0.0)),
    }


def entity_metrics(answers: Answers, names: list[str]) -> dict[str, float]:
    """Return the accuracy of words, and precision, recall and F1 of entities as seqeval counts them.

    Args:
        answers: of each batch, guesses [B, T] and labels [B, T].
        names: of the classes; without a prefix such as "B-" each run of a class is one entity, and "O" or class 0 is
            none.
    """
    tags = _tags(names)
    true, predicted = [], []
    for guessed, labels in answers:
        for one, two in zip(guessed, labels, strict=True):
            known = two != IGNORE
            if known.any():
                true.append([tags[number] for number in two[known]])
                predicted.append([tags[number] for number in one[known]])
    if not true:
        return {}
    right = [one == two for row in zip(true, predicted, strict=True) for one, two in zip(*row, strict=True)]
    with warnings.catch_warnings():
        # No entity at all, true or found: 0, and that says enough.
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        return {
            "accuracy": float(np.mean(right)),
            "precision": float(precision_score(true, predicted)),
            "recall": float(recall_score(true, predicted)),
            "f1": float(entity_f1(true, predicted)),
        }


def _tags(names: list[str]) -> list[str]:
    if any(name[:2] in ("B-", "I-") for name in names):
        return names
    none = names.index("O") if "O" in names else 0
    return ["O" if i == none else f"I-{name}" for i, name in enumerate(names)]
