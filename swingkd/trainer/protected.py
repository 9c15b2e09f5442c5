"""What a run protects: said in the log before its first step, kept in the trainer's state and on the card."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, IterableDataset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import ExportableState

from swingkd.data.columns import IGNORE, flat, stored
from swingkd.data.prepare import column_names
from swingkd.report.protected import Protected, protected_lines
from swingkd.tagging import EnsembleTagger, Tagger
from swingkd.tagging.threshold import THRESHOLD
from swingkd.targets.population import GROUP_STRIDE, LAST_PLACE

_AT_ONCE, _SHOWN, _LOOKED_AT = 10_000, 3, 2_000


def what_is_protected(
    rows: Dataset | IterableDataset | None,
    tagger: Tagger | None,
    tokenizer: Any,
    *,
    protection: str,
    why: str,
    counted: bool,
    threshold: float = THRESHOLD,
    answers: str = "predicted tokens",
) -> Protected:
    """Count what is flagged in the training rows, and show a few shapes of it.

    Args:
        rows: prepared.
        tagger: what rated them; `None`: their own column did, or nothing.
        tokenizer: to read tokens as text again.
        protection, why: what was chosen, and the reason.
        threshold: from which likelihood on something counts as private.
        answers: what the models are asked for.
        counted: whether shares may be told: under differential privacy no noise covers them.
    """
    rated = rows is not None and "pii_likelihood" in column_names(rows)
    name = "the data's own column pii_likelihood" if rated else "nothing"
    found: Protected = {
        "protection": protection,
        "why": why,
        "tagger": tagger_name(tagger) if tagger is not None else name,
        "answers": answers,
        "flagged": None,
        "kinds": {},
        "examples": [],
    }
    if not (rated and counted and isinstance(rows, Dataset)):
        return found
    labels = getattr(tagger, "labels", ())
    flagged, kinds = _shares(rows, labels, threshold)
    shown = _examples(rows, labels, tokenizer) if isinstance(tokenizer, PreTrainedTokenizerBase) else []
    return {**found, "flagged": flagged, "kinds": kinds, "examples": shown}


def tagger_name(tagger: Tagger) -> str:
    """Return what a tagger is called: its class, or those of its members."""
    if isinstance(tagger, EnsembleTagger):
        return " and ".join(map(tagger_name, tagger.taggers))
    return type(tagger).__name__


def _shares(rows: Dataset, labels: tuple[str, ...], threshold: float) -> tuple[float, dict[str, float]]:
    """Return the share of predicted tokens that are private, of all and of each kind."""
    names = [name for name in ("pii_likelihood", "pii_group", "labels") if name in rows.column_names]
    total, kinds = 0, np.zeros(len(labels) + 1, np.int64)
    private = 0
    for part in rows.select_columns(names).with_format("arrow").iter(_AT_ONCE):
        likelihood = _numbers(part["pii_likelihood"])
        known = np.ones(len(likelihood), bool)
        if "labels" in names and len(answers := _numbers(part["labels"])) == len(known):
            known = answers != IGNORE
        flagged = known & (likelihood >= stored(threshold))
        total, private = total + int(known.sum()), private + int(flagged.sum())
        if "pii_group" in names and labels:
            kind = _numbers(part["pii_group"])[flagged] // GROUP_STRIDE
            kinds += np.bincount(kind.clip(0, len(labels)), minlength=len(kinds))
    share = {name: float(count / total) for name, count in zip(labels, kinds, strict=False) if name and count}
    return (private / total if total else 0.0), share


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return flat(column).to_numpy()


def _examples(rows: Dataset, labels: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the shapes of the first spans that were found, of as many kinds as there are."""
    shown: dict[str, str] = {}
    for kind, text in _spans(rows.select(range(min(len(rows), _LOOKED_AT))), labels, tokenizer):
        if kind not in shown and (masked := shape(text)):
            shown[kind] = f"{kind} {masked}"
        if len(shown) == _SHOWN:
            break
    return list(shown.values())


def _spans(rows: Dataset, labels: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, str]]:
    if not {"input_ids", "pii_group", "pii_span"} <= set(rows.column_names):
        return
    for row in rows.select_columns(["input_ids", "pii_group", "pii_span", "pii_likelihood"]):
        ids, likelihood = row["input_ids"], row["pii_likelihood"]
        if not isinstance(likelihood, list) or len(likelihood) != len(ids):
            return
        facts = zip(row["pii_span"], row["pii_group"], likelihood, ids, strict=True)
        for span, part in groupby(facts, key=lambda fact: fact[0] if 0 < fact[1] % GROUP_STRIDE <= LAST_PLACE else 0):
            tokens = list(part)
            number = tokens[0][1] // GROUP_STRIDE
            if span and 0 < number < len(labels):
                yield labels[number], tokenizer.decode([token for *_, token in tokens], skip_special_tokens=True)


def shape(text: str) -> str:
    """Return what a text looks like, and no more: each run of letters an x, each of digits a 9, what joins them.

    >>> shape("ann.smith@example.org"), shape("(212) 555-0100")
    ('x.x@x.x', '(9) 9-9')
    """
    kinds = ("9" if c.isdigit() else "x" if c.isalpha() else c if c in " @.-/:()+" else "•" for c in text.strip())
    masked = "".join(kind for kind, _ in groupby(kinds))
    return masked[:24]


class SayWhatIsProtected(TrainerCallback, ExportableState):
    """Say at the start of a training what it protects, and keep it in the state that checkpoints hold.

    Args:
        protected: what it protects.
        mentions: how many mentions were tagged now that the tagger alone had missed; rows from a cache count none.
    """

    def __init__(self, protected: Protected, mentions: int = 0):
        self.protected, self.mentions = protected, mentions

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Print the words where the trainer prints its log."""
        for line in protected_lines(self.protected) if args.should_log else ():
            tqdm.write(line)
        if self.mentions and args.should_log:
            tqdm.write(f"Mentions that it missed, of values that it had found elsewhere: {self.mentions:,}.")

    def state(self) -> dict[str, Any]:
        """Return what `trainer_state.json` keeps, and what it is made of again."""
        return {"args": {"protected": self.protected}, "attributes": {}}
