"""Which tokens two vocabularies share: those that write the same text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

# What stands before a token decides whether its blank is written.
_BEFORE = "a"
_BROKEN = "\ufffd"


@dataclass(frozen=True)
class SharedVocabulary:
    """The tokens that two tokenizers share.

    Args:
        own: [K] their ids with the student.
        other: [K] their ids with the teacher.
        size: how many tokens the student's tokenizer has.
        other_size: how many the teacher's has.
    """

    own: torch.Tensor
    other: torch.Tensor
    size: int
    other_size: int

    @classmethod
    def of(cls, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> SharedVocabulary:
        """Find the tokens that write the same text behind a word, and the ends of a text.

        Args:
            student, teacher: fast tokenizers.

        Raises:
            ValueError: they share none, so no answer of the teacher means anything to the student.
        """
        known = {text: number for number, text in reversed(list(enumerate(_texts(teacher)))) if text}
        pairs = {
            number: known[text] for number, text in enumerate(_texts(student)) if text is not None and text in known
        }
        # One token of the teacher is one of the student's, the first that writes it.
        first = {other: own for own, other in reversed(list(pairs.items()))}
        if student.eos_token_id is not None and teacher.eos_token_id is not None:
            first[teacher.eos_token_id] = student.eos_token_id
        if not first:
            raise ValueError(
                "The tokenizers of teacher and student write no token alike, so the teacher's answers say nothing to "
                "the student. Choose models whose tokenizers are made for the same text."
            )
        other, own = zip(*sorted(first.items()), strict=True)
        return cls(torch.tensor(own), torch.tensor(other), len(student), len(teacher))

    @property
    def share(self) -> float:
        """Share of the student's tokens that the teacher has too."""
        return len(self.own) / self.size


def _texts(tokenizer: PreTrainedTokenizerBase) -> list[str | None]:
    """Return what each token writes behind a word; `None` of special ones and of parts of a character."""
    before = tokenizer(_BEFORE, add_special_tokens=False)["input_ids"]
    ids = range(len(tokenizer))
    written = tokenizer.batch_decode([[*before, i] for i in ids], clean_up_tokenization_spaces=False)
    start = tokenizer.decode(before, clean_up_tokenization_spaces=False)
    special = set(tokenizer.all_special_ids)
    return [
        text[len(start) :] if text.startswith(start) and i not in special and _BROKEN not in text else None
        for i, text in zip(ids, written, strict=True)
    ]
