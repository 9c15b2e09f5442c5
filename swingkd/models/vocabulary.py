"""A tokenizer cut to the tokens that a text uses: it reads that text as before, with fewer rows to embed and to score.

What is left of a vocabulary says what stood in the text it was cut to: a rare name keeps its tokens.  Cut to public
text, or give `at_least`.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# Texts that are tokenised together.
_AT_ONCE = 1000
# Where configurations keep ids of tokens.
_IDS = tuple(f"{name}_token_id" for name in "bos eos pad unk sep cls mask decoder_start".split())


@dataclass(frozen=True)
class CutVocabulary:
    """Tokens that are left, and the tokenizer that has these alone.

    Args:
        tokenizer: with new ids, from 0 on, in the order of the old ones.
        kept: [V] the old ids.
    """

    tokenizer: PreTrainedTokenizerFast
    kept: torch.Tensor

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], *, at_least: int = 1) -> CutVocabulary:
        """Cut a tokenizer to the tokens that texts use, so that it reads them as before.

        What else could be said stays sayable: single characters and bytes, special and added tokens are kept.

        Args:
            tokenizer: fast; it is not changed.
            texts: public, or those of so many people that no rare token is one's own.
            at_least: how often a token must be used.

        Raises:
            ValueError: the tokenizer is not fast, or of a kind that cannot be cut.
        """
        if not isinstance(tokenizer, PreTrainedTokenizerBase) or not tokenizer.is_fast:
            raise ValueError(
                f"A {type(tokenizer).__name__} is no fast tokenizer, and only the vocabulary of one is cut."
            )
        every, counts = list(texts), Counter[int]()
        for start in range(0, len(every), _AT_ONCE):
            batch = every[start : start + _AT_ONCE]
            for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
                counts.update(ids)
        used = {number for number, count in counts.items() if count >= at_least}
        described = json.loads(tokenizer.backend_tokenizer.to_str())
        kept = _closed(described, used)
        made = copy.deepcopy(tokenizer)
        made._tokenizer = Tokenizer.from_str(json.dumps(_cut(described, kept)))
        return cls(made, torch.tensor(kept))

    def renumber(self, config: Any) -> None:
        """Give a configuration the new ids of its special tokens, in place.

        Args:
            config: of a model, or of its generation.
        """
        new = {old: number for number, old in enumerate(self.kept.tolist())}
        for name in _IDS:
            own = getattr(config, name, None)
            if isinstance(own, list):
                setattr(config, name, [new[number] for number in own if number in new])
            elif own is not None:
                setattr(config, name, new.get(own))


def _pieces(model: dict[str, Any]) -> dict[str, int]:
    """Return the tokens of a tokenizer's model and their ids."""
    if model["type"] == "Unigram":
        return {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    if model["type"] in ("BPE", "WordPiece", "WordLevel"):
        return model["vocab"]
    raise ValueError(f"A tokenizer of the kind {model['type']} cannot be cut. BPE, WordPiece and Unigram can.")


def _pairs(model: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model.get("merges", []))
    return [(one, other) for one, other in pairs]


def _closed(described: dict[str, Any], used: set[int]) -> list[int]:
    """Return the ids to keep, in order: those in use, what they are merged from, single characters, added tokens."""
    model = described["model"]
    pieces = _pieces(model)
    kept = set(used) | {token["id"] for token in described["added_tokens"]}
    prefix = model.get("continuing_subword_prefix") or ""
    for piece, number in pieces.items():
        bare = piece.removeprefix(prefix)
        if len(bare.removeprefix("\u2581")) <= 1 or (bare.startswith("<0x") and bare.endswith(">")):
            kept.add(number)
    unknown = model.get("unk_id") if model["type"] == "Unigram" else pieces.get(model.get("unk_token") or "")
    if unknown is not None:
        kept.add(unknown)
    # Backwards: what a token is merged from was merged before it.
    for one, other in reversed(_pairs(model)):
        if pieces.get(one + other.removeprefix(prefix)) in kept:
            kept |= {pieces[one], pieces[other]}
    return sorted(kept)


def _cut(described: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """Return a tokenizer's description, changed in place, with these tokens alone."""
    new = {old: number for number, old in enumerate(kept)}
    model = described["model"]
    pieces, prefix = _pieces(model), model.get("continuing_subword_prefix") or ""
    if model["type"] == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
        model["unk_id"] = new.get(model["unk_id"]) if model["unk_id"] is not None else None
    else:
        model["vocab"] = {piece: new[number] for piece, number in pieces.items() if number in new}
    if model["type"] == "BPE":
        left = model["vocab"]
        model["merges"] = [
            [one, other]
            for one, other in _pairs(model)
            if one in left and other in left and one + other.removeprefix(prefix) in left
        ]
    for token in described["added_tokens"]:
        token["id"] = new[token["id"]]
    if described.get("padding"):
        described["padding"]["pad_id"] = new[described["padding"]["pad_id"]]
    if described.get("post_processor"):
        described["post_processor"] = _renumbered(described["post_processor"], new)
    return described


def _renumbered(processor: Any, new: dict[int, int]) -> Any:
    """Return what adds special tokens, with their new ids."""
    if isinstance(processor, list):
        return [_renumbered(part, new) for part in processor]
    if not isinstance(processor, dict):
        return processor
    made = {}
    for name, value in processor.items():
        if name == "ids":
            made[name] = [new[number] for number in value]
        elif name in ("sep", "cls") and isinstance(value, list):
            # A pair of the token and its id.
            made[name] = [value[0], new[value[1]]]
        else:
            made[name] = _renumbered(value, new)
    return made
