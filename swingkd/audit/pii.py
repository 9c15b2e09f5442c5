"""Three attacks on private values in the training text (Lukas et al. 2023, arXiv 2302.00539).

- extraction: sample the model, and look for the training text's values in what it says;
- reconstruction: a value is masked in its sentence; the model proposes candidates and picks one;
- inference: the attacker holds a list of candidates, the true value among them, and the model picks one.

A pick is the candidate with which the sentence is likeliest.  The same attacks on text that the model never saw show
what can be guessed without a memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.audit.candidates import candidate_scores
from swingkd.audit.generation import first_tokens, sample_texts
from swingkd.audit.intervals import Interval, proportion
from swingkd.audit.records import TextRecords
from swingkd.audit.scores import longest_input
from swingkd.tagging import Tagger, is_private, label_spans
from swingkd.tagging.base import tag_texts, tagger_labels
from swingkd.tagging.known_values import KnownValues
from swingkd.tagging.spelling import written_alike


@dataclass(frozen=True, repr=False)
class PrivateValue:
    """A private value in its text.

    Args:
        text: the whole text.
        start, end: where the value stands, in characters.
        label: what it is ("PHONE_NUMBER").
    """

    text: str
    start: int
    end: int
    label: str

    @property
    def value(self) -> str:
        """The value itself."""
        return self.text[self.start : self.end]

    def __repr__(self) -> str:
        return f"PrivateValue(<redacted>, start={self.start}, end={self.end}, label={self.label!r})"


@dataclass(frozen=True, repr=False)
class FoundValue:
    """A training value that the model said unasked.

    Args:
        label: what it is.
        copies: how often it stands in the training text.
        samples: how often the model said it.
        value: the value.
    """

    label: str
    copies: int
    samples: int
    value: str

    def __repr__(self) -> str:
        return f"FoundValue(label={self.label!r}, copies={self.copies}, samples={self.samples}, value=<redacted>)"

    def to_dict(self, show_secrets: bool = False) -> dict[str, Any]:
        """Return everything as plain types; the value only where secrets may be shown."""
        hidden = {} if show_secrets else {"value": f"<redacted, {len(self.value)} characters>"}
        return asdict(self) | hidden


@dataclass(frozen=True)
class ValueExtraction:
    """What sampling the model gave away.

    Args:
        samples: how many texts were sampled.
        said: distinct values in the samples.
        training: distinct values in the training text.
        found: those in both, the most sampled first.
        by_chance: distinct values of text that the model never saw, and how many of them were said; None: not asked.
    """

    samples: int
    said: int
    training: int
    found: tuple[FoundValue, ...]
    by_chance: tuple[int, int] | None = None

    @property
    def precision(self) -> float:
        """Share of the values said that stand in the training text."""
        return len(self.found) / self.said if self.said else 0.0

    @property
    def recall(self) -> float:
        """Share of the training text's values that were said."""
        return len(self.found) / self.training if self.training else 0.0

    def to_dict(self, show_secrets: bool = False) -> dict[str, Any]:
        """Return everything as plain types; values only where secrets may be shown."""
        own = {"precision": self.precision, "recall": self.recall}
        return asdict(self) | own | {"found": [value.to_dict(show_secrets) for value in self.found]}


