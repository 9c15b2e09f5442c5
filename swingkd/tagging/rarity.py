"""Rarity: what a *public* language model finds surprising is more likely to be private.

s = clip((u - q50) / (q99 - q50), 0, 1) with u = -log p_public(token | its past) and the quantiles taken on public
text (our formula; the idea is that of the same group's earlier work).  Never use the teacher here: a teacher that
memorised a secret is not surprised by it.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from swingkd.models.loading import load_pretrained, load_tokenizer
from swingkd.tagging.base import BaseTagger, CharTags, empty_tags, token_characters
from swingkd.tagging.surprisal import asked, surprisal
from swingkd.tagging.threshold import is_private
from swingkd.tagging.windows import check_fast_tokenizer


class RarityTagger(BaseTagger):
    """Rate characters by how surprising they are to a public language model.

    Args:
        model: a causal language model trained on public text, or its name.
        tokenizer: its fast tokenizer; needed only when `model` is not a name.
        quantiles: surprisal (in nats) of ordinary public text at 50 % and 99 %; or leave it and call `calibrate`.
        max_length: window length in tokens; default: what the model allows, at most 1024.
        overlap: tokens of context that a window repeats from the one before.
        batch_size: windows per forward pass.

    Raises:
        ValueError: slow tokenizer, or quantiles that do not rise.
    """

    labels = ("", "RARE")

    def __init__(
        self,
        model: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        quantiles: tuple[float, float] | None = None,
        max_length: int | None = None,
        overlap: int = 64,
        batch_size: int = 16,
    ):
        if isinstance(model, str):
            tokenizer = tokenizer or load_tokenizer(model)
            model = load_pretrained(AutoModelForCausalLM, model)
        if tokenizer is None:
            raise ValueError("RarityTagger got a model object without its tokenizer: pass tokenizer=...")
        check_fast_tokenizer(tokenizer)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = max_length or min(getattr(model.config, "max_position_embeddings", 1024), 1024)
        self.overlap = overlap
        self.batch_size = batch_size
        self.quantiles: tuple[float, float] | None = None
        if quantiles is not None:
            self._set_quantiles(*quantiles)

    def _set_quantiles(self, middle: float, high: float) -> None:
        if not 0 <= middle < high:
            raise ValueError(
                f"RarityTagger quantiles must satisfy 0 <= q50 < q99, got ({middle}, {high}). Calibrate on more "
                "varied public text: tagger.calibrate(texts)."
            )
        self.quantiles = (middle, high)

    def calibrate(self, public_texts: list[str]) -> RarityTagger:
        """Take the quantiles from public text; returns the tagger itself."""
        surprisals = np.concatenate([values for _, _, values in self._surprisals(public_texts)])
        middle, high = np.quantile(surprisals, [0.5, 0.99])
        self._set_quantiles(float(middle), float(high))
        return self

    def _surprisals(self, texts: list[str]):
        """Yield (text index, [n, 2] offsets, [n] surprisal in nats) for each window."""

        def ask(inputs: dict[str, torch.Tensor], _: list[int]) -> torch.Tensor:
            return surprisal(self.model, inputs)

        return asked(ask, self.tokenizer, texts, self.max_length, self.overlap, self.batch_size)

    def tag(self, texts: list[str]) -> list[CharTags]:
        """Tag each text; the first token of a text has no past and gets 0.

        Raises:
            ValueError: the tagger was not calibrated.
        """
        if self.quantiles is None:
            raise ValueError(
                "RarityTagger has no quantiles yet: call tagger.calibrate(public_texts) once, or pass quantiles=."
            )
        middle, high = self.quantiles
        # A token seen in two windows counts with its smaller surprisal: that is the one with more context.
        lowest = [np.full(len(text), np.inf, np.float32) for text in texts]
        for text_index, offsets, values in self._surprisals(texts):
            chars, tokens = token_characters(offsets)
            np.minimum.at(lowest[text_index], chars, values[tokens])
        tagged = []
        for text, nats in zip(texts, lowest, strict=True):
            tags = empty_tags(text)
            seen = np.isfinite(nats)
            tags.likelihood[seen] = np.clip((nats[seen] - middle) / (high - middle), 0, 1)
            tags.labels[is_private(tags.likelihood)] = 1
            tagged.append(tags)
        return tagged
