"""What one pass over the records tells an attacker: a score each, for every attack that needs no other model.

Higher means "in".  For texts:

- loss: mean log-likelihood of a token (Yeom et al. 2018, arXiv 1709.01604);
- zlib: the same, divided by the size of the compressed text in bytes (Carlini et al. 2021, arXiv 2012.07805);
- min_k: mean over the share k of least likely tokens (Shi et al. 2024, arXiv 2310.16789);
- min_k++: the same, each token relative to what the model expected there (Zhang et al. 2025, arXiv 2404.02936).

For classifiers: loss, and entropy, which needs no label (Salem et al. 2019, arXiv 1806.01246).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.audit.records import LabelledRecords, TextRecords
from swingkd.progress import progress_bar


class TokenScores(NamedTuple):
    """Of each token of a text, [tokens]: its log-probability in nats, and whether the model's first guess was another
    one."""

    log_probs: np.ndarray
    missed: np.ndarray


@dataclass(frozen=True, eq=False)
class RecordScores:
    """What one pass over the records found.

    Args:
        attacks: by attack, [records]; higher means "in".
        log_likelihood: [records] in nats: a text's per token, or that of an example's label.
        statistic: [records] what LiRA models as a Gaussian: the log-odds of the label; for texts, log_likelihood.
        tokens: for texts, what is known of each token that was scored.
    """

    attacks: dict[str, np.ndarray]
    log_likelihood: np.ndarray
    statistic: np.ndarray
    tokens: tuple[TokenScores, ...] = ()


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that has more tokens than the model knows, or cannot say where they stand in a text.

    Raises:
        ValueError: names both numbers, or the tokenizer.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} cannot say where its tokens stand in a text. Give the fast tokenizer of the "
            "model (a tokenizer.json)."
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens and the model knows {rows}: they do not belong together. Give "
            "the tokenizer that the model was trained with."
        )


@torch.inference_mode()
def score_texts(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    records: TextRecords | Sequence[str],
    *,
    share: float = 0.2,
    max_length: int = 512,
    memory: int | None = None,
    progress: bool = True,
    desc: str = "Scoring texts",
) -> RecordScores:
    """Score texts by all attacks that need no other model, in one forward pass a text.

    Args:
        model: any causal language model.
        processing_class: its fast tokenizer.
        records: the texts; of those with a prompt, only what follows it is scored.
        share: the k of min_k and min_k++.
        max_length: longer texts are cut, in tokens.
        memory: bytes for a batch's logits; default: what a CPU's caches like, more on an accelerator.
        progress: show a progress bar.
        desc: what it says.

    Raises:
        ValueError: a text without a token to predict, a tokenizer of another model, or logits that are not finite;
            names the record.
    """
    if not isinstance(records, TextRecords):
        records = TextRecords(list(records), [0] * len(records), [f"text {i}" for i in range(len(records))])
    check_tokenizer(model, processing_class)
    ids, first = _tokens(processing_class, records, longest_input(model, max_length))
    numbers, tokens = np.zeros((4, len(ids))), [TokenScores(np.zeros(0), np.zeros(0))] * len(ids)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    with evaluating(model), progress_bar(total=len(ids), desc=desc, disable=not progress) as bar:
        for batch in length_batches(order, [len(row) for row in ids], batch_tokens(model, memory)):
            scores = _token_scores(model, [ids[i] for i in batch], [first[i] for i in batch])
            for i, (log_probs, relative, missed) in zip(batch, scores, strict=True):
                if not np.isfinite(log_probs).all():
                    raise ValueError(
                        f"{records.names[i]}: the model gives NaN or infinite logits here. Audit it in float32, or "
                        "look for a training run that diverged."
                    )
                packed = len(zlib.compress(processing_class.decode(ids[i][first[i] :]).encode()))
                least = max(round(share * len(log_probs)), 1)
                lowest = [np.partition(values, least - 1)[:least].mean() for values in (log_probs, relative)]
                tokens[i] = TokenScores(log_probs.astype(np.float32), missed)
                numbers[:, i] = (log_probs.mean(), log_probs.mean() / packed, *lowest)
            bar.update(len(batch))
    attacks = dict(zip(("loss", "zlib", "min_k", "min_k++"), numbers, strict=True))
    return RecordScores(attacks, numbers[0], numbers[0], tuple(tokens))


@torch.inference_mode()
def score_labels(
    model: PreTrainedModel,
    processing_class,
    records: LabelledRecords,
    *,
    max_length: int = 512,
    batch_size: int = 64,
    progress: bool = True,
) -> RecordScores:
    """Score a classifier's examples by all attacks that need no other model.

    Args:
        model: a sequence or image classifier.
        processing_class: its tokenizer or image processor.
        records: the examples.
        max_length: longer texts are cut, in tokens.
        batch_size: examples a forward pass.
        progress: show a progress bar.

    Raises:
        ValueError: logits that are not finite; names the record.
    """
    rows = []
    is_text = isinstance(processing_class, PreTrainedTokenizerBase)
    longest = longest_input(model, max_length)
    if is_text:
        check_tokenizer(model, processing_class)
        longest = min(longest, processing_class.model_max_length)
    with evaluating(model):
        for start in progress_bar(range(0, len(records), batch_size), desc="Scoring examples", disable=not progress):
            inputs = records.inputs[start : start + batch_size]
            if is_text:
                batch = processing_class(
                    inputs, truncation=True, max_length=longest, padding=True, return_tensors="pt"
                )
            else:
                if getattr(model.config, "num_channels", 3) == 3:
                    inputs = [_colour(image) for image in inputs]
                batch = processing_class(inputs, return_tensors="pt")
                batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
            rows.append(model(**batch.to(model.device)).logits.cpu().double())
            if rows[-1].ndim != 2 or rows[-1].shape[1] < 2:
                raise ValueError(
                    f"{type(model).__name__} gives logits of shape {tuple(rows[-1].shape)}, which are no classes. "
                    "Audited can be causal language models, sequence classifiers and image classifiers."
                )
    return score_logits(torch.cat(rows), torch.as_tensor(records.labels), records.names)


def score_logits(logits: torch.Tensor, labels: torch.Tensor, names: Sequence[str] | None = None) -> RecordScores:
    """Score a classifier's examples by what it said of them.

    Args:
        logits: [n, classes].
        labels: [n] true classes.
        names: what each example is called in errors.

    Raises:
        ValueError: logits that are not finite; names the record.
    """
    wrong = torch.nonzero(~logits.isfinite().all(-1))
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"{names[first] if names else f'record {first}'}: the model gives NaN or infinite logits here."
        )
    log_probs, own_class = logits.double().log_softmax(-1), labels[:, None]
    own = log_probs.gather(-1, own_class)[:, 0]
    others = log_probs.scatter(-1, own_class, -torch.inf).logsumexp(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    attacks = {"loss": own.numpy(), "entropy": -entropy.numpy()}
    return RecordScores(attacks, own.numpy(), (own - others).numpy())


def _colour(image):
    return image.convert("RGB") if hasattr(image, "convert") else image


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout off, and the half precision that a Trainer computes in; and back to what they were.

    Accelerate keeps a model's own forward beside the one that computes in half precision: there, likelihoods differ
    with the size of a batch.
    """
    training, own, computed = model.training, vars(model).get("_original_forward"), model.forward
    model.eval()
    if own is not None:
        model.forward = own
    try:
        yield
    finally:
        model.train(training)
        if own is not None:
            model.forward = computed


