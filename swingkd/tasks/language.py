"""Language models: the answers are tokens, and the likelihood is that of the token to be predicted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xxhash
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from swingkd.data import DistillationCollator, column_names, prepare_dataset
from swingkd.data.columns import FOLD, IGNORE, TEACHER_AT
from swingkd.data.prepare import rendered
from swingkd.data.teacher_columns import CacheInfo
from swingkd.models.inputs import first_position, of_tokens
from swingkd.tasks.base import Task, labelled
from swingkd.tasks.predicted import preceding, predicted_tokens


class TokenTask(Task):
    """A task whose answers are tokens of the vocabulary."""

    auto_processor = AutoTokenizer
    reads_surrogates = True

    def prepare(self, dataset, reading, *, description="train", keep=()):
        return prepare_dataset(
            dataset,
            reading.processing_class,
            reading.tagger,
            reading.settings,
            num_proc=reading.num_proc,
            description=description,
            keep=keep,
            first=first_position(reading.model),
            surrogates=reading.surrogates,
            teacher_tokenizer=reading.teacher_processing_class,
            teacher_length=reading.teacher_length,
        )

    def texts(self, dataset, reading):
        if "input_ids" in column_names(dataset):
            return iter(())
        return rendered(dataset, reading.processing_class, reading.settings)

    def call(self, inputs, model):
        return _ids_and_mask(inputs) | {"use_cache": False} | of_tokens(inputs, model)

    def metrics(self, sums, answers, model):
        """Make perplexities (all, flagged, unflagged) and the distillation loss of sums over tokens."""
        tokens, flagged, nll, flagged_nll, soft, loss = sums
        if not tokens:
            return {}
        # The Trainer's own loss is a mean of means of batches, and moves with their size.
        metrics = {"perplexity": np.exp(nll / tokens), "loss": loss / tokens}
        if not np.isnan(soft):  # there was a teacher to be near to
            metrics |= {"soft_loss": soft / tokens, "distillation_loss": loss / tokens}
        if flagged:
            metrics["perplexity_flagged"] = np.exp(flagged_nll / flagged)
        # Where nothing is flagged, perhaps nobody looked: this would be the perplexity of all, under a better name.
        if 0 < flagged < tokens:
            metrics["perplexity_unflagged"] = np.exp((nll - flagged_nll) / (tokens - flagged))
        return {key: float(value) for key, value in metrics.items()}


class CausalLM(TokenTask):
    """Predict each token from those before it."""

    name = "text-generation"
    auto_model = AutoModelForCausalLM
    endings = ("ForCausalLM", "LMHeadModel")
    shifts_labels = True
    columns = (*TokenTask.columns, "teacher_input_ids", TEACHER_AT)

    def collator(self, processing_class, teacher_processing_class=None, cache: CacheInfo | None = None):
        own = teacher_processing_class.pad_token_id if teacher_processing_class is not None else None
        return DistillationCollator(processing_class.pad_token_id, cache, teacher_pad_token_id=own)

    def at(self, inputs):
        return F.pad(labelled(inputs["labels"])[:, 1:], (0, 1), value=False)

    def of_teacher(self, inputs):
        if TEACHER_AT not in inputs:
            return inputs
        own = {name.removeprefix("teacher_"): inputs[name] for name in ("teacher_input_ids", "teacher_attention_mask")}
        return own | {name: inputs[name] for name in ("labels", FOLD) if name in inputs}

    def answered(self, inputs, read):
        if read is inputs:
            return self.at(inputs)
        found = aligned_tokens(inputs, self.at(inputs))
        rows = self.at(inputs).nonzero()[:, 0]
        places = torch.zeros_like(read["input_ids"], dtype=torch.bool)
        places[rows[found > 0], found[found > 0] - 1] = True
        return places

    def predicted(self, inputs, width, end):
        # The first token of a row is predicted by nothing.
        learnt = labelled(inputs["labels"])
        learnt[:, 0] = False
        return predicted_tokens(inputs, self.at(inputs), learnt, _context(inputs, inputs["input_ids"], width, end))


class MaskedLM(TokenTask):
    """Predict the tokens that were masked, from those around them."""

    name = "fill-mask"
    auto_model = AutoModelForMaskedLM
    endings = ("ForMaskedLM",)

    def collator(self, processing_class, teacher_processing_class=None, cache: CacheInfo | None = None):
        return MaskingCollator(processing_class)

    def at(self, inputs):
        return labelled(inputs["labels"])

    def predicted(self, inputs, width, end):
        at = self.at(inputs)
        # The context that chooses a draw is the text's own, whatever is masked in it this time.
        ids = torch.where(at, inputs["labels"], inputs.get("unmasked_ids", inputs["input_ids"]))
        return predicted_tokens(inputs, at, at, _context(inputs, ids, width, end))

    def call(self, inputs, model):
        return _ids_and_mask(inputs) | of_tokens(inputs, model)


def aligned_tokens(inputs: dict[str, torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    """Return which token of the teacher's own each predicted one is, [N]; -1: none.

    Args:
        inputs: a batch with the teacher's tokens.
        at: where the N tokens are predicted.
    """
    return F.pad(inputs[TEACHER_AT][:, 1:], (0, 1), value=-1)[at]


def _ids_and_mask(inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    # Packed rows have no mask: their positions keep them apart.
    return {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}


def _context(inputs: dict[str, torch.Tensor], ids: torch.Tensor, width: int, end: int | None) -> torch.Tensor:
    """Return the ids before each token, see `preceding`: those of its own text."""
    if "attention_mask" in inputs:
        ids = ids.masked_fill(inputs["attention_mask"] == 0, -1)
    return preceding(ids, width, end, inputs.get("position_ids"))


class MaskingCollator:
    """Pad rows and mask tokens as `DataCollatorForLanguageModeling` does; tokens without a label are never masked.

    A row's masks follow from the seed, the visit and the row alone, whatever stands beside it: they are new in every
    epoch, a resumed run or a second pass finds the same ones, and under differential privacy no record moves those of
    another.

    Args:
        tokenizer: with a mask token.
        seed: of the masks; no secret depends on it.  `None`: a trainer gives its own.
    """

    #: The visit of an evaluation: always the same masks, whatever the seed, so that numbers compare.
    EVALUATION = -1

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int | None = None):
        self.tokenizer, self.seed = tokenizer, seed
        #: Which visit to the data this is: the epoch.
        self.visit = 0
        self._pad = DistillationCollator(tokenizer.pad_token_id, first=True)
        self._mask = DataCollatorForLanguageModeling(tokenizer)

    def masking_as(self, given: DataCollatorForLanguageModeling) -> MaskingCollator:
        """Return one that masks as many tokens as another collator does, and in the same ways."""
        own = MaskingCollator(self.tokenizer, self.seed)
        own._mask = copy.copy(given)
        return own

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return tensors [rows, longest]; `unmasked_ids` are the text's own."""
        batch = self._pad(rows)
        ids = batch["unmasked_ids"] = batch["input_ids"].clone()
        kept = (batch["labels"] == IGNORE) | torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids))
        visit = "evaluation" if self.visit == self.EVALUATION else f"{self.seed} {self.visit}"
        for i, length in enumerate(len(row["input_ids"]) for row in rows):
            own = slice(i, i + 1), slice(0, length)
            seed = xxhash.xxh3_64_intdigest(ids[own].numpy().tobytes() + visit.encode()) >> 1
            self._mask.generator = torch.Generator().manual_seed(seed)
            batch["input_ids"][own], batch["labels"][own] = self._mask.torch_mask_tokens(ids[own].clone(), kept[own])
        return batch


@contextmanager
def evaluated(collator: Any) -> Iterator[None]:
    """Let a collator mask as it does at every evaluation; any other is left alone."""
    if not isinstance(collator, MaskingCollator):
        yield
        return
    visit, collator.visit = collator.visit, MaskingCollator.EVALUATION
    try:
        yield
    finally:
        collator.visit = visit


class NewMasks(TrainerCallback):
    """Tell a collator which epoch it is.

    Args:
        collator: whose masks are to change.
    """

    def __init__(self, collator: MaskingCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Count the epoch; a resumed one is still the same."""
        self.collator.visit = int(state.epoch + 1e-6)
