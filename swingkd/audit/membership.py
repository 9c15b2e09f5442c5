"""Membership inference: was a record in the training data?  Attacks are scores; here they are run and judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy import stats
from transformers import PreTrainedModel

from swingkd.audit.attacks import ez_scores, lira_scores, ratio_scores, reference_tokens, rmia_scores, wbc_scores
from swingkd.audit.intervals import Interval, area, bootstrap, proportion, wider
from swingkd.audit.learned import taught_scores
from swingkd.audit.lower_bound import EpsilonLowerBound, Method, epsilon_lower_bound
from swingkd.audit.records import Data, check_no_overlap, copies_note, labelled_records, near_duplicates, text_records
from swingkd.audit.scores import RecordScores, beside, longest_input, score_labels, score_texts
from swingkd.models.base_model import adapter_off, check_has_adapter

# With fewer records on a side, no order of theirs is beyond chance.
_SHOWS_NOTHING = 10


@dataclass(frozen=True)
class MembershipResult:
    """How well one attack tells members from others, with 95 % intervals that are no points at 0 or 1.

    Args:
        attack: its name.
        auc: area under the ROC curve; 0.5 is chance; DeLong's interval on logits.
        balanced_accuracy: of the cut that is best on one half of the records, measured on the other.
        tpr_at_1_fpr, tpr_at_01_fpr: share of the members found at 1 % and at 0.1 % false alarms, or, where there are
            fewer than 100 or 1,000 nonmembers (see `resolves`), above the highest of them.
        members, nonmembers: how many records.
        p_value: how likely records that nobody can tell apart would look as different as that, by AUC or by the rate
            at 1 % false alarms: twice the smaller of the two.  An area below 0.5 tells members as well as one above.
    """

    attack: str
    auc: Interval
    balanced_accuracy: Interval
    tpr_at_1_fpr: Interval
    tpr_at_01_fpr: Interval
    members: int
    nonmembers: int
    p_value: float

    def resolves(self, rate: float) -> bool:
        """Tell whether there are enough nonmembers for so small a share of false alarms."""
        return self.nonmembers * rate >= 1

    def told(self, rate: float, digits: int = 3) -> tuple[str, str]:
        """Return the true positive rate at 1 % or 0.1 % false alarms and its interval, for people."""
        if not self.resolves(rate):
            return "n/a", ""
        found = self.tpr_at_1_fpr if rate == 0.01 else self.tpr_at_01_fpr
        return f"{found.value:.{digits}f}", f"{found.low:.{digits}f} to {found.high:.{digits}f}"

    def chance(self, rate: float) -> float:
        """Return the true positive rate that guessing has at a false positive rate, given so many nonmembers."""
        return chance_rate(rate, self.nonmembers)

    @property
    def turned(self) -> bool:
        """Whether the others score higher, beyond chance: turned round, the attack tells members."""
        return self.auc.high < 0.5


@dataclass(frozen=True)
class MembershipReport:
    """All attacks on one model.

    Args:
        results: one an attack.
        scores: by attack, the members' scores and the others'; never printed.
        notes: what keeps the numbers from saying what they seem to.
    """

    results: tuple[MembershipResult, ...]
    scores: dict[str, tuple[np.ndarray, np.ndarray]] = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()

    def through(self, family: int | None = None) -> list[str]:
        """List the attacks that tell members from others, at 5 % for all of them together (Bonferroni).

        Args:
            family: how many attacks are looked at together; default: those of this report.
        """
        alpha = 0.05 / (family or len(self.results))
        return [result.attack for result in self.results if result.p_value < alpha]

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
                asdict(result)
                | {"chance_at_1_fpr": result.chance(0.01), "chance_at_01_fpr": result.chance(0.001)}
                | {"resolves_1_fpr": result.resolves(0.01), "resolves_01_fpr": result.resolves(0.001)}
                for result in self.results
            ],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        first = self.results[0]
        lines = [
            f"{first.members} members, {first.nonmembers} others; 95 % intervals; chance: AUC 0.5, TPR "
            f"{first.chance(0.01):.3f}"
        ]
        for r in self.results:
            rate, interval = r.told(0.01)
            lines.append(
                f"{r.attack:>14}: AUC {r.auc.value:.3f} [{r.auc.low:.3f}, {r.auc.high:.3f}]  TPR at 1 % FPR {rate}"
                + (f" [{interval.replace(' to ', ', ')}]" if interval else "")
                + ("  turned round, it tells members" if r.turned else "")
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def audit_membership(
    model: PreTrainedModel,
    processing_class,
    members: Data,
    nonmembers: Data,
    *,
    references: Sequence[PreTrainedModel | Literal["base"]] = (),
    shadows: Iterable[tuple[PreTrainedModel, np.ndarray]] = (),
    max_length: int = 512,
    look_for_near_duplicates: bool = True,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> MembershipReport:
    """Attack a model: can records that it was trained on be told from others?

    Causal language models are asked for texts (column `text`, or `prompt` and `completion`: then the completion is
    scored), classifiers for examples (`text` or `image`, and `label`).  Members and others must be alike in every
    other way, or the attacks measure that difference.  Copies of a record are counted once.  References and shadows
    are scored on the audited model's device.

    Args:
        model: a causal language model, a sequence classifier or an image classifier.
        processing_class: its tokenizer or image processor.
        members: records that it was trained on.
        nonmembers: records alike that it was not trained on.
        references: models that saw none of the records, or "base": the model itself with its adapter switched off;
            they add the attacks ratio and rmia, and of texts ez and wbc.
        shadows: models that were trained as this one was, each with the records it saw, [members + nonmembers] bool;
            see `shadow_models`; they add the attacks lira and lira_offline.
        max_length: longer texts are cut, in tokens.
        look_for_near_duplicates: say how many members are nearly the same text as a nonmember.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: show progress bars.

    Raises:
        ValueError: a side is empty, a record is on both sides, has no text or no label of the model's, or the model
            gives no finite logits for it; a tokenizer that does not belong to the model; a reference that is the
            model itself.
    """
    is_text = model.can_generate()
    for name in (reference for reference in references if isinstance(reference, str)):
        if name != "base":
            raise ValueError(f"The reference {name!r} is a name. Give the loaded model, or 'base'.")
        check_has_adapter(model)
    # All models see the same part of a text.
    others = [model if isinstance(reference, str) else reference for reference in references]
    max_length = min(longest_input(each, max_length) for each in (model, *others))
    given = membership_records(model, members, nonmembers)
    both, which = given.distinct()
    inside = int(which[: len(members)].max()) + 1

    def score(each: PreTrainedModel) -> RecordScores:
        if not is_text and each.config.num_labels != model.config.num_labels:
            raise ValueError(
                f"A reference or shadow has {each.config.num_labels} classes, the model {model.config.num_labels}."
            )
        scored = score_texts if is_text else score_labels
        with beside(each, model):
            return scored(each, processing_class, both, max_length=max_length, progress=progress)

    def score_reference(reference: PreTrainedModel | str) -> RecordScores:
        if isinstance(reference, str):
            with adapter_off(model):
                return score(model)
        return score(reference)

    statistics = [
        # It saw a record that it saw a copy of.
        (score(shadow), np.bincount(which, seen) > 0)
        for shadow, seen in _checked(shadows, len(given))
    ]
    report = judge_scores(
        score(model),
        inside,
        references=[score_reference(reference) for reference in references],
        shadows=statistics,
        resamples=resamples,
        seed=seed,
    )
    near = near_duplicates(both, inside) if look_for_near_duplicates else ()
    return replace(report, notes=(*report.notes, *copies_note(len(given), len(both)), *near))


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

    Raises:
        ValueError: a reference is the audited model.
    """
    scores, given, judged = dict(own.attacks), list[np.ndarray](), list[int]()
    for number, reference in enumerate(references, 1):
        if len(own.log_likelihood) > 1 and np.array_equal(reference.log_likelihood, own.log_likelihood):
            raise ValueError(
                f"Reference {number} says of every record what the audited model says: it is that model, and compared "
                "with itself it hides everything. Give a model that saw none of the records."
            )
    if references:
        others = np.array([reference.log_likelihood for reference in references])
        scores["ratio"] = ratio_scores(own.log_likelihood, others)
        # The population to be dominated: all records, so that the attack does not know who is in.
        scores["rmia"] = rmia_scores(own.log_likelihood, others, own.log_likelihood, others)
        if own.tokens:
            target, missed = zip(*own.tokens, strict=True)
            given = [reference_tokens(every) for every in zip(*(each.tokens for each in references), strict=True)]
            scores["ez"], scores["wbc"] = ez_scores(target, missed, given), wbc_scores(target, given)
    if shadows:
        statistics = np.array([scored.statistic for scored, _ in shadows])
        seen = np.array([mask for _, mask in shadows])
        for name, online in (("lira", True), ("lira_offline", False)):
            scores[name] = lira_scores(own.statistic, statistics, seen, online=online)
    split = {name: (values[:members], values[members:]) for name, values in scores.items()}
    if own.tokens:
        losses = [-text.log_probs.astype(np.float64) for text in own.tokens]
        taught = taught_scores(losses, [-text for text in given] if given else None, members, seed)
        split |= taught
        judged = [len(side) for side in next(iter(taught.values()), ())]
    results = [evaluate_attack(name, *sides, resamples=resamples, seed=seed) for name, sides in split.items()]
    notes = _few(members, len(own.log_likelihood) - members) + _known(*judged)
    return MembershipReport(tuple(results), split, notes)


