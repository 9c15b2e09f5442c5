"""Which tokens two vocabularies share: those that write the same text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

# What stands before a token decides whether its blank is written.
_BEFORE = "a"
_BROKEN = "\ufffd"
# A byte, for what has no token of its own: it writes what a token writes that is meant, and is not.
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


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
        """Find the tokens that mean the same: of one kind of tokenizer by name, else by what they write behind a word.

        Args:
            student, teacher: fast tokenizers.

        Raises:
            ValueError: they share none, so no answer of the teacher means anything to the student.
        """
        if _decoder(student) == _decoder(teacher):
            # The bytes of a character have names too, and special tokens.
            mine, theirs = student.get_vocab(), teacher.get_vocab()
        else:
            mine, theirs = ({**_written(one), **one.get_added_vocab()} for one in (student, teacher))
        pairs = {theirs[name]: number for name, number in mine.items() if name in theirs}
        if student.eos_token_id is not None and teacher.eos_token_id is not None:
            pairs = {other: own for other, own in pairs.items() if own != student.eos_token_id}
            pairs[teacher.eos_token_id] = student.eos_token_id
        if not pairs:
            raise ValueError(
                "The tokenizers of teacher and student write no token alike, so the teacher's answers say nothing to "
                "the student. Choose models whose tokenizers are made for the same text."
            )
        other, own = zip(*sorted(pairs.items()), strict=True)
        return cls(torch.tensor(own), torch.tensor(other), len(student), len(teacher))

    @property
    def share(self) -> float:
        """Share of the student's tokens that the teacher has too."""
        return len(self.own) / self.size


def same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase | None) -> bool:
    """Tell whether two fast tokenizers make the same tokens of every text, however they cut and pad it.

    Args:
        one: a tokenizer.
        other: another one, or none.
    """
    if other is None or not (one.is_fast and other.is_fast):
        return False
    return all(_state(one)[name] == part for name, part in _state(other).items())


def _state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: part for name, part in state.items() if name not in ("truncation", "padding")}


def _decoder(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return how a tokenizer makes text of its tokens' names."""
    return _state(tokenizer)["decoder"]


def _written(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return what each token writes behind a word, but for special ones and parts of a character."""
    before = tokenizer(_BEFORE, add_special_tokens=False)["input_ids"]
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    texts = tokenizer.batch_decode([[*before, i] for i in range(len(names))], clean_up_tokenization_spaces=False)
    start = tokenizer.decode(before, clean_up_tokenization_spaces=False)
    special, found = set(tokenizer.all_special_ids), dict[str, int]()
    for number, (name, text) in enumerate(zip(names, texts, strict=True)):
        written = text[len(start) :] if text.startswith(start) else ""
        if not written or number in special or _BROKEN in written or _BYTE.fullmatch(name or ""):
            continue
        found.setdefault(written, number)
    return found