@contextmanager
def beside(other: PreTrainedModel, model: PreTrainedModel) -> Iterator[None]:
    """Let a reference stand where the audited model is, and back: on a processor beside it, it takes minutes longer.

    One that several devices hold stays where it is.
    """
    own = other.device
    moves = own != model.device and getattr(other, "hf_device_map", None) is None
    if moves:
        other.to(model.device)
    try:
        yield
    finally:
        if moves:
            other.to(own)


def _tokens(
    tokenizer: PreTrainedTokenizerBase, records: TextRecords, max_length: int
) -> tuple[list[list[int]], list[int]]:
    """Return each text's ids and the place of the first one to score (at least 1: the first is never predicted)."""
    prompted = any(records.starts)
    encoded = tokenizer(
        records.texts, truncation=True, max_length=max_length, return_offsets_mapping=prompted, verbose=False
    )
    ids, first = encoded["input_ids"], [1] * len(records)
    if prompted:
        for i, (start, offsets) in enumerate(zip(records.starts, encoded["offset_mapping"], strict=True)):
            if start:
                first[i] = first_token(offsets, start)
    for i, (row, place) in enumerate(zip(ids, first, strict=True)):
        if place >= len(row):
            why = f"its prompt fills all {max_length} tokens" if records.starts[i] else "it has fewer than two tokens"
            raise ValueError(f"{records.names[i]}: {why}, so nothing is predicted in it. Drop such records.")
    return ids, first