def _known(members: int = 0, nonmembers: int = 0) -> tuple[str, ...]:
    """Say what attacks knew that were taught."""
    if not members:
        return ()
    return (
        f"camia and learned know of half of the records whether they are in, and are judged on the others: {members} "
        f"in, {nonmembers} out",
    )


def _few(members: int, nonmembers: int) -> tuple[str, ...]:
    """Say what so few records cannot show."""
    if min(members, nonmembers) < _SHOWS_NOTHING:
        return (
            f"{members} against {nonmembers}: so few records show nothing, whatever the numbers; give a hundred or "
            "more of each",
        )
    return ()


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
    m, n = map(len, sides)
    _, *rates = bootstrap(attack_quality, sides, m + n, **common)
    # The bootstrap moves the cut with the others' scores; the exact interval knows that all or nothing is no proof.
    tpr, tpr_small = (wider(rate, proportion(round(rate.value * m), m)) for rate in rates)
    hits = _hits_of_the_best_cut(sides[0], sides[1], seed)
    (accuracy,) = bootstrap(_accuracy, hits, sum(map(len, hits)), **common)
    exact = [proportion(int(side.sum()), len(side), 0.975) for side in hits]
    low, high = (float(np.mean([getattr(e, end) for e in exact])) for end in ("low", "high"))
    accuracy = wider(accuracy, Interval(accuracy.value, low, high, m + n))
    p_value = min(2 * min(_p_of_area(*sides), _p_of_rate(sides[0], sides[1], 0.01)), 1.0)
    return MembershipResult(attack, area(*sides), accuracy, tpr, tpr_small, m, n, p_value)


def _p_of_area(members: np.ndarray, nonmembers: np.ndarray) -> float:
    """Return the p-value of Mann and Whitney: are members' scores larger, or smaller?"""
    return float(stats.mannwhitneyu(members, nonmembers, alternative="two-sided").pvalue)


def _p_of_rate(members: np.ndarray, nonmembers: np.ndarray, rate: float) -> float:
    """Return how likely so many members stand above all but the highest `rate` of the others, in a random order.

    In such an order the others among the first places are hypergeometric (our derivation).
    """
    above = int(rate * len(nonmembers))
    cut = np.sort(nonmembers)[::-1][above]
    found = int((members > cut).sum())
    law = stats.hypergeom(len(members) + len(nonmembers), len(nonmembers), found + above)
    return float(law.cdf(above)) if found else 1.0


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
