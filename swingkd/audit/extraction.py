"""All extraction attacks in one call, on the training text and on text that the model never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.audit.continuation import ContinuationReport, extract_continuations
from swingkd.audit.pii import (
    Guesses,
    PrivateValue,
    ValueExtraction,
    askable_values,
    candidate_pools,
    extract_values,
    infer_values,
    private_values,
    reconstruct_values,
)
from swingkd.audit.records import Data, text_records
from swingkd.tagging import RuleTagger, Tagger

Attack = Literal["continuation", "values", "reconstruction", "inference"]
ATTACKS: tuple[Attack, ...] = ("continuation", "values", "reconstruction", "inference")


@dataclass(frozen=True)
class ExtractionReport:
    """What could be extracted; what was not asked for is None.

    Args:
        continuation: training texts continued from their beginnings.
        values: private values that the model said unasked.
        reconstruction: private values that it put into a gap from its own proposals.
        inference: private values that it picked from a list.
        unseen: the same attacks on text that the model never saw: what needs no memory.
    """

    continuation: ContinuationReport | None = None
    values: ValueExtraction | None = None
    reconstruction: Guesses | None = None
    inference: Guesses | None = None
    unseen: ExtractionReport | None = None

    def to_dict(self, show_secrets: bool = False) -> dict[str, Any]:
        """Return everything as plain types.

        Args:
            show_secrets: with the values that were found, instead of their lengths.
        """
        return {
            "continuation": self.continuation and self.continuation.to_dict(),
            "values": self.values and self.values.to_dict(show_secrets),
            "reconstruction": self.reconstruction and self.reconstruction.to_dict(),
            "inference": self.inference and self.inference.to_dict(),
            "unseen": self.unseen and self.unseen.to_dict(show_secrets),
        }

    def __str__(self) -> str:
        lines = [str(self.continuation)] if self.continuation else []
        if self.values:
            v = self.values
            lines.append(
                f"{v.samples} samples said {v.said} private values; {len(v.found)} of them stand among the "
                f"{v.training} of the training text"
            )
        for name, guesses in (("reconstruction", self.reconstruction), ("inference", self.inference)):
            if guesses:
                right, chance = guesses.right, f", chance {guesses.chance:.1%}" if guesses.chance else ""
                lines.append(
                    f"{name}: {right.value:.1%} [{right.low:.1%}, {right.high:.1%}] of {right.n} values{chance}"
                )
        if self.unseen:
            lines += [f"  never seen: {line}" for line in str(self.unseen).split("\n")]
        return "\n".join(lines)


def audit_extraction(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Data,
    *,
    unseen: Data | None = None,
    tagger: Tagger | None = None,
    attacks: Sequence[Attack] = ATTACKS,
    prefix_tokens: int = 50,
    suffix_tokens: int = 50,
    samples: int = 1000,
    candidates: int = 20,
    limit: int = 200,
    max_length: int = 512,
    seed: int = 0,
    progress: bool = True,
) -> ExtractionReport:
    """Try to get the training text, and the private values in it, out of a causal language model.

    Args:
        model: the model.
        tokenizer: its fast tokenizer.
        texts: training texts, or a data set with the column `text` and, where they are known, `spans` of private
            values ({"start", "end", "label"}), or with `prompt` and `completion`.
        unseen: texts alike that the model never saw, for comparison.
        tagger: finds private values in what the model says, and in texts without spans; default: `RuleTagger()`.
        attacks: some of "continuation", "values", "reconstruction" and "inference".
        prefix_tokens: how much of a text is given for its continuation.
        suffix_tokens: how much of it is asked for.
        samples: how many texts to sample in search of private values.
        candidates: among how many the model picks a value; fewer where no kind of value has so many different ones.
        limit: how many values to reconstruct and to infer.
        max_length: longer texts are cut, in tokens.
        seed: of samples and candidates.
        progress: show progress bars.

    Raises:
        ValueError: an unknown attack, no text, a span outside its text, or too little of either for an attack.
    """
    wrong = set(attacks) - set(ATTACKS)
    if wrong or not attacks:
        raise ValueError(f"attacks={list(attacks)!r}: choose some of {', '.join(ATTACKS)}.")
    if candidates < 2 or limit < 1 or samples < 1:
        raise ValueError(
            f"candidates={candidates} must be at least 2, limit={limit} and samples={samples} at least 1."
        )
    tagger = tagger or RuleTagger()
    # Whether there is anything to ask for is known before the models are asked, and both sides are asked the same.
    given = [(texts, "texts")] + ([(unseen, "unseen texts")] if unseen is not None else [])
    sides = [_Side(data, name, tagger, attacks) for data, name in given]
    candidates = min(candidates, *(side.choice for side in sides))
    reports: list[ExtractionReport] = []
    halves = None
    for side in sides:
        parts: dict[str, Any] = {}
        common: dict[str, Any] = {"limit": limit, "max_length": max_length, "seed": seed, "progress": progress}
        if "continuation" in attacks:
            parts["continuation"] = extract_continuations(
                model,
                tokenizer,
                side.records,
                prefix_tokens=prefix_tokens,
                suffix_tokens=suffix_tokens,
                in_halves=halves,
                progress=progress,
            )
            halves = parts["continuation"].halves
        if "values" in attacks and side is sides[0]:
            others = sides[1].values if unseen is not None else None
            parts["values"] = extract_values(
                model, tokenizer, side.values, tagger, unseen=others, samples=samples, seed=seed, progress=progress
            )
        if "reconstruction" in attacks:
            parts["reconstruction"] = reconstruct_values(model, tokenizer, side.values, tagger, **common)
        if "inference" in attacks:
            parts["inference"] = infer_values(model, tokenizer, side.values, candidates=candidates, **common)
        reports.append(ExtractionReport(**parts))
    if unseen is not None and set(attacks) != {"values"}:
        return replace(reports[0], unseen=reports[1])
    return reports[0]


class _Side:
    """Texts that are asked for, and the private values in them."""

    def __init__(self, data: Data, name: str, tagger: Tagger, attacks: Sequence[Attack]):
        self.records = text_records(data, name)
        self.values: list[PrivateValue] = []
        self.choice = 2**31  # among how many candidates a value can be picked
        if set(attacks) == {"continuation"}:
            return
        spans = data["spans"][:] if isinstance(data, Dataset) and "spans" in data.column_names else None
        self.values = private_values(self.records, spans, tagger)
        if not {"reconstruction", "inference"} & set(attacks):
            return
        askable = askable_values(self.values)
        if not askable:
            raise ValueError(
                f"No private value that could be asked for stands in the {name}. Give their spans or another tagger, "
                "or choose among the attacks 'continuation' and 'values'."
            )
        if "inference" in attacks:
            pools = candidate_pools(self.values)
            self.choice = max(len(pools[value.label]) for value in askable)
            if self.choice < 2:
                raise ValueError(
                    f"No kind of private value in the {name} has two different ones to choose between. Give more "
                    "texts, or leave out the attack 'inference'."
                )
