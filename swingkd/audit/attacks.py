"""Attacks with other models, on scores alone: higher means "in".

With reference models that saw none of the records: ratio (log-likelihood relative to theirs; Carlini et al. 2021,
arXiv 2012.07805) and rmia (Zarifzadeh et al. 2024, arXiv 2312.03262); of texts, token by token, ez (Ilic et al. 2026,
arXiv 2601.12104) and wbc (arXiv 2601.02751), both in our reading.  With shadow models that were trained on known
halves of them: lira (Carlini et al. 2022, arXiv 2112.03570).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from swingkd.audit.scores import TokenScores

# Probabilities that move by less have not moved.
_LEAST_SHIFT = 1e-6
_WIDTHS = (1, 2, 3, 4, 6, 8, 11, 16, 22, 30, 40)


def ratio_scores(target: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the mean log-likelihood relative to the references' mean, [n]; `references` [models, n]."""
    return target - references.mean(0)


def rmia_scores(
    target: np.ndarray,
    references: np.ndarray,
    population_target: np.ndarray,
    population_references: np.ndarray,
    *,
    gamma: float = 1.0,
    offline: float = 1.0,
) -> np.ndarray:
    """Return the share of a population that each record dominates, [n] (RMIA, offline form).

    Args:
        target: [n] the model's mean log-likelihoods of the records.
        references: [models, n] those of reference models that saw none of them.
        population_target: [z] the model's, of the population that is to be dominated.
        population_references: [models, z].
        gamma: how much likelier a record must have become than one of the population.
        offline: the a of p(x) = ((1 + a) p_out(x) + 1 - a) / 2, which stands in for models that saw x; the paper's
            0.3 is for classifiers, whose probabilities are near 1; those of a text's tokens are not.
    """

    def ratio(own: np.ndarray, others: np.ndarray) -> np.ndarray:
        mean = special.logsumexp(others, axis=0) - np.log(len(others))
        with np.errstate(divide="ignore"):
            return own - np.logaddexp(mean + np.log((1 + offline) / 2), np.log((1 - offline) / 2))

    records, population = ratio(target, references), np.sort(ratio(population_target, population_references))
    return np.searchsorted(population, records - np.log(gamma), side="right") / len(population)


def reference_tokens(references: Sequence[TokenScores]) -> np.ndarray:
    """Return what reference models give a text's tokens: the log of their mean probability, [tokens]."""
    return special.logsumexp([scores.log_probs for scores in references], axis=0) - np.log(len(references))


def ez_scores(
    target: Sequence[np.ndarray], missed: Sequence[np.ndarray], references: Sequence[np.ndarray]
) -> np.ndarray:
    """Return how far log-probabilities rise where the model guesses wrong, over how far they fall, [n], as a log.

    Where its first guess is right, anybody's is; what was trained on shows where the model is wrong and yet gives the
    true token more than the references do (the "error zone").

    Args:
        target: log-probabilities of each text's tokens, [tokens] each.
        missed: whether the model's first guess was another token, [tokens] each.
        references: what the references give the tokens, the log of their mean probability, [tokens] each.
    """
    found = []
    for own, wrong, others in zip(target, missed, references, strict=True):
        shift = (own.astype(np.float64) - others.astype(np.float64))[wrong]
        rises, falls = shift.clip(min=0).sum(), -shift.clip(max=0).sum()
        # A text of which it guesses every token was learnt, and ranks with those of which nothing falls.
        rises = rises if wrong.any() else 1.0
        found.append(np.log(rises + _LEAST_SHIFT) - np.log(falls + _LEAST_SHIFT))
    return np.array(found)


def wbc_scores(target: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> np.ndarray:
    """Return the share of a text's windows that the model finds likelier than the references do, [n].

    A mean over widths from 1 to 40 tokens, so that a few much likelier tokens do not speak for the whole text.

    Args:
        target: log-probabilities of each text's tokens, [tokens] each.
        references: what the references give them, [tokens] each.
    """
    found = []
    for own, others in zip(target, references, strict=True):
        gained = np.concatenate([[0.0], np.cumsum(own.astype(np.float64) - others.astype(np.float64))])
        widths = [width for width in _WIDTHS if width < len(gained)]
        windows = [gained[width:] - gained[:-width] for width in widths]
        # Ties tell nothing.
        found.append(np.mean([(won > 0).mean() + (won == 0).mean() / 2 for won in windows]))
    return np.array(found)


def lira_scores(target: np.ndarray, shadows: np.ndarray, inside: np.ndarray, *, online: bool = True) -> np.ndarray:
    """Return log-likelihood ratios of "in" against "out", [n], from shadow models (LiRA).

    Args:
        target: [n] the audited model's score of each record (log-odds for classifiers, mean log-likelihood for text).
        shadows: [models, n] the shadow models' scores.
        inside: [models, n] bool, whether a record was in a shadow's training half.
        online: compare with shadows that saw the record as well; offline only with those that did not.

    Raises:
        ValueError: a record has fewer than two shadows on a side that is needed.
    """
    sides = (True, False) if online else (False,)
    for side in sides:
        few = (inside == side).sum(0) < 2
        if few.any():
            raise ValueError(
                f"{int(few.sum())} records have fewer than two shadow models {'with' if side else 'without'} them. "
                "Train more shadows, each on a random half."
            )
    means, deviations = {}, {}
    for side in sides:
        scores = np.where(inside == side, shadows, np.nan)
        means[side] = np.nanmean(scores, 0)
        # One variance for all records: with few shadows a record's own would be noise.
        deviations[side] = np.sqrt(np.nanmean((scores - means[side]) ** 2)) + 1e-12
    outside = stats.norm.logpdf(target, means[False], deviations[False])
    if online:
        return stats.norm.logpdf(target, means[True], deviations[True]) - outside
    # In the order of the Gaussian's tail, which would round to ties where a record is remembered best.
    return (target - means[False]) / deviations[False]
