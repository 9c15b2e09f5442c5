"""All fillings of a canary's template as one tree of token ids, so that shared beginnings are scored once.

A million six-digit fillings hold six million tokens but, digit by digit, only 111,111 beginnings that need a forward
pass.  Tokenizers merge digits in their own ways, so the *strings* are enumerated and tokenised, and the tree is built
on what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from transformers import PreTrainedTokenizerBase

_PROBES = 64


@dataclass(frozen=True)
class PrefixTree:
    """Levels of a tree over token ids; node order is lexicographic, so the children of a node are neighbours.

    Args:
        tokens: per level, [nodes] the token of each node.
        parents: per level, [nodes] its parent in the level above (level 0: all 0, the prompt).
        first_child, child_count: per level, [nodes] its children in the level below.
        leaf_level, leaf_node: [fillings] where each filling ends.
    """

    tokens: list[np.ndarray]
    parents: list[np.ndarray]
    first_child: list[np.ndarray]
    child_count: list[np.ndarray]
    leaf_level: np.ndarray
    leaf_node: np.ndarray

    @property
    def evaluations(self) -> int:
        """How many tokens a full walk feeds to the model: every node that has children."""
        return int(sum((count > 0).sum() for count in self.child_count))

    @property
    def shared(self) -> int:
        """How many leading tokens all fillings share; one of them always differs, so it is never the whole."""
        single = [len(tokens) == 1 for tokens in self.tokens[:-1]]
        return single.index(False) if False in single else len(single)

    def path_to(self, filling: int) -> list[int]:
        """Return the nodes that lead to a filling, one a level; -1 below the last one.

        Args:
            filling: its number.
        """
        level, node = int(self.leaf_level[filling]), int(self.leaf_node[filling])
        path = [-1] * len(self.tokens)
        for depth in range(level, -1, -1):
            path[depth] = node
            node = int(self.parents[depth][node])
        return path

    @classmethod
    def build(cls, ids: np.ndarray, lengths: np.ndarray) -> PrefixTree:
        """Build from token ids [fillings, longest] (padded with -1) and their lengths [fillings]."""
        order = np.lexsort(ids.T[::-1])
        ids, sorted_lengths = ids[order], lengths[order]
        tokens, parents, first_child, child_count = [], [], [], []
        leaf_node = np.zeros(len(ids), np.int64)
        begins = np.zeros(len(ids), bool)
        begins[0] = True
        above = np.zeros(len(ids), np.int64)  # node of the level above, per row
        for depth in range(ids.shape[1]):
            present = sorted_lengths > depth
            begins = begins | np.append(True, ids[1:, depth] != ids[:-1, depth])
            node = np.cumsum(begins & present) - 1
            rows = np.flatnonzero(begins & present)
            tokens.append(ids[rows, depth])
            parents.append(above[rows])
            if depth:
                count = np.bincount(above[rows], minlength=len(tokens[depth - 1]))
                child_count.append(count)
                first_child.append(np.cumsum(count) - count)
            ends = sorted_lengths == depth + 1
            leaf_node[order[ends]] = node[ends]
            above = node
        child_count.append(np.zeros(len(tokens[-1]), np.int64))
        first_child.append(np.zeros(len(tokens[-1]), np.int64))
        return cls(tokens, parents, first_child, child_count, lengths - 1, leaf_node)


def children(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the children of some nodes: (child, which of the nodes it belongs to)."""
    owner = np.repeat(np.arange(len(first)), count)
    start = np.cumsum(count) - count
    return first[owner] + np.arange(count.sum()) - start[owner], owner


def leading_special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what the tokenizer puts before a text (a beginning-of-sequence token, or nothing)."""
    ids = tokenizer("a")["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(len(ids) - len(bare) + 1):
        if ids[start : start + len(bare)] == bare:
            return ids[:start]
    return []


def split_prefix(tokenizer: PreTrainedTokenizerBase, prefix: str, probes: list[str]) -> tuple[list[int], str]:
    """Cut a prefix into ids that never change and a tail of text that is tokenised with each filling.

    Tokenizers work word by word, so the last blank is tried first; the cut holds if it gives the same ids on the
    probes.  Otherwise the whole prefix is the tail, which is always right and slower.
    """
    cut = max(prefix.rfind(blank) for blank in " \n\t")
    if cut > 0:
        head, tail = _ids(tokenizer, [prefix[:cut]])[0], prefix[cut:]
        whole = _ids(tokenizer, [prefix + probe for probe in probes])
        parts = _ids(tokenizer, [tail + probe for probe in probes])
        if all(one == head + other for one, other in zip(whole, parts, strict=True)):
            return head, tail
    return [], prefix


def split_suffix(tokenizer: PreTrainedTokenizerBase, tail: str, fillings: list[str], suffix: str) -> str:
    """Return how much of the text after a secret has to be tokenised with it: nothing, where no token reaches across.

    "code 4711" and "code 471100 units" may share no token of the number: the model never saw the secret's own.  Then
    the sentence goes on to the next place where tokens end alike for every filling.

    Args:
        tokenizer: of the model.
        tail: the text before the secret that is tokenised with it.
        fillings: that are to be scored.
        suffix: the text after the secret.
    """
    if not suffix:
        return ""
    whole = _ids(tokenizer, [tail + filling + suffix for filling in fillings])
    cuts = [0, *(place for place in range(1, len(suffix)) if suffix[place] in " \n\t")]
    for cut in cuts:
        parts = _ids(tokenizer, [tail + filling + suffix[:cut] for filling in fillings])
        if all(row[: len(part)] == part for row, part in zip(whole, parts, strict=True)):
            return suffix[:cut]
    return suffix


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]


def tokenise_fillings(
    tokenizer: PreTrainedTokenizerBase, tail: str, fillings: list[str], after: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids [fillings, longest] padded with -1, and lengths, of `tail` + each filling + `after`."""
    ids, lengths = [], []
    for start in range(0, len(fillings), 50_000):
        rows = _ids(tokenizer, [tail + filling + after for filling in fillings[start : start + 50_000]])
        size = np.fromiter(map(len, rows), np.int64, len(rows))
        block = np.full((len(rows), size.max()), -1, np.int32)
        block[np.arange(size.max()) < size[:, None]] = np.concatenate([np.asarray(row, np.int32) for row in rows])
        ids.append(block)
        lengths.append(size)
    longest = max(block.shape[1] for block in ids)
    padded = [np.pad(block, ((0, 0), (0, longest - block.shape[1])), constant_values=-1) for block in ids]
    return np.concatenate(padded), np.concatenate(lengths)


@lru_cache(maxsize=4)
def whole_space(
    tokenizer: PreTrainedTokenizerBase, tail: str, slots: tuple[tuple[str, ...], ...], after: str
) -> tuple[list[str], PrefixTree, int]:
    """Return every filling of the slots, their tree, and how many tokens they hold; kept for the next canary.

    Args:
        tokenizer: of the model.
        tail, after: the text before and after each filling that is tokenised with it.
        slots: the parts of a filling.
    """
    ids, lengths = tokenise_fillings(tokenizer, tail, all_fillings(slots), after)
    return all_fillings(slots), PrefixTree.build(ids, lengths), int(lengths.sum())


@lru_cache(maxsize=2)
def all_fillings(slots: tuple[tuple[str, ...], ...]) -> list[str]:
    """Return every filling of the slots, in the order of `CanarySet.filling`."""
    fillings = [""]
    for slot in slots:
        fillings = [start + part for start in fillings for part in slot]
    return fillings
