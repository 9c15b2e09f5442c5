"""Batched sampling from a causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from swingkd.audit.beginnings import chosen_rows, keeps_beginnings, with_room
from swingkd.audit.prefix_tree import leading_special_ids
from swingkd.audit.scores import check_tokenizer, evaluating, longest_input
from swingkd.progress import progress_bar


@torch.inference_mode()
def sample_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | list[int]],
    *,
    max_new_tokens: int,
    top_k: int = 40,
    top_p: float = 1.0,
    temperature: float = 1.0,
    several: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = True,
    desc: str = "Sampling texts",
) -> list[str]:
    """Sample a continuation of each prompt; return what was added.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: the beginnings, as text or as token ids; "" starts a text of its own.
        max_new_tokens: length of a continuation; it ends earlier where the model ends the text.
        top_k: sample among so many likeliest tokens; 0: among all.
        top_p: sample among the likeliest tokens that have this much of the probability together.
        temperature: the logits are divided by it.
        several: go on where the model ends a text and begins another, as models do that were trained on packed texts
            (the later ones are more like their training); the texts are put on lines of their own.
        batch_size: prompts at a time; default: 64, and up to 512 of a small model, which is faster so.
        seed: of the samples; torch's own generator is left as it was.
        progress: show a progress bar.
        desc: what it says.

    Raises:
        ValueError: the tokenizer belongs to another model, or has no token to start a text with; a number is too low.
    """
    check_tokenizer(model, tokenizer)
    if batch_size is None:
        batch_size = _rows_at_once(model)
    if min(max_new_tokens, batch_size) < 1 or top_k < 0:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} and batch_size={batch_size} must be at least 1, top_k={top_k} at least "
            "0 (all tokens)."
        )
    if not 0 < top_p <= 1 or temperature <= 0:
        raise ValueError(f"top_p={top_p} must lie in (0, 1], and temperature={temperature} be positive.")
    ends = {tokenizer.eos_token_id, tokenizer.bos_token_id} - {None}
    start = text_start(tokenizer)
    longest = longest_input(model, 2**20)
    max_new_tokens = min(max_new_tokens, longest // 2)
    room = longest - max_new_tokens
    written = list(dict.fromkeys(prompt for prompt in prompts if isinstance(prompt, str)))
    read = tokenizer(written, add_special_tokens=False)["input_ids"] if written else []
    tokens = dict(zip(written, read, strict=True))
    ids = [start + (tokens[prompt] if isinstance(prompt, str) else prompt) for prompt in prompts]
    stop, pad = None if several else sorted(ends), sorted(ends)[0]
    settings = plain_sampling(max_new_tokens, stop, pad, temperature=temperature, top_k=top_k, top_p=top_p)
    keeps = keeps_beginnings(model)
    # Prompts of one length stand together, and those that are the same; a long one keeps its end.
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), ids[i]))
    samples = [""] * len(ids)
    devices = [model.device] if model.device.type == "cuda" else []
    with (
        evaluating(model),
        torch.random.fork_rng(devices),
        progress_bar(total=len(ids), desc=desc, disable=not progress) as bar,
    ):
        torch.manual_seed(seed)
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            rows = [ids[i][-room:] for i in batch]
            width = max(map(len, rows))
            inputs = torch.tensor([[start[0]] * (width - len(row)) + row for row in rows], device=model.device)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
            kept = with_room(_read_once(model, inputs, mask, settings), width + max_new_tokens) if keeps else None
            drawn = model.generate(input_ids=inputs, attention_mask=mask, past_key_values=kept, **settings)
            for i, row in zip(batch, drawn[:, width:].cpu().numpy(), strict=True):
                pieces = np.split(row, np.flatnonzero(np.isin(row, sorted(ends))))
                texts = tokenizer.batch_decode(pieces if several else pieces[:1], skip_special_tokens=True)
                samples[i] = "\n".join(text for text in texts if text or not several)
            bar.update(len(batch))
    return samples


def plain_sampling(
    max_new_tokens: int,
    ends: list[int] | None,
    pad: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> dict[str, Any]:
    """Return the arguments of `generate` that sample from a model's own distribution and nothing else.

    All of them: a model's own settings (beams, a repetition penalty) would sample something else.

    Args:
        max_new_tokens: longest continuation.
        ends: tokens that end a text; `None`: nothing does.
        pad: what stands behind the end.
        temperature, top_k, top_p: as of `sample_texts`.
    """
    return {
        "do_sample": True,
        # The Trainer leaves models that would read all of a text again for each token.
        "use_cache": True,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": None,
        "temperature": temperature,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "max_new_tokens": max_new_tokens,
        "eos_token_id": ends,
        "pad_token_id": pad,
    }


def _read_once(
    model: PreTrainedModel, inputs: torch.Tensor, mask: torch.Tensor, settings: dict[str, Any]
) -> DynamicCache:
    """Return what a model keeps of prompts but for their last tokens, each different one read once; or nothing yet."""
    rows = torch.cat([inputs, mask], 1).cpu().numpy()
    _, first, copies = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    # A prompt of one token has none to read before its last.
    if len(first) == len(inputs) or int(mask.sum(1).min()) < 2:
        return DynamicCache(config=model.config)
    chosen = torch.as_tensor(first, device=inputs.device)
    # By `generate`, which knows how each kind of model counts its positions; nothing is drawn.
    greedy = {"do_sample": False, "top_k": None, "top_p": None, "temperature": None, "max_new_tokens": 1}
    read = model.generate(
        input_ids=inputs[chosen, :-1],
        attention_mask=mask[chosen, :-1],
        return_dict_in_generate=True,
        **settings | greedy,
    ).past_key_values
    return chosen_rows(read, torch.as_tensor(copies.reshape(-1), device=inputs.device))


def _rows_at_once(model: PreTrainedModel) -> int:
    """Return how many texts of two hundred tokens have keys and values of 256 megabytes, between 64 and 512."""
    config = model.config.get_text_config()
    token = 8 * (getattr(config, "num_hidden_layers", 12) or 12) * (getattr(config, "hidden_size", 1024) or 1024)
    return min(max(2**28 // (200 * token), 64), 512)


def text_start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that a text begins with, before its first word.

    Raises:
        ValueError: the tokenizer has neither a beginning- nor an end-of-sequence token.
    """
    own = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    start = leading_special_ids(tokenizer) or ([own] if own is not None else [])
    if not start:
        raise ValueError("The tokenizer has no beginning- or end-of-sequence token to start a text with.")
    return start


@torch.inference_mode()
def first_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, least: float) -> list[int]:
    """List the tokens that a text begins with at least so often, the likeliest first; never the special ones."""
    inputs = torch.tensor([text_start(tokenizer)], device=model.device)
    with evaluating(model):
        probs = model(input_ids=inputs).logits[0, -1].float().softmax(-1)
    likely = torch.nonzero(probs >= least)[:, 0]
    ordered = likely[probs[likely].argsort(descending=True)].tolist()
    return [token for token in ordered if token not in tokenizer.all_special_ids]
