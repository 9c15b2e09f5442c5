"""Where two tokenizers stand at the same place of a text."""

from __future__ import annotations

import numpy as np


def aligned(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return for each token the other tokenizer's token that is predicted from the same characters, [n]; -1: none.

    A token is predicted from all before it, which end at a character.  Where both tokenizers end a token there, both
    models are asked the same: how does this text go on?  Between such places each is in the middle of something.

    Args:
        own: [n, 2] where each token begins and ends in the text, one past it; [0, 0] of one that is none of it.
        other: [m, 2] the same of the other tokenizer.
    """
    found = np.full(len(own), -1, np.int64)
    places, known = _predicted_after(own), _predicted_after(other)
    _, here, there = np.intersect1d(own[places - 1, 1], other[known - 1, 1], assume_unique=True, return_indices=True)
    found[places[here]] = known[there]
    return found


def _predicted_after(offsets: np.ndarray) -> np.ndarray:
    """Return the tokens, after the very first, that are predicted from whole characters, one for each such place.

    The bytes of one character are tokens that stand at one place: what is predicted behind them comes after the last.
    """
    places = np.arange(1, len(offsets))
    before, here = offsets[:-1], offsets[1:]
    within = (before == here).all(1) & (here[:, 1] > here[:, 0])
    places = places[~within]
    if not len(places):
        return places
    ends = offsets[places - 1, 1]
    return places[np.append(ends[1:] != ends[:-1], True)]
