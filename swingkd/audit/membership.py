"""Membership inference: was a record in the training data?  Attacks are scores; higher means "in".

Reference-free attacks need one forward pass for all of them:

- loss: mean log-likelihood of the text (Yeom et al. 2018, arXiv 1709.01604);
- zlib: log-likelihood per byte of the compressed text (Carlini et al. 2021, arXiv 2012.07805);
- min_k: mean over the share k of least likely tokens (Shi et al. 2024, arXiv 2310.16789);
- min_k++: the same, each token relative to what the model expected there (Zhang et al. 2025, arXiv 2404.02936).

With reference models: ratio (log-likelihood relative to theirs) and rmia (Zarifzadeh et al. 2024, arXiv 2312.03262).
With shadow models, which were trained on known halves of the data: lira (Carlini et al. 2022, arXiv 2112.03570).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.audit.exposure import Interval


@dataclass(frozen=True)
class TextScores:
    """What one pass over the texts found, each [texts]: the scores of the reference-free attacks.

    `loss` is the mean log-likelihood of a token in nats, which the attacks with other models build upon.
    """

    loss: np.ndarray
    zlib: np.ndarray
    min_k: np.ndarray
    min_k_plus_plus: np.ndarray


@torch.inference_mode()
def score_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    share: float = 0.2,
    max_length: int = 512,
    memory: int = 2**28,
    progress: bool = True,
) -> TextScores:
    """Score texts by all reference-free attacks, in one forward pass a text.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer.
        texts: the texts.
        share: the k of min_k and min_k++.
        max_length: longer texts are cut, in tokens.
        memory: bytes for a batch's logits.
        progress: show a progress bar.

    Raises:
        ValueError: a text without two tokens, or a model that gives no finite logits; names the text by its number.
    """
    ids = [tokens[:max_length] for tokens in tokenizer(list(texts))["input_ids"]]
    short = [i for i, tokens in enumerate(ids) if len(tokens) < 2]
    if short:
        raise ValueError(f"Text {short[0]} has fewer than two tokens, so nothing is predicted in it. Drop such texts.")
    found = np.zeros((4, len(ids)))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    width = model.config.get_text_config().vocab_size
    with tqdm(total=len(ids), desc="Scoring texts", disable=not progress) as bar:
        for batch in _batches(order, ids, max(memory // (12 * width), 1)):
            scores = _token_scores(model, [ids[i] for i in batch])
            for i, (log_probs, relative) in zip(batch, scores, strict=True):
                if not np.isfinite(log_probs).all():
                    raise ValueError(
                        f"The model gives no finite log-probabilities at text {i} (NaN or infinite logits)."
                    )
                packed = len(zlib.compress(texts[i].encode()))
                least = max(round(share * len(log_probs)), 1)
                lowest = [np.partition(values, least - 1)[:least].mean() for values in (log_probs, relative)]
                found[:, i] = (log_probs.mean(), log_probs.sum() / packed, *lowest)
            bar.update(len(batch))
    return TextScores(*found)


def _batches(order: list[int], ids: list[list[int]], tokens: int):
    """Cut an order of rising lengths into batches of at most so many padded tokens."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(ids[i]) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _token_scores(model: PreTrainedModel, rows: list[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each row's tokens' log-probabilities, and how many deviations they are from the expected ones."""
    longest = max(map(len, rows))
    inputs = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros_like(inputs)
    for i, row in enumerate(rows):
        inputs[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    inputs, mask = inputs.to(model.device), mask.to(model.device)
    logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, :-1]
    at = mask[:, 1:].bool()
    log_probs = logits[at].float().log_softmax(-1)
    own = log_probs.gather(-1, inputs[:, 1:][at][:, None])[:, 0]
    probs = log_probs.exp()
    mean = (probs * log_probs).sum(-1)
    deviation = ((probs * log_probs.square()).sum(-1) - mean.square()).clamp_min(1e-12).sqrt()
    ends = at.sum(1).cumsum(0).tolist()
    values = [value.double().cpu().numpy() for value in (own, (own - mean) / deviation)]
    return [(values[0][a:b], values[1][a:b]) for a, b in zip([0, *ends], ends, strict=False)]


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
        population_target: [z] the model's, of a population of other records.
        population_references: [models, z].
        gamma: how much likelier a record must have become than one of the population.
        offline: the a of p(x) = ((1 + a) p_out(x) + 1 - a) / 2, which stands in for models that saw x; the paper's
            0.3 is for classifiers, whose probabilities are near 1; those of a text's tokens are not.
    """

    def ratio(own: np.ndarray, others: np.ndarray) -> np.ndarray:
        average = ((1 + offline) * np.exp(others).mean(0) + 1 - offline) / 2
        return own - np.log(average)

    records, population = ratio(target, references), np.sort(ratio(population_target, population_references))
    return np.searchsorted(population, records - np.log(gamma), side="right") / len(population)


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
    return stats.norm.logcdf(target, means[False], deviations[False])


@dataclass(frozen=True)
class MembershipResult:
    """How well one attack tells members from others, with 95 % bootstrap intervals.

    Args:
        attack: its name.
        auc: area under the ROC curve; 0.5 is chance.
        balanced_accuracy: of the best cut.
        tpr_at_1_fpr, tpr_at_01_fpr: share of the members found at 1 % and at 0.1 % false alarms.
        members, nonmembers: how many records.
    """

    attack: str
    auc: Interval
    balanced_accuracy: Interval
    tpr_at_1_fpr: Interval
    tpr_at_01_fpr: Interval
    members: int
    nonmembers: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain types."""
        return asdict(self)


def evaluate_attack(
    attack: str, members: np.ndarray, nonmembers: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> MembershipResult:
    """Evaluate an attack by its scores of members [m] and of others [n].

    Raises:
        ValueError: one side is empty, or a score is no finite number.
    """
    for name, side in (("members", members), ("nonmembers", nonmembers)):
        if not len(side):
            raise ValueError(f"There are no {name}: an attack needs records of both kinds.")
        if not np.isfinite(side).all():
            raise ValueError(f"{int((~np.isfinite(side)).sum())} of {len(side)} {name} have no finite {attack} score.")
    rng = np.random.default_rng(seed)
    values = np.array(
        [_quality(members, nonmembers)]
        + [
            _quality(rng.choice(members, len(members)), rng.choice(nonmembers, len(nonmembers)))
            for _ in range(resamples)
        ]
    )
    low, high = np.quantile(values[1:], [0.025, 0.975], axis=0)
    count = len(members) + len(nonmembers)
    auc, accuracy, tpr, tpr_small = (
        Interval(float(v), float(a), float(b), count) for v, a, b in zip(values[0], low, high, strict=True)
    )
    return MembershipResult(attack, auc, accuracy, tpr, tpr_small, len(members), len(nonmembers))


def roc_curve(members: np.ndarray, nonmembers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates at every cut, rising from (0, 0) to (1, 1)."""
    cuts = np.unique(np.concatenate([members, nonmembers]))[::-1]
    false, true = (
        (len(side) - np.searchsorted(np.sort(side), cuts, side="left")) / len(side) for side in (nonmembers, members)
    )
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def _quality(members: np.ndarray, nonmembers: np.ndarray) -> tuple[float, ...]:
    """Return AUC, balanced accuracy and the true positive rates at 1 % and 0.1 % false positives."""
    false, true = roc_curve(members, nonmembers)
    auc = float(np.trapezoid(true, false))
    return auc, float((1 + (true - false).max()) / 2), *(float(true[false <= rate].max()) for rate in (0.01, 0.001))
