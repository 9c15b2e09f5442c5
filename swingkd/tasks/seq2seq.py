"""Sequence to sequence: an encoder reads a prompt, a decoder says a completion, whose tokens are the answers.

Rows have `prompt` and `completion`, or `input_ids` and `labels`.  The tagger reads both together, so that what stands
in the prompt counts as its context; the columns about privacy are those of the completion's tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from swingkd.data import PII_COLUMNS, column_names, pad_rows, ready, retagged, tagged_map, token_facts, unformatted
from swingkd.data.columns import IGNORE, add_facts, fold_of, likelihoods
from swingkd.data.made_up import made_up
from swingkd.data.retag import placed
from swingkd.data.teacher_columns import CacheInfo
from swingkd.tagging import tag_texts
from swingkd.tagging.base import tagger_labels
from swingkd.tagging.windows import check_fast_tokenizer
from swingkd.tasks.base import labelled
from swingkd.tasks.language import TokenTask
from swingkd.tasks.predicted import preceding, predicted_tokens


class Seq2SeqLM(TokenTask):
    """Predict a completion from a prompt that an encoder reads; the likelihood is that of the completion's tokens."""

    name = "text2text-generation"
    auto_model = AutoModelForSeq2SeqLM
    endings = ("ForConditionalGeneration",)

    def prepare(self, dataset, reading, *, description="train", keep=()):
        dataset = unformatted(dataset)
        columns = column_names(dataset)
        texts = {"prompt", "completion"} <= set(columns)
        known = {"tokenizer": reading.processing_class, "tagger": reading.tagger, "settings": reading.settings}
        if {"input_ids", "labels"} <= set(columns):
            if texts and reading.tagger is not None and "pii_likelihood" not in columns:
                dataset = retagged(dataset, _retag, known)
            return ready(dataset, reading.tagger, ("input_ids", "attention_mask"))
        if not texts:
            raise ValueError(
                f"The dataset has the columns {columns}; a sequence-to-sequence model needs 'prompt' and "
                "'completion', or 'input_ids' and 'labels'."
            )
        check_fast_tokenizer(reading.processing_class)
        known["surrogates"] = reading.surrogates
        return tagged_map(dataset, _tokenise, known, **reading.mapping(dataset, description, keep))

    def texts(self, dataset, reading):
        if {"prompt", "completion"} <= (columns := set(column_names(dataset))) and "input_ids" not in columns:
            yield from map(_whole, unformatted(dataset).select_columns(["prompt", "completion"]).iter(1000))

    def collator(self, processing_class, teacher_processing_class=None, cache: CacheInfo | None = None):
        return PairCollator(processing_class.pad_token_id)

    def at(self, inputs):
        return labelled(inputs["labels"])

    def predicted(self, inputs, width, end):
        at = self.at(inputs)
        return predicted_tokens(inputs, at, at, preceding(inputs["labels"].masked_fill(~at, -1), width, None))

    def call(self, inputs, model):
        return super().call(inputs, model) | {"decoder_input_ids": decoder_inputs(inputs["labels"], model)}


def decoder_inputs(labels: torch.Tensor, model: PreTrainedModel) -> torch.Tensor:
    """Return what the decoder reads while it says the labels [B, T]: the same, one place later, [B, T].

    Args:
        labels: -100 where there is none.
        model: some (M2M100, NLLB, Blenderbot) do it in their forward only, and are told here.
    """
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        return model.prepare_decoder_input_ids_from_labels(labels=labels)
    config = model.config
    start = labels.new_full((len(labels), 1), config.decoder_start_token_id)
    return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE, config.pad_token_id)], 1)


def _tokenise(batch, indices, tokenizer, tagger, settings, surrogates, version):
    prompts, completions = batch["prompt"], batch["completion"]
    missing = sum(not isinstance(text, str) for text in [*prompts, *completions])
    if missing:
        raise ValueError(
            f"{missing} of {2 * len(prompts)} prompts and completions are no text. Drop those rows first."
        )
    texts = _whole(batch)
    tags = tag_texts(tagger, texts) if tagger is not None else []
    if surrogates is not None:
        ends = [len(prompt) for prompt in prompts]
        made = made_up(texts, tags, indices, tagger_labels(tagger), surrogates, settings.threshold, ends)
        parted = [one.parted(end) for one, end in zip(made, ends, strict=True)]
        prompts, completions = ([parts[side] for parts in parted] for side in (0, 1))
        texts, tags = [one.text for one in made], [one.tags for one in made]
    options = {"truncation": True, "max_length": settings.max_length}
    read = tokenizer(prompts, return_offsets_mapping=True, **options)
    target = tokenizer(text_target=completions, return_offsets_mapping=True, **options)
    end = tokenizer.eos_token_id
    for ids, offsets in zip(target["input_ids"], target["offset_mapping"], strict=True):
        # A completion that never ends would teach to go on for ever.
        if end is not None and (not ids or ids[-1] != end) and len(ids) < settings.max_length:
            ids.append(end)
            offsets.append((0, 0))
    out: dict[str, list] = {"input_ids": read["input_ids"], "labels": target["input_ids"]}
    if tagger is None:
        return out
    out |= {key: [] for key in PII_COLUMNS}
    for i, (text, char_tags) in enumerate(zip(texts, tags, strict=True)):
        before, offsets = (np.array(part["offset_mapping"][i], np.int64).reshape(-1, 2) for part in (read, target))
        # Special tokens have empty spans, wherever they are moved.
        both = np.concatenate([before, offsets + len(prompts[i]) + 1])
        add_facts(out, token_facts(text, char_tags, both, settings.dilation).at(slice(len(before), None)))
    return out


def _whole(batch: dict[str, list]) -> list[str]:
    """Return what the tagger reads: the prompt counts as the completion's context."""
    return [f"{prompt}\n{completion}" for prompt, completion in zip(batch["prompt"], batch["completion"], strict=True)]


def _retag(batch, indices, tokenizer, tagger, settings, version):
    rows = [[token for token in row if token != IGNORE] for row in batch["labels"]]
    offsets = placed(rows, batch["completion"], tokenizer, indices)
    out: dict[str, list] = {key: [] for key in PII_COLUMNS}
    every = zip(_whole(batch), batch["prompt"], batch["labels"], offsets, strict=True)
    tags = tag_texts(tagger, _whole(batch))
    for (text, prompt, labels, at), char_tags in zip(every, tags, strict=True):
        facts = token_facts(text, char_tags, at + len(prompt) + 1, settings.dilation)
        add_facts(out, facts.spread(len(labels), np.asarray(labels) != IGNORE))
    return out


class PairCollator:
    """Pad what the encoder reads and what the decoder says, each to its longest.

    Args:
        pad_token_id: what fills `input_ids`.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `input_ids` and `attention_mask` [rows, longest prompt], the others [rows, longest completion]."""
        batch = pad_rows(rows, {"input_ids": self.pad_token_id, "attention_mask": 0}, "input_ids")
        batch |= pad_rows(rows, {"labels": IGNORE, **dict.fromkeys(PII_COLUMNS, 0)}, "labels")
        batch["pii_likelihood"] = likelihoods(batch["pii_likelihood"])
        return batch | fold_of(rows)
