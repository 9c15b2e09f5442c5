"""Exposure: how much likelier a model finds a canary's secret than the other fillings of its template.

exposure = log2 |R| - log2 rank, with the rank of the secret among all |R| fillings by log-perplexity (Carlini et al.
2019, arXiv 1802.08232, section 4).  A secret that the model never saw has exposure 1 / ln 2 = 1.44 on average, a fully
memorised one log2 |R|.  Three methods: "exact" walks the tree of all fillings, "sampled" ranks among n random fillings
and saturates at log2 n, "modelled" extrapolates with a skew-normal fit and says how well that fits.

Where the text after a secret shares tokens with it, both are scored: the sentence as the model read it, not a part
of it that is cut through a token.

Secrets that were read and never said are ranked by the text behind them (`CanarySet.asked` "suffix"): how well does
the model know what follows, were the secret this one?
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from scipy import integrate, stats
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from swingkd.audit.beginnings import chosen_rows, keeps_beginnings
from swingkd.audit.canaries import Canary, CanarySet
from swingkd.audit.exposure_report import CanaryExposure, ExposureReport
from swingkd.audit.prefix_tree import (
    PrefixTree,
    all_fillings,
    children,
    leading_special_ids,
    split_prefix,
    split_suffix,
    tokenise_fillings,
    whole_space,
)
from swingkd.audit.records import TextRecords
from swingkd.audit.scores import evaluating, score_texts
from swingkd.progress import progress_bar

# Above this many fillings an exact rank takes too long to be what the user meant.
_EXACT_LIMIT, _SENTENCES_LIMIT = 20_000_000, 10_000
# Batched and single forward passes differ in the last bits: branches this close to the secret (nats) are still walked.
_MARGIN = 0.01


@torch.inference_mode()
def measure_exposure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    canaries: CanarySet,
    *,
    method: Literal["exact", "sampled", "modelled"] = "exact",
    references: int = 10_000,
    batch_size: int = 1024,
    seed: int = 0,
    progress: bool = True,
) -> ExposureReport:
    """Measure the exposure of every canary in any causal language model.

    Args:
        model: the model to audit, on any device.
        tokenizer: its fast tokenizer.
        canaries: the canaries and the space of their secrets.
        method: "exact", "sampled" or "modelled".
        references: random fillings for the last two methods.
        batch_size: nodes of the tree per forward pass.
        seed: of the random fillings.
        progress: show a progress bar.

    Raises:
        ValueError: the space is too large for the exact method, a prefix leaves the model without a first token, or
            the model gives a canary no finite log-probability.
    """
    if method not in ("exact", "sampled", "modelled"):
        raise ValueError(f"method={method!r} is not known. Choose 'exact', 'sampled' or 'modelled'.")
    whole_sentences = canaries.asked == "suffix"
    if method == "exact" and canaries.space > (_SENTENCES_LIMIT if whole_sentences else _EXACT_LIMIT):
        raise ValueError(
            f"The template has {canaries.space:,} fillings; ranking among all of them would take too long. Use "
            "method='sampled' or method='modelled'."
        )
    with evaluating(model):
        walker = _Walker(model, batch_size)
        drawn = _references(canaries, references if method != "exact" else 64, seed)
        whole = len(drawn) == canaries.space
        results, p_values, brute_force = [], [], 0
        for canary in progress_bar(canaries.canaries, desc="Exposure", disable=not progress):
            others = None if method == "exact" else [filling for filling in drawn if filling != canary.secret]
            if whole_sentences:
                scores, secret, tokens = _score_suffixes(walker, tokenizer, canaries, canary, others)
            else:
                scores, secret, tokens = _score(walker, tokenizer, canaries, canary, others, drawn[:64])
            brute_force += tokens
            if not math.isfinite(secret) or np.isnan(scores).any():
                raise ValueError(
                    f"The model gives canary {canary.id}, or a filling of its template, no finite log-probability, so "
                    "there is no rank. Look at its weights, or audit it in float32."
                )
            rank = None
            if method == "modelled":
                exposure, p_value = modelled_exposure(secret, scores[1:])
                # A fit knows no bounds; no secret of this space can be further from the others.
                exposure = min(exposure, math.log2(canaries.space))
                p_values.append(p_value)
            elif method == "sampled":
                rank = sampled_rank(secret, scores[1:])
                exposure = sampled_exposure(secret, scores[1:], whole=whole)
            else:
                # Ties count half: a model that knows nothing at all ranks everything in the middle.
                rank = float((scores > secret).sum() + ((scores == secret).sum() + 1) / 2)
                exposure = math.log2(len(scores)) - math.log2(rank)
            results.append(
                CanaryExposure(
                    canary.id, canary.kind, canary.repetitions, canary.inserted, rank, exposure, -secret / math.log(2)
                )
            )
    size = canaries.space if whole or method != "sampled" else len(drawn)
    return ExposureReport(method, math.log2(size), tuple(results), walker.evaluations, brute_force, tuple(p_values))


def _references(canaries: CanarySet, wanted: int, seed: int) -> list[str]:
    """Draw fillings to rank a secret among, none of them twice: the whole space where that is no more than wanted.

    Otherwise no canary's secret is drawn.  The model may know the others by heart, and the generator that drew them
    draws them again where the seeds are equal.
    """
    secrets = {canary.secret for canary in canaries.canaries}
    if canaries.space <= wanted + len(secrets):
        return [canaries.filling(i) for i in range(canaries.space)]
    places = random.Random(seed).sample(range(canaries.space), wanted + len(secrets))
    return [filling for filling in map(canaries.filling, places) if filling not in secrets][:wanted]


def _score_suffixes(
    walker: _Walker, tokenizer: PreTrainedTokenizerBase, canaries: CanarySet, canary: Canary, others: list[str] | None
) -> tuple[np.ndarray, float, int]:
    """Return mean log-probabilities (nats) of the text behind the fillings, see `_score`."""
    every = [canaries.filling(i) for i in range(canaries.space)] if others is None else [canary.secret, *others]
    place = every.index(canary.secret)
    before = [canary.prefix + filling for filling in every]
    texts = [text + canary.suffix for text in before]
    records = TextRecords(texts, list(map(len, before)), [f"canary {canary.id}"] * len(texts))
    scores = score_texts(walker.model, tokenizer, records, progress=False).log_likelihood
    read = sum(map(len, tokenizer(texts)["input_ids"]))
    walker.evaluations += read
    return scores, float(scores[place]), read


def _score(
    walker: _Walker,
    tokenizer: PreTrainedTokenizerBase,
    canaries: CanarySet,
    canary: Canary,
    others: list[str] | None,
    probes: list[str],
) -> tuple[np.ndarray, float, int]:
    """Return log-probabilities (nats) of the fillings, that of the secret among them, and brute force's tokens.

    `others` are the fillings to compare with, the secret comes first; `None`: the whole space.  Fillings that are
    surely less likely than the secret may stay at -inf: they do not change its rank.
    """
    head, tail = split_prefix(tokenizer, canary.prefix, [canary.secret, *probes])
    fillings, place = [canary.secret, *(others or ())], 0
    if others is None:
        after = _after_all(tokenizer, tail, canaries.slots, canary.suffix)
        fillings, tree, tokens = whole_space(tokenizer, tail, canaries.slots, after)
        place = fillings.index(canary.secret)
    else:
        after = split_suffix(tokenizer, tail, fillings, canary.suffix)
        ids, lengths = tokenise_fillings(tokenizer, tail, fillings, after)
        tree, tokens = PrefixTree.build(ids, lengths), int(lengths.sum())
    prompt = leading_special_ids(tokenizer) + head
    if not prompt:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise ValueError(
                f"The prefix {canary.prefix!r} gives the model nothing to start from, and the tokenizer has no "
                "beginning-of-sequence token. Put a word before {secret} in the template."
            )
        prompt = [start]
    own = tokenise_fillings(tokenizer, tail, [canary.secret], after)[0][0]
    floor = -math.inf if others is not None else walker.score_one(prompt, own.tolist()) - _MARGIN
    scores = walker.walk(prompt, tree, floor, place)
    return scores, float(scores[place]), tokens + len(fillings) * len(prompt)


@lru_cache(maxsize=4)
def _after_all(tokenizer: PreTrainedTokenizerBase, tail: str, slots: tuple[tuple[str, ...], ...], suffix: str) -> str:
    """Return how much of a suffix is tokenised with every filling of the space; kept for the next canary."""
    return split_suffix(tokenizer, tail, all_fillings(slots), suffix)


def sampled_rank(secret: float, references: np.ndarray) -> float:
    """Return the rank of a secret among reference fillings by log-probability; 1 = likeliest, ties count half."""
    return float((references > secret).sum() + (references == secret).sum() / 2 + 1)


def sampled_exposure(secret: float, references: np.ndarray, *, whole: bool = False) -> float:
    """Return a secret's exposure in bits from its rank among reference fillings; at most log2 of their number.

    Args:
        secret: its log-probability.
        references: [n] theirs.
        whole: with the secret, they are the whole space, and it is ranked among all n + 1.

    Raises:
        ValueError: one of them is no number.
    """
    if np.isnan(secret) or np.isnan(references).any():
        raise ValueError("A log-probability is no number (NaN), so there is no rank.")
    return math.log2(len(references) + whole) - math.log2(sampled_rank(secret, references))


def modelled_exposure(secret: float, references: np.ndarray) -> tuple[float, float]:
    """Return a secret's exposure in bits from a skew-normal fit of the references, and the fit's p-value.

    Args:
        secret: its log-probability, in nats.
        references: [n] theirs.

    Raises:
        ValueError: one of them is not finite.
    """
    if not np.isfinite([secret, *references]).all():
        raise ValueError("A log-probability is not finite: there is nothing to fit.")
    perplexities = -references / math.log(2)
    shape, location, scale = stats.skewnorm.fit(perplexities)
    fit = stats.skewnorm(shape, location, scale)
    p_value = float(stats.kstest(perplexities, fit.cdf).pvalue)
    x = -secret / math.log(2)
    below = float(fit.cdf(x))
    if below > 1e-8:
        return -math.log2(below), p_value
    # The library's cdf loses its digits far out in the tail: integrate the density relative to its value at x.
    top = float(fit.logpdf(x))
    area, _ = integrate.quad(lambda t: math.exp(float(fit.logpdf(x - t)) - top), 0, np.inf, limit=200)
    return -(top + math.log(area)) / math.log(2), p_value


def _exact(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


class _Walker:
    """Scores trees with one model; counts the tokens it feeds."""

    def __init__(self, model: PreTrainedModel, batch_size: int):
        self.model = model
        self.batch_size = batch_size
        self.keeps = keeps_beginnings(model)
        self.evaluations = 0

    def _forward(self, ids: list[list[int]] | np.ndarray, kept: Any) -> tuple[torch.Tensor, Any]:
        inputs = torch.as_tensor(np.asarray(ids, np.int64), device=self.model.device)
        if not self.keeps:
            # A recurrent model reads all of it again; what is kept are the tokens.
            inputs = inputs if kept is None else torch.cat([kept, inputs], 1)
            out, kept = self.model(input_ids=inputs, use_cache=False), inputs
        else:
            kept = DynamicCache(config=self.model.config) if kept is None else kept
            out = self.model(input_ids=inputs, past_key_values=kept, use_cache=True)
            kept = out.past_key_values
        self.evaluations += inputs.numel()
        return _exact(out.logits[:, -1]).log_softmax(-1), kept

    def score_one(self, prompt: list[int], ids: list[int]) -> float:
        """Return the log-probability (nats) of `ids` after `prompt`."""
        inputs = torch.tensor([prompt + ids], device=self.model.device)
        self.evaluations += inputs.numel()
        logits = self.model(input_ids=inputs, use_cache=False).logits[0, len(prompt) - 1 : -1]
        log_probs = _exact(logits).log_softmax(-1)
        return float(log_probs.double().gather(-1, torch.tensor(ids, device=logits.device)[:, None]).sum())

    def walk(self, prompt: list[int], tree: PrefixTree, floor: float, always: int) -> np.ndarray:
        """Return the log-probability (nats) of every filling, [fillings]; branches below `floor` stay at -inf.

        Args:
            prompt: ids before every filling.
            tree: of the fillings.
            floor: in nats.
            always: a filling that is walked to its end, however unlikely it is.
        """
        path = tree.path_to(always)
        scores = [np.full(len(tokens), -np.inf) for tokens in tree.tokens]
        log_probs, kept = self._forward([prompt], None)
        roots = tree.tokens[0]
        scores[0][:] = log_probs[0, torch.as_tensor(roots, dtype=torch.int64)].double().cpu().numpy()
        # A stack of work, deepest first: what is kept is at most one batch per level.
        stack: list[Iterator] = [iter([(0, np.arange(len(roots)), np.zeros(len(roots), np.int64), kept)])]
        while stack:
            work = next(stack[-1], None)
            if work is None:
                stack.pop()
                continue
            stack.append(self._expand(tree, scores, floor, path, *work))
        own = float(scores[tree.leaf_level[always]][tree.leaf_node[always]])
        if own < floor:
            # In half precision one text alone and one of many differ by more than the margin; what was passed over may
            # be likelier than this one.
            return self.walk(prompt, tree, own - _MARGIN, always)
        start = np.cumsum([0] + [len(level) for level in scores[:-1]])
        # What all fillings share is the prefix's, not the secret's: its probability is not counted.
        shared = scores[tree.shared - 1][0] if tree.shared else 0.0
        return np.concatenate(scores)[start[tree.leaf_level] + tree.leaf_node] - shared

    def _expand(self, tree, scores, floor, path, level, nodes, rows, kept):
        """Feed the nodes that have children, batch by batch; yield their children as further work."""
        likely = (scores[level][nodes] >= floor) | (nodes == path[level])
        open_ = (tree.child_count[level][nodes] > 0) & likely
        nodes, rows = nodes[open_], torch.as_tensor(rows[open_], device=self.model.device)
        for start in range(0, len(nodes), self.batch_size):
            batch = nodes[start : start + self.batch_size]
            own = rows[start : start + self.batch_size]
            own = chosen_rows(kept, own) if self.keeps else kept[own]
            log_probs, deeper = self._forward(tree.tokens[level][batch][:, None], own)
            child, owner = children(tree.first_child[level][batch], tree.child_count[level][batch])
            token = torch.as_tensor(tree.tokens[level + 1][child], dtype=torch.int64, device=log_probs.device)
            gained = log_probs[torch.as_tensor(owner, device=log_probs.device), token].double().cpu().numpy()
            scores[level + 1][child] = scores[level][batch][owner] + gained
            yield level + 1, child, owner, deeper
