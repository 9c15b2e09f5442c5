"""Texts as examples for language models, tokenised once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from swingkd.data import DataSettings, prepare_dataset
from swingkd.data.columns import IGNORE
from swingkd.decentralized.labelled_examples import LabelledExamples
from swingkd.surrogates import Surrogates
from swingkd.tagging import Tagger


def text_examples(
    texts: Sequence[str],
    processing_class: PreTrainedTokenizerBase,
    *,
    max_length: int = 64,
    tagger: Tagger | None = None,
    surrogates: Surrogates | None = None,
) -> LabelledExamples:
    """Return texts of which each token is to be predicted from those before it.

    All clients and the server need one tokenizer: a messenger says how likely each of its tokens is.

    Args:
        texts: one a row.
        processing_class: a fast tokenizer.
        max_length: longer texts are cut, in tokens.
        tagger: what is private in them; with `max_temperature` above 1, a client says less of that.
        surrogates: put made-up values in the place of what the tagger finds; the model never reads a real one.

    Raises:
        ValueError: a text is shorter than two tokens, or surrogates have no tagger.
    """
    if not len(texts):
        raise ValueError("There are no texts.")
    rows = Dataset.from_dict({"text": list(texts)})
    if surrogates is not None:
        if tagger is None:
            raise ValueError("Surrogates take the place of what a tagger finds, and there is none. Give one.")
        rows, tagger = surrogates.map(rows, tagger=tagger).select_columns(["text"]), None  # type: ignore[union-attr]
    settings = DataSettings(max_length=max_length)
    prepared = prepare_dataset(rows, processing_class, tagger, settings).with_format("torch")
    ids = [row["input_ids"] for row in prepared]
    short = next((i for i, row in enumerate(ids) if len(row) < 2), None)
    if short is not None:
        raise ValueError(f"Text {short} has {len(ids[short])} tokens: of two, the second is predicted. Drop it.")
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    input_ids = pad_sequence(ids, batch_first=True)
    labels = input_ids.masked_fill(mask == 0, IGNORE)
    labels[:, 0] = IGNORE
    likelihood = None
    if tagger is not None:
        likelihood = pad_sequence([row["pii_likelihood"] for row in prepared], batch_first=True).float() / 255
    # Some tokenizers leave numbers out.
    vocabulary = max(len(processing_class), max(processing_class.get_vocab().values()) + 1)
    return LabelledExamples({"input_ids": input_ids, "attention_mask": mask}, labels, vocabulary, likelihood)
