"""Membership inference: was a record in the training data?  Attacks are scores; here they are run and judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import stats
from transformers import PreTrainedModel

from swingkd.audit.attacks import lira_scores, ratio_scores, rmia_scores
from swingkd.audit.intervals import Interval, bootstrap
from swingkd.audit.lower_bound import EpsilonLowerBound, Method, epsilon_lower_bound
from swingkd.audit.records import Data, check_no_overlap, labelled_records, text_records
from swingkd.audit.scores import RecordScores, longest_input, score_labels, score_texts


@dataclass(frozen=True)
class MembershipResult:
    """How well one attack tells members from others, with 95 % bootstrap intervals.

    Args:
        attack: its name.
        auc: area under the ROC curve; 0.5 is chance.
        balanced_accuracy: of the cut that is best on one half of the records, measured on the other.
        tpr_at_1_fpr, tpr_at_01_fpr: share of the members found at 1 % and at 0.1 % false alarms, or, where there are
            fewer than 100 or 1,000 nonmembers, above the highest of them.
        members, nonmembers: how many records.
    """

    attack: str
    auc: Interval
    balanced_accuracy: Interval
    tpr_at_1_fpr: Interval
    tpr_at_01_fpr: Interval
    members: int
    nonmembers: int

    def chance(self, rate: float) -> float:
        """Return the true positive rate that guessing has at a false positive rate, given so many nonmembers."""
        return chance_rate(rate, self.nonmembers)


@dataclass(frozen=True)
class MembershipReport:
    """All attacks on one model.

    Args:
        results: one an attack.
        scores: by attack, the members' scores and the others'; never printed.
    """

    results: tuple[MembershipResult, ...]
    scores: dict[str, tuple[np.ndarray, np.ndarray]] = field(repr=False, compare=False)

    def __getitem__(self, attack: str) -> MembershipResult:
        return next(result for result in self.results if result.attack == attack)

    def epsilon(
        self, attack: str, *, delta: float = 0.0, confidence: float = 0.95, method: Method = "one_run"
    ) -> EpsilonLowerBound:
        """Bound epsilon from below by an attack.

        It holds only where a fair coin put each record in or left it out, as `CanarySet` does with assign="coin".

        Args:
            attack: whose scores.
            delta, confidence, method: as for `epsilon_lower_bound`.
        """
        return epsilon_lower_bound(*self.scores[attack], delta=delta, confidence=confidence, method=method)

    def to_dict(self) -> dict[str, Any]:
        """Return the results as plain types."""
        return {
            "results": [
                asdict(result) | {"chance_at_1_fpr": result.chance(0.01), "chance_at_01_fpr": result.chance(0.001)}
                for result in self.results
            ]
        }

    def __str__(self) -> str:
        first = self.results[0]
        lines = [
            f"{first.members} members, {first.nonmembers} others; 95 % intervals; chance: AUC 0.5, TPR "
            f"{first.chance(0.01):.3f}"
        ]
        for r in self.results:
            lines.append(
                f"{r.attack:>14}: AUC {r.auc.value:.3f} [{r.auc.low:.3f}, {r.auc.high:.3f}]  TPR at 1 % FPR "
                f"{r.tpr_at_1_fpr.value:.3f} [{r.tpr_at_1_fpr.low:.3f}, {r.tpr_at_1_fpr.high:.3f}]"
            )
        return "\n".join(lines)


def audit_membership(
    model: PreTrainedModel,
    processing_class,
    members: Data,
    nonmembers: Data,
    *,
    references: Sequence[PreTrainedModel] = (),
    shadows: Iterable[tuple[PreTrainedModel, np.ndarray]] = (),
    max_length: int = 512,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> MembershipReport:
    """Attack a model: can records that it was trained on be told from others?

    Causal language models are asked for texts (column `text`, or `prompt` and `completion`: then the completion is
    scored), classifiers for examples (`text` or `image`, and `label`).  Members and others must be alike in every
    other way, or the attacks measure that difference.

    Args:
        model: a causal language model, a sequence classifier or an image classifier.
        processing_class: its tokenizer or image processor.
        members: records that it was trained on.
        nonmembers: records alike that it was not trained on.
        references: models that saw none of the records; they add the attacks ratio and rmia.
        shadows: models that were trained as this one was, each with the records it saw, [members + nonmembers] bool;
            see `shadow_models`; they add the attacks lira and lira_offline.
        max_length: longer texts are cut, in tokens.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: show progress bars.

    Raises:
        ValueError: a side is empty, a record is on both sides, has no text or no label of the model's, or the model
            gives no finite logits for it; a tokenizer that does not belong to the model.
    """
    is_text = model.can_generate()
    # All models see the same part of a text.
    max_length = min(longest_input(each, max_length) for each in (model, *references))
    both = membership_records(model, members, nonmembers)

    def score(each: PreTrainedModel) -> RecordScores:
        if not is_text and each.config.num_labels != model.config.num_labels:
            raise ValueError(
                f"A reference or shadow has {each.config.num_labels} classes, the model {model.config.num_labels}."
            )
        scored = score_texts if is_text else score_labels
        return scored(each, processing_class, both, max_length=max_length, progress=progress)

    statistics = [(score(shadow), seen) for shadow, seen in _checked(shadows, len(both))]
    return judge_scores(
        score(model),
        len(members),
        references=[score(reference) for reference in references],
        shadows=statistics,
        resamples=resamples,
        seed=seed,
    )


def _checked(
    shadows: Iterable[tuple[PreTrainedModel, np.ndarray]], records: int
) -> Iterable[tuple[PreTrainedModel, np.ndarray]]:
    for shadow, seen in shadows:
        if np.shape(seen) != (records,) or np.asarray(seen).dtype != bool:
            raise ValueError(
                f"A shadow's mask has shape {np.shape(seen)}; one bool for each of the {records} records is needed, "
                "members first."
            )
        yield shadow, seen


def judge_scores(
    own: RecordScores,
    members: int,
    *,
    references: Sequence[RecordScores] = (),
    shadows: Sequence[tuple[RecordScores, np.ndarray]] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> MembershipReport:
    """Run all attacks on what models said of the records, members first.

    Args:
        own: what the attacked model said.
        members: how many of the records it was trained on.
        references: what models said that saw none of them.
        shadows: what shadow models said, each with the records it saw, [records] bool.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    scores = dict(own.attacks)
    if references:
        others = np.array([reference.log_likelihood for reference in references])
        scores["ratio"] = ratio_scores(own.log_likelihood, others)
        # The population to be dominated: all records, so that the attack does not know who is in.
        scores["rmia"] = rmia_scores(own.log_likelihood, others, own.log_likelihood, others)
    if shadows:
        statistics = np.array([scored.statistic for scored, _ in shadows])
        seen = np.array([mask for _, mask in shadows])
        for name, online in (("lira", True), ("lira_offline", False)):
            scores[name] = lira_scores(own.statistic, statistics, seen, online=online)
    split = {name: (values[:members], values[members:]) for name, values in scores.items()}
    results = [evaluate_attack(name, *sides, resamples=resamples, seed=seed) for name, sides in split.items()]
    return MembershipReport(tuple(results), split)


