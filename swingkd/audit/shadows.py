"""Shadow models: what an attacker learns by training as the victim did, on halves of the records that it chose.

A *pipeline* is whatever made the audited model: for a student, the teacher and the distillation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from transformers import PreTrainedModel


def shadow_halves(count: int, records: int, seed: int = 0) -> np.ndarray:
    """Return which records each shadow is trained on, [count, records] bool.

    Halves come in pairs that complement each other, so every record is in exactly half of the shadows.

    Args:
        count: how many shadows; even, at least 4.
        records: how many records.
        seed: of the halves.

    Raises:
        ValueError: the count is odd or below four: LiRA needs two shadows with and two without each record.
    """
    if count < 4 or count % 2:
        raise ValueError(
            f"{count} shadow models were asked for; an even number of at least 4 is needed, so that every record is "
            "in two of them and out of two."
        )
    rng = np.random.default_rng(seed)
    halves = np.zeros((count, records), bool)
    for i in range(0, count, 2):
        halves[i, rng.permutation(records)[: records // 2]] = True
        halves[i + 1] = ~halves[i]
    return halves


def shadow_models(
    pipeline: Callable[[np.ndarray], PreTrainedModel], records: int, *, count: int = 8, seed: int = 0
) -> Iterator[tuple[PreTrainedModel, np.ndarray]]:
    """Train shadow models one after the other, each when it is asked for, and say what each was trained on.

        audit_membership(student, tokenizer, members, nonmembers,
                         shadows=shadow_models(pipeline, len(members) + len(nonmembers)))

    A pipeline that keeps what it trained, and loads it when it is asked again, makes a killed audit go on.

    Args:
        pipeline: trains on the records of a mask, [records] bool (members first), and returns the model that would be
            released.
        records: how many records there are.
        count: how many shadows; even, at least 4.
        seed: of the halves.
    """
    for inside in shadow_halves(count, records, seed):
        yield pipeline(inside.copy()), inside