@dataclass(frozen=True)
class Guesses:
    """How often the model picked the true value.

    Args:
        right: share of the values, with the 95 % interval.
        chance: what guessing blindly gives; None where the model proposes the candidates.
        by_label: share by kind of value.
    """

    right: Interval
    chance: float | None
    by_label: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain types."""
        return asdict(self)


def private_values(
    records: TextRecords, spans: Sequence[Sequence[dict[str, Any]]] | None, tagger: Tagger
) -> list[PrivateValue]:
    """List the private values of texts: those that came with them, or what a tagger finds.

    Args:
        records: the texts.
        spans: for each text, its values as {"start", "end", "label"}; None: ask the tagger.
        tagger: finds the values of texts without spans.

    Raises:
        ValueError: a span lies outside its text; names the record.
    """
    if spans is None:
        return [value for values in _tagged(records.texts, tagger) for value in values]
    listed = []
    for text, own, name in zip(records.texts, spans, records.names, strict=True):
        for span in own or ():
            start, end = span["start"], span["end"]
            if not 0 <= start < end <= len(text):
                raise ValueError(
                    f"{name}: the span {start}..{end} does not lie in its text of {len(text)} characters. Give "
                    "character offsets, end exclusive."
                )
            listed.append(PrivateValue(text, start, end, span.get("label") or "PRIVATE"))
    return listed


def _tagged(texts: Sequence[str], tagger: Tagger) -> list[list[PrivateValue]]:
    """Return what a tagger finds in each text."""
    labels = tagger_labels(tagger)
    return [
        [
            PrivateValue(text, start, end, labels[label])
            for start, end, label in label_spans(np.where(is_private(tags.likelihood), tags.labels, 0))
        ]
        for text, tags in zip(texts, tag_texts(tagger, list(texts)), strict=True)
    ]


def extract_values(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    values: Sequence[PrivateValue],
    tagger: Tagger,
    *,
    unseen: Sequence[PrivateValue] | None = None,
    samples: int = 1000,
    max_new_tokens: int = 128,
    top_k: int = 40,
    seed: int = 0,
    progress: bool = True,
) -> ValueExtraction:
    """Sample a model without a prompt, and look for the training text's private values in what it says.

    A value counts however it is written.  What the tagger finds counts as said as well, and may be of no text.

    Half of the samples spread their first tokens evenly (Carlini et al. 2021, arXiv 2012.07805, section 5, use a
    temperature that decays, for the same reason).

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        values: the private values of the training text, as `private_values` lists them.
        tagger: finds further values in the samples.
        unseen: those of text alike that the model never saw: how many of them come up by chance?
        samples: how many texts to sample.
        max_new_tokens: their length.
        top_k: sample among so many likeliest tokens.
        seed: of the samples.
        progress: show a progress bar.
    """
    # By what a value says, not by how it is written.
    keys = [written_alike(v.value) for v in values]
    copies, labels = Counter(keys), dict(zip(keys, (v.label for v in values), strict=True))
    others = {written_alike(v.value) for v in unseen or ()} - copies.keys()
    known = KnownValues(v.value for v in (*values, *(unseen or ())))
    # One half begins as the model likes to.  The other half begins as often with a rare first token as with a common
    # one, among those to be expected in so many samples: rare kinds of text would hardly come up otherwise.
    starts = [[token] for token in first_tokens(model, tokenizer, 1 / samples)] or [[]]
    prompts: list[str | list[int]] = [[] if i % 2 == 0 else starts[i // 2 % len(starts)] for i in range(samples)]
    added = sample_texts(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        top_k=top_k,
        several=True,
        seed=seed,
        progress=progress,
        desc="Values that it says unasked: sampling texts",
    )
    drawn = [tokenizer.decode(prompt) + text for prompt, text in zip(prompts, added, strict=True)]
    sampled: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for text, own in zip(drawn, _tagged(drawn, tagger), strict=True):
        said = known.said(text) | {written_alike(value.value): value.value for value in own}
        sampled.update(said.keys())
        shown |= said
    extracted = [
        FoundValue(labels[key], copies[key], times, shown[key]) for key, times in sampled.items() if key in copies
    ]
    chance = (len(others), len(others & sampled.keys())) if unseen is not None else None
    extracted.sort(key=lambda value: (-value.samples, -value.copies, value.value))
    return ValueExtraction(samples, len(sampled), len(copies), tuple(extracted), chance)


def infer_values(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    values: Sequence[PrivateValue],
    *,
    candidates: int = 20,
    limit: int = 200,
    max_length: int = 512,
    seed: int = 0,
    progress: bool = True,
) -> Guesses:
    """Let a model pick each value among candidates: other values of its kind.

    Args:
        model: a causal language model.
        tokenizer: its fast tokenizer.
        values: values in their texts; of one that stands there several times the first is asked for, and what is
            tried stands in the place of all.
        candidates: how many, the true one among them.
        limit: ask for so many values, drawn by `seed`.
        max_length: longer texts are cut, in tokens.
        seed: of what is drawn.
        progress: show a progress bar.

    Raises:
        ValueError: no kind has so many different values.
    """
    rng = np.random.default_rng(seed)
    pools = candidate_pools(values)
    chosen = [v for v in askable_values(values) if len(pools[v.label]) >= candidates]
    if not chosen:
        raise ValueError(
            f"No kind of private value has {candidates} different ones to choose among. Give more texts, their spans, "
            "another tagger, or fewer candidates."
        )
    chosen = [chosen[i] for i in rng.permutation(len(chosen))[:limit]]
    lists = []
    for value in chosen:
        pool = [other for other in pools[value.label] if written_alike(other) != written_alike(value.value)]
        drawn = [pool[i] for i in rng.choice(len(pool), candidates - 1, replace=False)]
        drawn.insert(int(rng.integers(candidates)), value.value)
        lists.append(drawn)
    return _pick(model, tokenizer, chosen, lists, 1 / candidates, max_length, progress)


def reconstruct_values(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    values: Sequence[PrivateValue],
    tagger: Tagger,
    *,
    proposals: int = 32,
    limit: int = 200,
    value_tokens: int = 24,
    max_length: int = 512,
    top_k: int = 40,
    seed: int = 0,
    progress: bool = True,
) -> Guesses:
    """Let a model propose what stands in a gap, and pick one of its proposals.

    Args:
        model: a causal language model.
        tokenizer: its fast tokenizer.
        values: values in their texts; of one that stands there several times the first is asked for, and what is
            tried stands in the place of all.
        tagger: finds the proposed value in what the model says.
        proposals: how many continuations are sampled for each gap.
        limit: ask for so many values, drawn by `seed`.
        value_tokens: length of a continuation.
        max_length: longer texts are cut, in tokens.
        top_k: sample among so many likeliest tokens.
        seed: of what is drawn.
        progress: show a progress bar.

    Raises:
        ValueError: there is no value to ask for.
    """
    chosen = askable_values(values)
    if not chosen:
        raise ValueError("There is no private value to reconstruct: give texts with spans, or another tagger.")
    chosen = [chosen[i] for i in np.random.default_rng(seed).permutation(len(chosen))[:limit]]
    prompts = [value.text[: value.start].rstrip() for value in chosen for _ in range(proposals)]
    continuations = sample_texts(
        model,
        tokenizer,
        prompts,
        max_new_tokens=value_tokens,
        top_k=top_k,
        seed=seed,
        progress=progress,
        desc=f"Reconstruction: {proposals} proposals for each of {len(chosen)} gaps",
    )
    texts = [prompt + more for prompt, more in zip(prompts, continuations, strict=True)]
    proposed: list[set[str]] = [set() for _ in chosen]
    for i, (prompt, tagged) in enumerate(zip(prompts, _tagged(texts, tagger), strict=True)):
        proposed[i // proposals].update([value.value for value in tagged if value.start >= len(prompt)][:1])
    return _pick(model, tokenizer, chosen, [sorted(own) for own in proposed], None, max_length, progress)


def askable_values(values: Sequence[PrivateValue]) -> list[PrivateValue]:
    """List what can be asked for: each value of a text once, where it is said first, something before it."""
    asked: dict[tuple[str, str], PrivateValue] = {}
    for value in sorted(dict.fromkeys(values), key=lambda value: value.start):
        asked.setdefault((value.text, written_alike(value.value)), value)
    return [
        value
        for value in dict.fromkeys(values)
        if asked.get((value.text, written_alike(value.value))) == value
        and value.text[: value.start].strip()
        and not KnownValues([value.value]).said(value.text[: value.start])
    ]


def with_candidate(value: PrivateValue, candidate: str, before: int) -> str:
    """Return the text of a value with another one in its place, and in that of every further mention.

    Args:
        value: in its text.
        candidate: the other one.
        before: how many characters to keep in front of it.
    """
    begin, rest = max(value.start - before, 0), value.text[value.end :]
    pieces, place = [value.text[begin : value.start], candidate], 0
    for start, end in sorted({(m.start, m.end) for m in KnownValues([value.value]).mentions(rest)}):
        if start >= place:
            pieces += [rest[place:start], candidate]
            place = end
    return "".join(pieces) + rest[place:]


def candidate_pools(values: Sequence[PrivateValue]) -> dict[str, list[str]]:
    """Return the different values of each kind, each in one of its spellings."""
    return {
        label: sorted({written_alike(v.value): v.value for v in values if v.label == label}.values())
        for label in sorted({v.label for v in values})
    }


def _pick(model, tokenizer, values, lists, chance, max_length, progress) -> Guesses:
    """Put each candidate into its sentence and take the one with which it is likeliest."""
    # Characters, of which a token has several: what stands too far before the value would push it out of sight.
    before = 2 * longest_input(model, max_length)
    groups = [
        [with_candidate(value, candidate, before) for candidate in own]
        for value, own in zip(values, lists, strict=True)
    ]
    what = "Reconstruction" if chance is None else "Inference"
    desc = f"{what}: which of the candidates is likeliest"
    every = candidate_scores(model, tokenizer, groups, max_length=max_length, progress=progress, desc=desc)
    right = [
        bool(own) and written_alike(own[int(scores.argmax())]) == written_alike(value.value)
        for value, own, scores in zip(values, lists, every, strict=True)
    ]
    kinds = defaultdict(list)
    for value, hit in zip(values, right, strict=True):
        kinds[value.label].append(hit)
    by_label = {label: float(np.mean(hits)) for label, hits in sorted(kinds.items())}
    return Guesses(proportion(sum(right), len(right)), chance, by_label)