def membership_records(model: PreTrainedModel, members: Data, nonmembers: Data) -> Any:
    """Return all records, members first, as texts or labelled examples, whichever the model takes.

    Raises:
        ValueError: as for `audit_membership`.
    """
    inside, outside = (
        text_records(data, side) if model.can_generate() else labelled_records(data, side, model.config)
        for data, side in ((members, "members"), (nonmembers, "nonmembers"))
    )
    check_no_overlap(inside, outside)
    return inside + outside  # type: ignore[operator]  # both are of one kind


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
    sides = [np.asarray(side, np.float64) for side in (members, nonmembers)]
    common = {"resamples": resamples, "seed": seed}
    auc, tpr, tpr_small = bootstrap(attack_quality, sides, sum(map(len, sides)), **common)
    hits = _hits_of_the_best_cut(sides[0], sides[1], seed)
    (accuracy,) = bootstrap(_accuracy, hits, sum(map(len, hits)), **common)
    return MembershipResult(attack, auc, accuracy, tpr, tpr_small, len(members), len(nonmembers))


def chance_rate(rate: float, nonmembers: int) -> float:
    """Return the expected true positive rate of guessing where the highest `rate` of n scores are allowed above."""
    return (int(rate * nonmembers) + 1) / (nonmembers + 1)


def _hits_of_the_best_cut(members: np.ndarray, nonmembers: np.ndarray, seed: int) -> list[np.ndarray]:
    """Choose a cut on one half of the records; return which of the other half it gets right, members and others."""
    rng = np.random.default_rng(seed)
    # A side of one record has to do for both halves.
    halves = [np.array_split(rng.permutation(np.resize(side, max(len(side), 2))), 2) for side in (members, nonmembers)]
    cuts = np.unique(np.concatenate([halves[0][0], halves[1][0]]))
    true = [1 - np.searchsorted(np.sort(side[0]), cuts) / len(side[0]) for side in halves]
    best = cuts[np.argmax(true[0] - true[1])]
    return [(halves[0][1] >= best).astype(float), (halves[1][1] < best).astype(float)]


def _accuracy(caught: np.ndarray, left: np.ndarray, axis: int = -1) -> np.ndarray:
    return (caught.mean(axis) + left.mean(axis)) / 2


def roc_curve(members: np.ndarray, nonmembers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates at every cut, rising from (0, 0) to (1, 1)."""
    cuts = np.unique(np.concatenate([members, nonmembers]))[::-1]
    false, true = (
        (len(side) - np.searchsorted(np.sort(side), cuts, side="left")) / len(side) for side in (nonmembers, members)
    )
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def attack_quality(members: np.ndarray, nonmembers: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return AUC and the true positive rates at 1 % and 0.1 % false positives, [3, ...].

    Args:
        members: [..., m] scores; many samples at once.
        nonmembers: [..., n].
        axis: the last one.
    """
    m, n = members.shape[-1], nonmembers.shape[-1]
    ranks = stats.rankdata(np.concatenate([members, nonmembers], -1), axis=-1)
    auc = (ranks[..., :m].sum(-1) - m * (m + 1) / 2) / (m * n)
    highest = -np.sort(-nonmembers, axis=-1)
    rates = [(members > highest[..., [int(rate * n)]]).mean(-1) for rate in (0.01, 0.001)]
    return np.stack([auc, *rates])
