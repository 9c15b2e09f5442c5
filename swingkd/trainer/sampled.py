"""Transfer text that is nobody's: sampled from the teachers themselves, and what looks like a private record left out.

A student that never reads a private record cannot fit it.  From out-of-fold teachers each text is answered by the
teacher that did not see what its writer saw, so what one knows by heart the other does not confirm.  From a teacher
with differential privacy, or a public base, the text costs nothing more.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.audit.generation import sample_texts
from swingkd.data.columns import FOLD
from swingkd.tagging import MemorisationTagger
from swingkd.trainer.check_cache import FEWEST_WORDS, ID_ROWS, shares_text, word_ids
from swingkd.trainer.out_of_fold import NAME, OutOfFoldTeacher

# So often are texts drawn in the place of those that were left out, and so many for each that is missing at most.
_ROUNDS, _MOST = 6, 10


@dataclass(frozen=True)
class SampledReport:
    """What was drawn, and why texts were left out.

    Args:
        drawn: how many texts.
        short: of these, too short to learn from.
        repeated: drawn before.
        copies: that share a run of tokens with a private record.
        memorised: that their writer knows much better than the other teacher.
        kept: all others.
    """

    drawn: int
    short: int
    repeated: int
    copies: int
    memorised: int
    kept: int

    def to_dict(self) -> dict[str, int]:
        """Return everything as plain types."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.kept:,} of {self.drawn:,} sampled texts are kept; left out: {self.short:,} too short, "
            f"{self.repeated:,} drawn before, {self.copies:,} that share a run of tokens with a private record, "
            f"{self.memorised:,} that only their writer knows."
        )


