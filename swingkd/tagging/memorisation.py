"""Memorisation: what a model that was trained on a text knows of it better than one that was not.

Log-probability in-fold minus out-of-fold, for each token (our derivation).  Both models know the language and the
domain alike, so what is left is the text's own: names, numbers, whole sentences that were learnt by heart, whether any
rule knows their kind or not.  A by-product of out-of-fold teachers; a public base beside one teacher is a weaker pair,
since whatever the teacher learnt of the domain counts as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from swingkd.tagging.base import BaseTagger, CharTags, empty_tags, token_characters
from swingkd.tagging.surprisal import asked, surprisal
from swingkd.tagging.threshold import THRESHOLD, is_private
from swingkd.tagging.windows import check_fast_tokenizer

# A secret of many short tokens is no surprise at any one of them: so many in a row are added up.
_WIDTH = 4


class Remembered(NamedTuple):
    """A span that is known too well: the `text` it stands in, by its number, `start`, `end`, and how many `nats`."""

    text: int
    start: int
    end: int
    nats: float


class MemorisationTagger(BaseTagger):
    """Rate characters by how much better a model that saw the text knows them than one that did not.

        tagger = EnsembleTagger(RuleTagger(), MemorisationTagger.of_folds(teacher, tokenizer))

    Args:
        inside: a causal language model that was trained on the texts.
        outside: one that was not: the same base, trained without them, or the base itself (weaker).
        tokenizer: their fast tokenizer.
        bound: from how many nats on a span is private, over four tokens in a row; `calibrate` measures it.
        folds_of: maps texts to their folds [texts], -1 where nobody was trained on one; both models are then told
            the `teacher_fold` of each row.
        max_length: window length in tokens; default: what the models allow, at most 1024.
        overlap: tokens of context that a window repeats from the one before.
        batch_size: windows per forward pass.

    Raises:
        ValueError: slow tokenizer, or a bound that is not positive.
    """

    labels = ("", "MEMORISED")

    def __init__(
        self,
        inside: nn.Module,
        outside: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        bound: float = 5.0,
        folds_of: Callable[[Sequence[str]], np.ndarray] | None = None,
        max_length: int | None = None,
        overlap: int = 64,
        batch_size: int = 16,
    ):
        check_fast_tokenizer(tokenizer)
        if not bound > 0:
            raise ValueError(f"bound={bound} must be positive: so many nats make a span private.")
        self.inside, self.outside, self.tokenizer, self.bound = inside.eval(), outside.eval(), tokenizer, bound
        self.folds_of, self.overlap, self.batch_size = folds_of, overlap, batch_size
        config: Any = outside.config
        self.max_length = max_length or min(getattr(config, "max_position_embeddings", None) or 1024, 1024)

    @classmethod
    def of_folds(cls, teacher: Any, tokenizer: PreTrainedTokenizerBase, **options: Any) -> MemorisationTagger:
        """Return a tagger that compares, for each text, teachers that saw it with those that did not.

        Args:
            teacher: an `OutOfFoldTeacher` with its folds.
            tokenizer: its fast tokenizer.
            **options: of `MemorisationTagger`.

        Raises:
            ValueError: the teacher does not know its folds.
        """
        if teacher.folds is None:
            raise ValueError(
                "The teachers do not know which text is in which fold. Pass folds=... to OutOfFoldTeacher."
            )
        return cls(teacher.inside, teacher, tokenizer, folds_of=teacher.folds.of_texts, **options)

    def calibrate(self, texts: list[str], share: float = 0.001) -> MemorisationTagger:
        """Set the bound by text of the same kind that neither model was trained on; return the tagger itself.

        Args:
            texts: held-out text; that of a fold is passed over where folds are known.
            share: how many of its tokens may be taken for memorised.

        Raises:
            ValueError: there is none.
        """
        folds = np.zeros(len(texts), np.int64)
        scores = [values for _, _, values in self._scores(texts, folds)]
        if not sum(map(len, scores)):
            raise ValueError("There is no text to calibrate on. Pass some that neither model was trained on.")
        self.bound = max(float(np.quantile(np.concatenate(scores), 1 - share)), 1e-3)
        return self

    def tag(self, texts: list[str]) -> list[CharTags]:
        """Tag each text; what nobody was trained on gets 0, and so does the first token, which has no past."""
        tagged = [empty_tags(text) for text in texts]
        for tags, nats in zip(tagged, self.nats(texts), strict=True):
            tags.likelihood[:] = np.clip(THRESHOLD * nats / self.bound, 0, 1)
            tags.labels[is_private(tags.likelihood)] = 1
        return tagged

    def nats(self, texts: list[str]) -> list[np.ndarray]:
        """Return for each text the evidence of each character, [chars] float32 in nats, 0 and more."""
        found = [np.zeros(len(text), np.float32) for text in texts]
        folds = self.folds_of(texts) if self.folds_of is not None else np.zeros(len(texts), np.int64)
        known = np.flatnonzero(folds >= 0)
        for place, offsets, values in self._scores([texts[i] for i in known], folds[known]):
            chars, tokens = token_characters(offsets)
            # Seen in two windows: it is private if either says so.
            np.maximum.at(found[known[place]], chars, values[tokens])
        return found

    def remembered(
        self, texts: list[str], flagged: Sequence[np.ndarray] | None = None, count: int = 50
    ) -> list[Remembered]:
        """List the spans that are known too well, the largest first.

        Args:
            texts: any.
            flagged: bool [chars] of each text: what is private already, and passed over.
            count: how many at most.
        """
        found = []
        for number, nats in enumerate(self.nats(texts)):
            over = nats >= self.bound
            if flagged is not None:
                over &= ~flagged[number]
            edges = np.flatnonzero(np.diff(np.concatenate([[False], over, [False]]).astype(np.int8)))
            for start, end in edges.reshape(-1, 2).tolist():
                found.append(Remembered(number, start, end, float(nats[start:end].max())))
        return sorted(found, key=lambda one: -one.nats)[:count]

    def _scores(self, texts: list[str], folds: np.ndarray):
        """Yield for each window its text, the tokens' characters [n, 2], and the evidence for each token [n]."""

        def ask(inputs: dict[str, torch.Tensor], owners: list[int]) -> torch.Tensor:
            told = {"teacher_fold": torch.tensor(folds[owners])} if self.folds_of is not None else {}
            return surprisal(self.outside, inputs, **told) - surprisal(self.inside, inputs, **told)

        for text, offsets, better in asked(ask, self.tokenizer, texts, self.max_length, self.overlap, self.batch_size):
            yield text, offsets, evidence(better)


def evidence(better: np.ndarray, width: int = _WIDTH) -> np.ndarray:
    """Return the evidence at each token, [n] in nats: the largest sum over some tokens in a row of which it is one.

    A token that is known no better itself is no part of it, whatever stands beside it: it counts at most `width` times
    its own difference.

    Args:
        better: [n] log-probability inside minus outside.
        width: how many in a row.

    >>> evidence(np.array([0.0, 2.0, 2.0, 2.0, 0.0])).tolist()
    [0.0, 6.0, 6.0, 6.0, 0.0]
    """
    if not len(better):
        return better
    padded = np.concatenate([np.zeros(width - 1), better, np.zeros(width - 1)])
    sums = np.convolve(padded, np.ones(width), "valid")
    largest = np.lib.stride_tricks.sliding_window_view(sums, width).max(1)
    return np.clip(np.minimum(largest, width * better), 0, None).astype(np.float32)
