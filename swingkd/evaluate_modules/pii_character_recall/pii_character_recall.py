"""Recall and precision of private characters as an evaluate module."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Which share of the private characters a tagger finds, and which share of what it finds is private.  Characters, not
spans: half a telephone number that is missed is half a leak.
"""
_INPUTS = """
Args:
    predictions: for each text, what was found: a list of [start, end], in characters, end exclusive.
    references: for each text, what is private, likewise.
    lengths: for each text, how many characters it has; optional.
Returns:
    recall, precision, f1: over the characters of all texts.
    characters: how many are private.
    false_flags: which share of the characters that are not private was flagged; only where `lengths` are given.
"""


class PiiCharacterRecall(evaluate.Metric):
    """Recall, precision and F1 over characters."""

    def _info(self):
        spans = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": spans, "references": spans}),
        )

    def _compute(self, predictions, references, lengths=None):
        both = flagged = private = 0
        for spans, truth in zip(predictions, references, strict=True):
            length = max((end for _, end in [*spans, *truth]), default=0)
            guessed, true = _marked(spans, length), _marked(truth, length)
            both += int((guessed & true).sum())
            flagged += int(guessed.sum())
            private += int(true.sum())
        if not private:
            raise ValueError("No character is private in any reference, so there is no recall. Give annotated texts.")
        recall, precision = both / private, both / flagged if flagged else 0.0
        f1 = 2 * recall * precision / (recall + precision) if both else 0.0
        scores = {"recall": recall, "precision": precision, "f1": f1, "characters": private}
        if lengths is not None:
            scores["false_flags"] = (flagged - both) / max(_public(references, lengths), 1)
        return scores


def _public(references, lengths):
    public = 0
    for truth, length in zip(references, lengths, strict=True):
        end = max((end for _, end in truth), default=0)
        if end > length:
            raise ValueError(f"A span ends at {end}, but its text is said to have {length} characters.")
        public += length - int(_marked(truth, length).sum())
    return public


def _marked(spans, length):
    marked = np.zeros(length, bool)
    for start, end in spans:
        if not 0 <= start <= end:
            raise ValueError(f"The span [{start}, {end}] is no range of characters: 0 <= start <= end is needed.")
        marked[start:end] = True
    return marked