def first_token(offsets: list[tuple[int, int]], start: int) -> int:
    """Return the first token, after the very first, that reaches beyond a character; their number if none does."""
    return next((k for k, (_, end) in enumerate(offsets) if end > start and k), len(offsets))


def longest_input(model: PreTrainedModel, limit: int) -> int:
    """Return how many tokens a text may have; some models name no limit of their own."""
    return min(limit, getattr(model.config.get_text_config(), "max_position_embeddings", None) or limit)


def batch_tokens(model: PreTrainedModel, memory: int | None) -> int:
    """Return how many padded tokens fit into a batch whose logits take so many bytes."""
    if memory is None:
        # On a CPU, small arrays are used again and large ones are fetched from the system page by page.
        memory = 2**26 if model.device.type == "cpu" else 2**30
    return max(memory // (12 * model.config.get_text_config().vocab_size), 1)


def length_batches(order: list[int], lengths: list[int], tokens: int) -> Iterator[list[int]]:
    """Cut an order of rising lengths into batches of at most so many padded tokens."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * lengths[i] > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def asked_logits(
    model: PreTrainedModel, rows: list[list[int]], first: list[int]
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Return the logits [asked, V] and the ids [asked, 1] of each row from `first` on, and where each row ends."""
    longest = max(map(len, rows))
    inputs = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask, predicted = torch.zeros_like(inputs), torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (row, start) in enumerate(zip(rows, first, strict=True)):
        inputs[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        predicted[i, start : len(row)] = True
    inputs, mask, at = inputs.to(model.device), mask.to(model.device), predicted[:, 1:].to(model.device)
    logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, :-1]
    return logits[at].float(), inputs[:, 1:][at][:, None], at.sum(1).cumsum(0).tolist()


def _token_scores(model: PreTrainedModel, rows: list[list[int]], first: list[int]) -> list[tuple[np.ndarray, ...]]:
    """Return the scored tokens' log-probabilities, how many deviations they are from the expected ones, and whether
    the model's first guess was another token."""
    logits, ids, ends = asked_logits(model, rows, first)
    # A few rows at a time: what is computed in several steps stays in the cache.
    step = max(2**19 // logits.shape[-1], 1)
    parts = [_token_statistics(*part) for part in zip(logits.split(step), ids.split(step), strict=True)]
    own, relative, missed = (torch.cat(values).cpu().numpy() for values in zip(*parts, strict=True))
    found = own.astype(np.float64), relative.astype(np.float64), missed
    return [tuple(values[a:b] for values in found) for a, b in zip([0, *ends], ends, strict=False)]


def _token_statistics(logits: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return log p(id) [n], its distance from the expected log-probability, in deviations [n], and whether another
    token is likelier [n]."""
    logits = logits - logits.max(-1, keepdim=True).values
    weights = logits.exp()
    total = weights.sum(-1)
    chosen = logits.gather(-1, ids)[:, 0]
    # A token that is ruled out counts nothing, not 0 times infinity.
    logits = logits.clamp_min(-1e4)
    mean = torch.linalg.vecdot(weights, logits) / total
    # The spread of log-probabilities is that of the logits: they differ by one number.
    variance = torch.linalg.vecdot(weights, logits.square_()) / total - mean.square()
    return chosen - total.log(), (chosen - mean) / variance.clamp_min(1e-12).sqrt(), chosen < 0
