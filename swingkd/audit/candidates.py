"""Sentences that differ in one place: how likely each is, with what they share read once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.audit.beginnings import keeps_beginnings
from swingkd.audit.records import TextRecords
from swingkd.audit.scores import check_tokenizer, evaluating, longest_input, score_texts
from swingkd.progress import progress_bar


@torch.inference_mode()
def candidate_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Sequence[str]],
    *,
    max_length: int = 512,
    progress: bool = True,
    desc: str = "Scoring candidates",
) -> list[np.ndarray]:
    """Return the mean log-probability of the tokens of each sentence, as `score_texts` has it, a group at a time.

    Args:
        model: a causal language model.
        tokenizer: its fast tokenizer.
        groups: sentences that begin alike.
        max_length: longer texts are cut, in tokens.
        progress: show a progress bar.
        desc: what it says.

    Raises:
        ValueError: a text without a token to predict, a tokenizer of another model, or logits that are not finite.
    """
    check_tokenizer(model, tokenizer)
    longest, shares = longest_input(model, max_length), keeps_beginnings(model)
    scores = []
    with evaluating(model):
        for texts in progress_bar(groups, desc=desc, disable=not progress):
            ids = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"] if texts else []
            shared = _shared(ids) if shares else 0
            # A sentence is scored as part of a text of two tokens at least, which `score_texts` sees to.
            if shared < 2 or len(ids) < 2:
                scores.append(_one_by_one(model, tokenizer, texts, max_length))
            else:
                scores.append(_with_shared_beginning(model, ids, shared))
    return scores


def _shared(ids: list[list[int]]) -> int:
    """Return how many tokens all rows begin with, less than any of them has."""
    alike = (len(set(tokens)) == 1 for tokens in zip(*ids, strict=False))
    return min(sum(1 for _ in itertools.takewhile(bool, alike)), min(map(len, ids), default=0) - 1)


def _one_by_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> np.ndarray:
    if not texts:
        return np.zeros(0)
    records = TextRecords(list(texts), [0] * len(texts), [f"candidate {i}" for i in range(len(texts))])
    return score_texts(model, tokenizer, records, max_length=max_length, progress=False).log_likelihood


def _with_shared_beginning(model: PreTrainedModel, ids: list[list[int]], shared: int) -> np.ndarray:
    device, lengths = model.device, torch.tensor([len(row) for row in ids])
    beginning = torch.tensor([ids[0][:shared]], device=device)
    first = model(input_ids=beginning, use_cache=True)
    before = _log_probs(first.logits[:, :-1], beginning[:, 1:]).sum()
    cache = first.past_key_values
    cache.batch_repeat_interleave(len(ids))
    rest = torch.zeros(len(ids), int(lengths.max()) - shared, dtype=torch.int64)
    for i, row in enumerate(ids):
        rest[i, : len(row) - shared] = torch.tensor(row[shared:])
    known = torch.arange(rest.size(1)) < (lengths - shared)[:, None]
    rest, known = rest.to(device), known.to(device)
    mask = torch.cat([torch.ones(len(ids), shared, dtype=torch.int64, device=device), known.long()], 1)
    logits = model(input_ids=rest, attention_mask=mask, past_key_values=cache, use_cache=True).logits
    # The first token of the rest is predicted by the last of the beginning.
    whole = torch.cat([first.logits[:, -1:].expand(len(ids), -1, -1), logits[:, :-1]], 1)
    own = _log_probs(whole, rest).masked_fill(~known, 0.0).sum(1)
    found = ((before + own).cpu().double() / (lengths - 1)).numpy()
    if not np.isfinite(found).all():
        raise ValueError(
            "The model gives NaN or infinite logits of a candidate. Audit it in float32, or look for a training run "
            "that diverged."
        )
    return found


def _log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
