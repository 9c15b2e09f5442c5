"""Attacks that were taught on some of the records: what the losses of a text's tokens look like, one after the other.

- camia: how the losses run along the text (how they fall, how much they move, how many are small), each against texts
  that are known to be out, and all together (CAMIA, Chang et al. 2025, arXiv 2409.13745; our reading: Edgington's sum
  of p-values, and zlib for the complexity of Lempel and Ziv);
- learned: a classifier of such numbers, of the model's losses and of what they are beside the references' (the
  statistics of LT-MIA, Ilic et al. 2026, arXiv 2604.03199; our reading: theirs was taught on many models, this one on
  the attacked model itself).

The attacker knows of half of the records whether they are in, and is judged on the other half.  So an epsilon that it
proves is one: given what it knows, each coin of the other half is still a coin.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# Records of each kind that are needed to teach, and to judge.
_FEWEST = 20
# Tokens of a text's beginning, as far as losses are looked at apart; nats below which a loss is small.
_BEGINNINGS, _SMALL = (16, 64), (0.5, 1.0, 2.0)
# Of approximate entropy (Pincus 1991): the length of a pattern, and how near, in deviations, two of them are alike.
_PATTERN, _ALIKE = 2, 0.2
# Each pair of places is compared, so of longer texts the beginning.
_LONGEST = 256
_LEVELS = 8


def taught_scores(
    losses: Sequence[np.ndarray], others: Sequence[np.ndarray] | None, members: int, seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the scores of the records that were not taught with, of members and of others, by attack.

    Empty where there are too few records.

    Args:
        losses: of each text's tokens in nats, [tokens] each; members first.
        others: what references lose on them, [tokens] each; `None`: there is no reference.
        members: how many are members.
        seed: of the halves.
    """
    inside, taught = np.arange(len(losses)) < members, np.zeros(len(losses), bool)
    # Whoever is in: so the coins of the other half are still coins.
    taught[np.random.default_rng(seed).permutation(len(losses))[: len(losses) // 2]] = True
    if min(np.bincount(2 * taught + inside, minlength=4)) < _FEWEST:
        return {}
    if not all(np.isfinite(text).all() for text in losses):
        return {}  # Said where each attack is judged, with the record's side.
    signals = np.array([run_of(text) for text in losses])
    found = {"camia": _against_known(signals, taught & ~inside)}
    features = signals
    if others is not None:
        beside = [text - other for text, other in zip(losses, others, strict=True)]
        features = np.concatenate([signals, [run_of(text) for text in beside]], axis=1)
    scaled = make_pipeline(StandardScaler(), LogisticRegression())
    model = GridSearchCV(scaled, {"logisticregression__C": (0.01, 0.1, 1.0)}, cv=5, scoring="roc_auc")
    model.fit(features[taught], inside[taught])
    found["learned"] = model.decision_function(features)
    return {name: (values[~taught & inside], values[~taught & ~inside]) for name, values in found.items()}


def run_of(losses: np.ndarray) -> np.ndarray:
    """Return how a text's losses run, [signals]; each is larger of texts that a model was trained on.

    Args:
        losses: of its tokens in nats, [tokens].
    """
    values, count = np.asarray(losses, np.float64), len(losses)
    spread, places = values.std(), np.linspace(-1, 1, count)
    slope = float(places @ (values - values.mean()) / max(places @ places, 1e-12))
    edges = values.mean() + spread * np.linspace(-1.5, 1.5, _LEVELS - 1)
    packed = len(zlib.compress(np.digitize(values, edges).astype(np.uint8).tobytes(), 9)) / count
    # A loss that falls along the text, moves little and is small is one that was learnt.
    return -np.array(
        [
            values.mean(),
            spread,
            slope,
            approximate_entropy(values[:_LONGEST]),
            packed,
            *np.quantile(values, (0.1, 0.5, 0.9)),
            *(values[:first].mean() for first in _BEGINNINGS),
            *((values >= small).mean() for small in _SMALL),
        ]
    )


def approximate_entropy(values: np.ndarray) -> float:
    """Return how hard to foretell a series is from its last values (Pincus 1991), in nats.

    Args:
        values: [n]; of fewer than four it is 0.
    """
    if len(values) < _PATTERN + 2:
        return 0.0
    near = _ALIKE * values.std()

    def alike(length: int) -> float:
        patterns = np.lib.stride_tricks.sliding_window_view(values, length)
        apart = np.zeros((len(patterns), len(patterns)))
        for place in range(length):
            column = patterns[:, place]
            np.maximum(apart, np.abs(column[:, None] - column), out=apart)
        return float(np.log((apart <= near).mean(1)).mean())

    return alike(_PATTERN) - alike(_PATTERN + 1)


def _against_known(signals: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return how rare a record's signals would be among records that are known to be out, all together, [n].

    Args:
        signals: [n, signals], larger where a record is rather in.
        known: [n] which are known to be out.
    """
    ordered = np.sort(signals[known], axis=0)
    as_large = [len(own) - np.searchsorted(own, signals[:, i], side="left") for i, own in enumerate(ordered.T)]
    return -np.sum((np.array(as_large) + 1) / (len(ordered) + 1), axis=0)
