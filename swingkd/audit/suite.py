"""Every audit that what was given allows, on one model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from datasets import Dataset
from transformers import PreTrainedModel

from swingkd.audit.canaries import Canary, CanarySet
from swingkd.audit.exposure import ExposureReport, measure_exposure
from swingkd.audit.extraction import ExtractionReport, audit_extraction
from swingkd.audit.lower_bound import EpsilonLowerBound
from swingkd.audit.membership import MembershipReport, audit_membership
from swingkd.audit.records import Data
from swingkd.audit.removed import Removed, removed_exposure, removed_membership
from swingkd.audit.scores import beside
from swingkd.models.base_model import has_adapter
from swingkd.models.same import same_model
from swingkd.tagging import Tagger

# Attacks that stand beside references.
_REFERRING = ("ratio", "rmia", "ez", "wbc", "learned")


@dataclass(frozen=True)
class AuditReport:
    """What was measured on one model; what was not asked for is None or empty.

    Args:
        exposure: of the canaries.
        membership: by kind of record: "records" as they were given; of canaries in or out by coin, "canary_secrets"
            (the secret after its prefix) and "canary_records" (the whole sentence), with "x10" for ten copies.
        epsilon: for those canaries, by kind and attack: the privacy loss that the attack proves, of the group of a
            canary's copies; all of them hold together with 95 % confidence, so the largest does.
        extraction: of training text and private values.
        teacher: what the same attacks found on the teacher: where they do not catch it, they show nothing here.
        own_references: each of the two models was compared with its own base, so what compares is not the same attack.
    """

    exposure: ExposureReport | None = None
    membership: dict[str, MembershipReport] = field(default_factory=dict)
    epsilon: dict[str, dict[str, EpsilonLowerBound]] = field(default_factory=dict)
    extraction: ExtractionReport | None = None
    teacher: AuditReport | None = None
    own_references: bool = False

    @property
    def family(self) -> int:
        """How many attacks on membership are looked at together."""
        return sum(len(report.results) for report in self.membership.values())

    def through(self, kind: str) -> list[str]:
        """List the attacks on one kind of record that get through, at 5 % for all attacks of this audit together."""
        return self.membership[kind].through(self.family)

    def powerless(self, kind: str) -> list[str]:
        """List the attacks that miss this model and do not even catch the teacher: that says nothing."""
        if self.teacher is None or kind not in self.teacher.membership:
            return []
        # What gets through has power, whatever the teacher knows.
        caught = {*self.teacher.through(kind), *self.through(kind)}
        return [result.attack for result in self.membership[kind].results if result.attack not in caught]

    def exposure_is_powerless(self, level: int) -> bool:
        """Tell whether neither this model nor even its teacher exposes such canaries beyond chance."""
        control = self.teacher.exposure if self.teacher is not None else None
        if control is None or self.exposure is None:
            return False
        if any(level not in report.levels for report in (control, self.exposure)):
            return False
        return not control.gives_away(level) and not self.exposure.gives_away(level)

    @cached_property
    def removed(self) -> tuple[Removed, ...]:
        """How much more the same attacks find on the teacher, or on whatever model stands in its place."""
        if self.teacher is None:
            return ()
        found: list[Removed] = []
        if self.exposure is not None and self.teacher.exposure is not None:
            found += removed_exposure(self.exposure, self.teacher.exposure)
        for kind, report in self.membership.items():
            if kind in self.teacher.membership:
                order = {name: place for place, name in enumerate(report.scores)}
                gone = removed_membership(kind, report, self.teacher.membership[kind])
                same = (one for one in gone if not (self.own_references and one.attack in _REFERRING))
                found += sorted(same, key=lambda one: order[one.attack])
        return tuple(found)

    def to_dict(self, show_secrets: bool = False) -> dict[str, Any]:
        """Return everything as plain types.

        Args:
            show_secrets: with the private values that were found, instead of their lengths.
        """
        return {
            "exposure": self.exposure and self.exposure.to_dict(),
            "membership": {kind: report.to_dict() for kind, report in self.membership.items()},
            "epsilon": {
                kind: {attack: asdict(bound) for attack, bound in bounds.items()}
                for kind, bounds in self.epsilon.items()
            },
            "extraction": self.extraction and self.extraction.to_dict(show_secrets),
            "teacher": self.teacher and self.teacher.to_dict(show_secrets),
            "removed": [asdict(one) for one in self.removed],
        }


def audit_model(
    model: PreTrainedModel,
    processing_class,
    *,
    members: Data | None = None,
    nonmembers: Data | None = None,
    references: Sequence[PreTrainedModel | Literal["base"]] = (),
    canaries: CanarySet | None = None,
    exposure_canaries: int = 100,
    private_text: Data | None = None,
    unseen_text: Data | None = None,
    tagger: Tagger | None = None,
    extraction: dict[str, Any] | None = None,
    teacher: PreTrainedModel | None = None,
    max_length: int = 512,
    delta: float = 1e-5,
    seed: int = 0,
    progress: bool = True,
) -> AuditReport:
    """Run every audit that what is given allows.

    Args:
        model: a causal language model, or (for membership) a classifier.
        processing_class: its tokenizer or image processor.
        members, nonmembers: records that it was trained on, and records alike that it was not: membership.
        references: models that saw none of the records, or "base": the model itself with its adapter switched off; for
            the attacks ratio, rmia, ez and wbc.
        canaries: what was inserted before training: exposure; where a coin chose, membership and epsilon as well.
        exposure_canaries: measure the exposure of so many canaries a level, the first ones.
        private_text: training text, with `spans` of private values where they are known: extraction.
        unseen_text: text alike that the model never saw, beside it.
        tagger: finds private values; default: `RuleTagger()`.
        extraction: settings of `audit_extraction`: attacks, prefix_tokens, suffix_tokens, samples, candidates, limit.
        teacher: of the model, attacked in the same way but for the extraction: an attack that does not catch it has no
            power, and that it misses the student says nothing.
        max_length: longer texts are cut, in tokens.
        delta: of the epsilon.
        seed: of everything that is drawn.
        progress: show progress bars.

    Raises:
        ValueError: nothing is given to audit with, only one of members and nonmembers, or two of the models are one;
            and whatever the audits refuse.
    """
    if (members is None) != (nonmembers is None):
        missing = "nonmembers" if nonmembers is None else "members"
        raise ValueError(f"There are no {missing}: an attack needs records of both kinds.")
    if members is None and canaries is None and private_text is None:
        raise ValueError("There is nothing to audit with. Give members and nonmembers, canaries, or private text.")
    if not model.can_generate() and (canaries is not None or private_text is not None):
        raise ValueError(
            f"{type(model).__name__} writes no text, so it has no exposure and nothing can be extracted. Give members "
            "and nonmembers only."
        )
    if private_text is None and (unseen_text is not None or extraction):
        raise ValueError("Unseen text and settings of the extraction need private text to extract. Give private_text.")
    if references and members is None and canaries is None:
        raise ValueError("References are for membership. Give members and nonmembers, or canaries, as well.")
    _check_apart(model, teacher, references)
    levels = canaries.coin_levels if canaries is not None else []
    for level in levels:
        own = [c.inserted for c in canaries.canaries if c.repetitions == level]  # type: ignore[union-attr]
        counts = own.count(True), own.count(False)
        if min(counts) < 4:
            raise ValueError(
                f"The coin put {counts[0]} canaries of {level} copies in and left {counts[1]} out; an audit needs at "
                "least 4 on each side, and a few hundred to prove much. Generate more."
            )
    common: dict[str, Any] = {"seed": seed, "progress": progress}
    exposure = extraction_report = None
    membership: dict[str, MembershipReport] = {}
    epsilon: dict[str, dict[str, EpsilonLowerBound]] = {}
    if private_text is not None:
        extraction_report = audit_extraction(
            model,
            processing_class,
            private_text,
            unseen=unseen_text,
            tagger=tagger,
            max_length=max_length,
            **common,
            **(extraction or {}),
        )
    if members is not None and nonmembers is not None:
        membership["records"] = audit_membership(
            model, processing_class, members, nonmembers, references=references, max_length=max_length, **common
        )
    if canaries is not None:
        exposure = measure_exposure(
            model,
            processing_class,
            canaries.head(exposure_canaries),
            method="exact" if canaries.space <= (10**6 if canaries.asked == "secret" else 1000) else "sampled",
            references=10_000 if canaries.asked == "secret" else 255,
            **common,
        )
        for level in levels:
            for part in ("secrets", "records"):
                kind = f"canary_{part} x{level}"
                membership[kind] = audit_canary_membership(
                    model, processing_class, canaries, level, part, references=references, **common
                )
    # Somebody will look at the largest: all bounds hold together.
    coined = [kind for kind in membership if kind != "records"]
    family = sum(len(membership[kind].results) for kind in coined)
    for kind in coined:
        epsilon[kind] = {
            result.attack: membership[kind].epsilon(result.attack, delta=delta, confidence=1 - 0.05 / family)
            for result in membership[kind].results
        }
    control = None
    if teacher is not None and (members is not None or canaries is not None):
        with beside(teacher, model):
            control = audit_model(
                teacher,
                processing_class,
                members=members,
                nonmembers=nonmembers,
                references=[reference for reference in references if reference != "base" or has_adapter(teacher)],
                canaries=canaries,
                exposure_canaries=exposure_canaries,
                max_length=max_length,
                delta=delta,
                **common,
            )
    return AuditReport(exposure, membership, epsilon, extraction_report, control, "base" in references)


def _check_apart(
    model: PreTrainedModel, teacher: PreTrainedModel | None, references: Sequence[PreTrainedModel | Literal["base"]]
) -> None:
    """Refuse models that are one: compared with itself, a model hides everything."""
    if same_model(model, teacher):
        raise ValueError("The teacher is the audited model: leave it out, or give the model that it learnt from.")
    for number, reference in enumerate(references, 1):
        for role, other in (("audited model", model), ("teacher", teacher)):
            if reference != "base" and same_model(reference, other):
                raise ValueError(
                    f"Reference {number} is the {role}: compared with itself it hides everything. Give a model that "
                    "saw none of the records."
                )


def audit_canary_membership(
    model: PreTrainedModel,
    tokenizer,
    canaries: CanarySet,
    repetitions: int,
    part: Literal["secrets", "records"],
    *,
    references: Sequence[PreTrainedModel | Literal["base"]] = (),
    shadows: Iterable[tuple[PreTrainedModel, Any]] = (),
    seed: int = 0,
    progress: bool = True,
) -> MembershipReport:
    """Tell canaries that a coin put in from those that it left out.

    Args:
        model: a causal language model.
        tokenizer: its fast tokenizer.
        canaries: a set with assign="coin".
        repetitions: the level: canaries that are, or would have been, inserted so often.
        part: "secrets": score the secret after its prefix; "records": the whole sentence.
        references, shadows: as for `audit_membership`; shadows' masks follow the order inside, outside.
        seed: of the bootstrap.
        progress: show progress bars.
    """
    inside, outside = canary_records(canaries, repetitions, part)
    return audit_membership(
        model,
        tokenizer,
        inside,
        outside,
        references=references,
        shadows=shadows,
        # Canaries of one template are alike by design; their secrets tell them apart.
        look_for_near_duplicates=False,
        seed=seed,
        progress=progress,
    )


def canary_records(
    canaries: CanarySet, repetitions: int, part: Literal["secrets", "records"]
) -> tuple[Dataset, Dataset]:
    """Return the canaries that a coin put in, and those that it left out, as records of an audit.

    Args:
        canaries: a set with assign="coin".
        repetitions: the level.
        part: "secrets": the prefix as prompt and the secret as completion, or what is asked for in its place;
            "records": the whole sentence as text.
    """
    after = canaries.asked == "suffix"

    def asked(canary: Canary) -> dict[str, str]:
        if part == "records":
            return {"text": canary.text}
        if after:
            return {"prompt": canary.prefix + canary.secret, "completion": canary.suffix}
        return {"prompt": canary.prefix, "completion": canary.secret}

    inside, outside = (
        Dataset.from_list(
            [asked(c) for c in canaries.canaries if c.repetitions == repetitions and c.inserted == inserted]
        )
        for inserted in (True, False)
    )
    return inside, outside
