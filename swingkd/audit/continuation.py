"""Extraction: which training text does a model give away, continued from its beginning?

- greedy: the rest of a text follows word for word from its first tokens (discoverable extraction; Carlini et al. 2023,
  arXiv 2202.07646);
- (n, p): the rest comes up with probability at least p when the model is sampled n times (Hayes et al. 2025, arXiv
  2410.19482).

Both follow from one forward pass over the true text: greedy decoding gives the rest exactly if every one of its tokens
is the likeliest after the true ones before it, and a sample gives it with the product of their probabilities.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.audit.intervals import Interval, proportion
from swingkd.audit.records import TextRecords
from swingkd.audit.scores import (
    asked_logits,
    batch_tokens,
    check_tokenizer,
    evaluating,
    first_token,
    length_batches,
    longest_input,
)
from swingkd.progress import progress_bar


@dataclass(frozen=True)
class ContinuationReport:
    """How many texts a model continues as they were.

    Args:
        greedy: share of the texts that follow from their beginnings word for word, with the 95 % interval.
        sampled: by number of samples n: share of the texts that come up with probability `p` at least.
        p: that probability.
        texts: how many different texts were long enough to be asked for.
        skipped: how many were not.
        halves: no text was, so all were cut in the middle.
        names: which texts follow greedily, by the names of their records.
    """

    greedy: Interval
    sampled: dict[int, float]
    p: float
    texts: int
    skipped: int
    halves: bool
    names: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain types; no text."""
        return asdict(self)

    def __str__(self) -> str:
        queries = ", ".join(f"{share:.1%} in {n}" for n, share in self.sampled.items())
        how = " cut in the middle" if self.halves else ""
        how += f" ({self.skipped} were too short)" if self.skipped else ""
        return (
            f"continued word for word: {self.greedy.value:.1%} [{self.greedy.low:.1%}, {self.greedy.high:.1%}] of "
            f"{self.texts} texts{how}; with probability {self.p:g} in n samples: {queries}"
        )


@torch.inference_mode()
def extract_continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: TextRecords,
    *,
    prefix_tokens: int = 50,
    suffix_tokens: int = 50,
    in_halves: bool | None = None,
    queries: tuple[int, ...] = (1, 10, 100, 1000),
    p: float = 0.5,
    temperature: float = 1.0,
    top_k: int | None = None,
    memory: int | None = None,
    progress: bool = True,
) -> ContinuationReport:
    """Ask a causal language model for the rest of texts.

    Args:
        model: the model.
        tokenizer: its fast tokenizer.
        records: texts with a prompt are asked for all that follows it; of others, the first `prefix_tokens` are given
            and the next `suffix_tokens` asked for, and shorter ones are skipped; where all are shorter, the first half
            is given and the second asked for.
        prefix_tokens, suffix_tokens: see there.
        in_halves: cut texts in the middle, or not; default: where none is long enough.
        queries: numbers of samples.
        p: the probability with which a text must come up in so many samples.
        temperature, top_k: how the model is sampled.
        memory: bytes for a batch's logits; default: as for `score_texts`.
        progress: show a progress bar.

    Raises:
        ValueError: no text has two tokens, a number is out of range, or the tokenizer belongs to another model.
    """
    check_tokenizer(model, tokenizer)
    records, _ = records.distinct()
    asked = prefix_tokens, suffix_tokens, *queries, *([top_k] if top_k is not None else [])
    if min(asked) < 1 or not 0 < p < 1 or not 0 < temperature < math.inf:
        raise ValueError(
            f"prefix_tokens={prefix_tokens}, suffix_tokens={suffix_tokens}, queries={queries} and top_k={top_k} must "
            f"be at least 1, p={p} lie in (0, 1) and temperature={temperature} be positive and finite."
        )
    longest = longest_input(model, 2**20)
    halves = bool(in_halves)
    rows, first, names = _split(tokenizer, records, None if halves else prefix_tokens, suffix_tokens, longest)
    if not rows and in_halves is None:
        halves = True
        rows, first, names = _split(tokenizer, records, None, suffix_tokens, longest)
    if not rows:
        raise ValueError(
            f"None of the {len(records)} texts is long enough to be continued, and short enough for the model."
        )
    greedy, log_probs = np.zeros(len(rows), bool), np.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    with evaluating(model), progress_bar(total=len(rows), desc="Continuing texts", disable=not progress) as bar:
        for batch in length_batches(order, [len(row) for row in rows], batch_tokens(model, memory)):
            own, best = _suffix_scores(model, [rows[i] for i in batch], [first[i] for i in batch], temperature, top_k)
            log_probs[batch], greedy[batch] = own, best
            bar.update(len(batch))
    return ContinuationReport(
        greedy=proportion(int(greedy.sum()), len(rows)),
        sampled={n: float((needed_queries(log_probs, p) <= n).mean()) for n in queries},
        p=p,
        texts=len(rows),
        skipped=len(records) - len(rows),
        halves=halves,
        names=tuple(names[i] for i in np.flatnonzero(greedy)),
    )


def needed_queries(log_probs: np.ndarray, p: float) -> np.ndarray:
    """Return how many samples it takes until a text has come up with probability p, [texts] (Hayes et al. 2025).

    Args:
        log_probs: [texts] log-probability of the text in one sample.
        p: in (0, 1).
    """
    with np.errstate(divide="ignore"):
        needed = math.log1p(-p) / np.log1p(-np.exp(np.minimum(log_probs, 0.0)))
    # A certain text comes up at once; rounding must not ask for one sample more.
    return np.maximum(np.ceil(needed - 1e-9), 1)


def _split(
    tokenizer: PreTrainedTokenizerBase,
    records: TextRecords,
    prefix_tokens: int | None,
    suffix_tokens: int,
    longest: int,
) -> tuple[list[list[int]], list[int], list[str]]:
    """Return ids to feed, the place of the first one that is asked for, and the records' names.

    Without `prefix_tokens`, texts are cut in the middle.
    """
    encoded = tokenizer(records.texts, return_offsets_mapping=True, verbose=False)
    rows, places, names = [], [], []
    for ids, offsets, start, name in zip(
        encoded["input_ids"], encoded["offset_mapping"], records.starts, records.names, strict=True
    ):
        if start:
            place, wanted = first_token(offsets, start), len(ids)
        elif prefix_tokens is None:
            place, wanted = max(len(ids) // 2, 1), len(ids)
        else:
            place, wanted = prefix_tokens, prefix_tokens + suffix_tokens
        if place < wanted <= min(len(ids), longest):
            ids = ids[:wanted]
            rows.append(ids)
            places.append(place)
            names.append(name)
    return rows, places, names


def _suffix_scores(
    model: PreTrainedModel, rows: list[list[int]], first: list[int], temperature: float, top_k: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's log-probability to be sampled from `first` on, and whether greedy decoding gives it."""
    logits, ids, ends = asked_logits(model, rows, first)
    best = logits.argmax(-1) == ids[:, 0]
    if top_k is not None:
        logits = logits.masked_fill(logits < logits.topk(min(top_k, logits.shape[-1])).values[:, -1:], -torch.inf)
    log_probs = (logits / temperature).log_softmax(-1).gather(-1, ids)[:, 0].cpu().double().numpy()
    starts = [0, *ends[:-1]]
    return np.add.reduceat(log_probs, starts), np.logical_and.reduceat(best.cpu().numpy(), starts)