def sample_transfer(
    teacher: OutOfFoldTeacher | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    private: Sequence[str] | None = None,
    *,
    prompts: Sequence[str] = ("",),
    max_new_tokens: int = 128,
    least_tokens: int = 8,
    temperature: float = 1.0,
    top_p: float = 1.0,
    run: int = 13,
    bound: float = 10.0,
    seed: int | None = None,
    progress: bool = True,
) -> tuple[Dataset, SampledReport]:
    """Sample a transfer set; return it, with the fold of each text where there are several teachers, and a report.

    Args:
        teacher: two teachers out of fold, a public base, or a teacher with differential privacy.
        tokenizer: of the teachers.
        count: how many texts.
        private: the records that the teachers were trained on: texts that share a run of tokens with one are left out.
        prompts: beginnings without anything private; "" lets a text begin by itself.
        max_new_tokens: longest text, in tokens.
        least_tokens: shortest.
        temperature, top_p: of the sampling.
        run: how many tokens in a row make a copy.
        bound: from how many nats on a span is the writer's own memory, see `MemorisationTagger`; what a teacher writes
            is always a little likelier to itself.
        seed: to sample the same again; default: the system's randomness.
        progress: show progress bars.

    Raises:
        ValueError: there are more teachers than two, too little was asked for, or too few texts were left.
    """
    if count < 1 or not 1 <= least_tokens <= max_new_tokens or not prompts:
        raise ValueError(
            f"count={count} texts of {least_tokens} to {max_new_tokens} tokens, from {len(prompts)} prompts: each "
            "must be at least 1."
        )
    drawing = _Drawing(teacher, tokenizer, private, least_tokens, run, bound)
    rng = np.random.default_rng(secrets.randbits(128) if seed is None else seed)
    for _ in range(_ROUNDS):
        missing = drawing.missing(count)
        if missing < 1:
            break
        for number, writer in enumerate(drawing.writers):
            asked = [prompts[i] for i in rng.integers(len(prompts), size=-(-missing // len(drawing.writers)))]
            added = sample_texts(
                drawing.writing(writer),
                tokenizer,
                asked,
                max_new_tokens=max_new_tokens,
                top_k=0,
                top_p=top_p,
                temperature=temperature,
                seed=int(rng.integers(2**31)),
                progress=progress,
            )
            drawing.add([prompt + text for prompt, text in zip(asked, added, strict=True)], number)
    if drawing.kept < count:
        raise ValueError(
            f"Only {drawing.kept} of {count} texts were left. {drawing.report()} Raise temperature, give more "
            "prompts, or ask for fewer."
        )
    return drawing.rows.select(range(count)), drawing.report(count)


class _Drawing:
    """What was drawn so far."""

    def __init__(
        self,
        teacher: OutOfFoldTeacher | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        private: Sequence[str] | None,
        least: int,
        run: int,
        bound: float,
    ):
        if isinstance(teacher, OutOfFoldTeacher) and teacher.k != 2:
            raise ValueError(
                f"{teacher.k} teachers share rows with each other, so none is without what another one has seen. "
                "Train two."
            )
        self.teacher, self.tokenizer, self.least, self.run, self.bound = teacher, tokenizer, least, run, bound
        self.private = self._tokens(private) if private is not None and len(private) else None
        self.private_words = self._words(private or ())
        self.rows = Dataset.from_dict({"text": []})
        self.counts = dict.fromkeys(("drawn", "short", "repeated", "copies", "memorised"), 0)
        self._seen: set[str] = set()

    @property
    def kept(self) -> int:
        return len(self.rows)

    def missing(self, count: int) -> int:
        """Return how many to draw so that about as many as are missing stay, by what stayed before."""
        missing, drawn = count - self.kept, self.counts["drawn"]
        return math.ceil(missing * min(drawn / max(self.kept, 1), _MOST)) if drawn else missing

    @property
    def writers(self) -> list[int]:
        return [0, 1] if isinstance(self.teacher, OutOfFoldTeacher) else [0]

    def writing(self, writer: int) -> PreTrainedModel:
        """Return a teacher that samples."""
        if not isinstance(self.teacher, OutOfFoldTeacher):
            return self.teacher
        if isinstance(self.teacher.one, PeftModel):
            self.teacher.one.set_adapter(NAME.format(writer), inference_mode=True)
            return self.teacher.one
        return self.teacher.models[writer]  # type: ignore[return-value]

    def _tokens(self, texts: Sequence[str]) -> Dataset:
        return Dataset.from_dict({"input_ids": self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]})

    def _words(self, texts: Sequence[str]) -> Dataset:
        return Dataset.from_dict({"input_ids": [word_ids(text) for text in texts]}, features=ID_ROWS)

    def _left_out(self, name: str, texts: list[str], wrong: np.ndarray) -> list[str]:
        self.counts[name] += int(wrong.sum())
        return [text for text, out in zip(texts, wrong, strict=True) if not out]

    def add(self, texts: list[str], writer: int) -> None:
        """Keep those texts that may be learnt from."""
        self.counts["drawn"] += len(texts)
        lengths = [len(ids) for ids in self._tokens(texts)["input_ids"]]
        texts = self._left_out("short", texts, np.array(lengths) < self.least)
        new = dict.fromkeys(text for text in texts if text not in self._seen)
        self.counts["repeated"] += len(texts) - len(new)
        self._seen.update(new)
        texts = list(new)
        if texts and self.private is not None:
            copies = shares_text(self._tokens(texts), self.private, self.run)
            copies |= shares_text(self._words(texts), self.private_words, shortest=FEWEST_WORDS)
            texts = self._left_out("copies", texts, copies)
        columns: dict[str, Any] = {}
        if isinstance(self.teacher, OutOfFoldTeacher):
            # What one teacher was trained on is the fold that the other one never saw.
            fold = 1 - writer
            detector = MemorisationTagger(
                self.teacher.inside,
                self.teacher,
                self.tokenizer,
                bound=self.bound,
                folds_of=lambda some: np.full(len(some), fold),
            )
            own = np.array([bool(nats.max(initial=0) >= self.bound) for nats in detector.nats(texts)], bool)
            texts = self._left_out("memorised", texts, own)
            columns[FOLD] = [fold] * len(texts)
        if texts:
            drawn = Dataset.from_dict({"text": texts, **columns})
            self.rows = concatenate_datasets([self.rows, drawn]) if self.kept else drawn

    def report(self, kept: int | None = None) -> SampledReport:
        return SampledReport(**self.counts, kept=self.kept if kept is None else kept)
