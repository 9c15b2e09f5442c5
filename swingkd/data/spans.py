"""From characters to tokens."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import groupby

import numpy as np

from swingkd.data.columns import PII_TYPES, stored
from swingkd.tagging import CharTags, align, dilate, label_spans
from swingkd.targets import TokenFacts
from swingkd.targets.population import GROUP_STRIDE, LAST_PLACE, PLACE_AFTER, PLACE_BEFORE


def token_facts(text: str, tags: CharTags, offsets: np.ndarray, dilation: int) -> TokenFacts:
    """Carry character tags to tokens.

    Args:
        text: the text.
        tags: likelihood and labels of its characters.
        offsets: [tokens, 2] character offsets.
        dilation: how many neighbouring tokens inherit the likelihood.

    Returns:
        What is known of each token, all [tokens], of the columns' types; the likelihood from 0 to 255.
    """
    likelihood = stored(dilate(align(tags.likelihood, offsets), dilation))
    group, shape, span = (np.zeros(len(offsets), np.int64) for _ in range(3))
    spans = label_spans(tags.labels)
    runs = np.zeros(len(text), np.int64)
    for run, (start, end, _) in enumerate(spans, 1):
        runs[start:end] = run
    token_run = align(runs, offsets)
    for run, (start, end, label) in enumerate(spans, 1):
        tokens = np.flatnonzero(token_run == run)
        if not len(tokens):
            continue
        first, last = tokens[0], tokens[-1]
        identity = _span_hash(label, text[start:end])
        base = label * GROUP_STRIDE
        before = slice(max(first - dilation, 0), first)
        after = slice(last + 1, last + 1 + dilation)
        for place, tokens_around in ((PLACE_BEFORE, before), (PLACE_AFTER, after)):
            bare = group[tokens_around] == 0
            group[tokens_around][bare] = base + place
            span[tokens_around][bare] = identity
        group[tokens] = base + np.minimum(tokens - first + 1, LAST_PLACE)
        span[tokens] = identity
        # Up to the end of the token before: a blank at the token's own start is part of what is to be predicted.
        shape[tokens] = [
            _shape_hash(text[start : max(offsets[token - 1, 1], start)] if token else "") for token in tokens
        ]
        shape[after] = _shape_hash(text[start:end])
    private = likelihood > 0
    facts = TokenFacts(likelihood, *(np.where(private, values, 0) for values in (group, shape, span)))
    return TokenFacts(*(values.astype(kind) for values, kind in zip(facts, PII_TYPES, strict=True)))


def _span_hash(label: int, text: str) -> int:
    digest = hashlib.blake2b(text.casefold().encode(), digest_size=8, person=label.to_bytes(2, "little")).digest()
    return int.from_bytes(digest, "little", signed=True)


@lru_cache(maxsize=65536)
def _shape_hash(text: str) -> int:
    """Hash what a text looks like: its shape (letters and digits by their kind, each run of one kind once, the rest as
    it is) in the upper half, its last character in the lower half."""
    classes = ("9" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in text)
    shape = "".join(kind for kind, _ in groupby(classes))
    halves = [hashlib.blake2b(part.encode(), digest_size=4).digest() for part in (shape, text[-1:])]
    return int.from_bytes(halves[1] + halves[0], "little", signed=True)
