"""What a served teacher says: never one model's own answer, unless differential privacy covers what it was trained on.

Whoever asks chooses the text.  A protection that looks for private tokens in it is open to a client that writes "my
pin is x" and reads the digits at the place of the x; noise is open to one that asks in other words and takes the mean;
and to refuse text that is near a record tells that there is such a record.  What holds for any text is what no record
can move: answers that two teachers agree on, each record in the training data of one of them; or differential privacy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from swingkd.models.inputs import align_padding, vocabulary_size
from swingkd.models.loading import placed
from swingkd.privacy import LedgerEntry
from swingkd.targets.agreement import agreed
from swingkd.trainer.out_of_fold import NAME, OutOfFoldTeacher

# Places whose answers are in memory together: each costs a few vocabularies.
_PLACES = 256


class Answer(NamedTuple):
    """What is said about a row of T tokens, at each of its places but the first, which nothing predicts.

    Args:
        ids: [T - 1, K] of the likeliest tokens, the likeliest first.
        log_probs: [T - 1, K] theirs.
        sent: [T - 1] the log-probability of the token that stands in the row.
        ranks: [T - 1] its rank, from 1 on.
    """

    ids: np.ndarray
    log_probs: np.ndarray
    sent: np.ndarray
    ranks: np.ndarray


class AgreeingTeachers(nn.Module):
    """A model whose answers are what teachers agree on that share no record; it can be audited as any other.

    Args:
        teachers: out of fold, each trained on one fold alone, so that a record is in the training data of one.
        public: a model that saw no record; default: the base below the adapters.

    Raises:
        ValueError: a record is in the training data of several teachers, or there is no public model.
    """

    def __init__(self, teachers: OutOfFoldTeacher, public: PreTrainedModel | None = None):
        super().__init__()
        if teachers.k - teachers.held_out != 1:
            raise ValueError(
                f"Each of the {teachers.k} teachers was trained on {teachers.k - teachers.held_out} folds, so several "
                "know a record, and would agree on it. Train two (k=2), or each on one fold (held_out="
                f"{teachers.k - 1})."
            )
        if public is None and not teachers.adapted:
            raise ValueError(
                "The teachers are whole models, and their answers are measured against a model that saw no record. "
                "Name it: public_model=..., the base that they were trained from."
            )
        self.teachers, self.public = teachers, public

    @property
    def config(self) -> Any:
        """The teachers' configuration."""
        return self.teachers.config

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.teachers.one.device

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> ModelOutput:
        """Return what is agreed on as `logits` [B, T, V], which are log-probabilities."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        *said, public = (logits.flatten(0, 1) for logits in self._said(inputs))
        answers = [
            agreed((one[part].float().log_softmax(-1) for one in said), public[part].float().log_softmax(-1))
            for part in (slice(start, start + _PLACES) for start in range(0, len(public), _PLACES))
        ]
        return ModelOutput(logits=torch.cat(answers).view(*input_ids.shape, -1))

    def _said(self, inputs: dict[str, torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the logits of each teacher, and last those of the public model."""
        count = len(inputs["input_ids"])
        if self.teachers.adapted:
            several = {name: value.repeat(self.teachers.k + 1, 1) for name, value in inputs.items()}
            names = [NAME.format(number) for number in range(self.teachers.k)] + ["__base__"]
            logits = self.teachers.one(**several, adapter_names=[name for name in names for _ in range(count)]).logits
            yield from logits.split(count)
            return
        for model in (*self.teachers.models, self.public):
            yield model(**inputs).logits  # type: ignore[misc]


@dataclass(frozen=True)
class ServedTeacher:
    """What is served, and what is promised of it.

    Args:
        model: whose answers may be given away as they are: a causal language model, or `AgreeingTeachers`.
        tokenizer: of the model.
        name: what it is called.
        promised: guarantees for the teacher's data that its training gives; empty where there is none.
    """

    model: Any
    tokenizer: Any
    name: str
    promised: tuple[LedgerEntry, ...] = ()

    @classmethod
    def of(
        cls,
        teacher: OutOfFoldTeacher | PreTrainedModel,
        tokenizer: Any,
        *,
        name: str = "teacher",
        promised: Sequence[LedgerEntry] = (),
        public_model: PreTrainedModel | None = None,
    ) -> ServedTeacher:
        """Return a teacher that may be served.

        Args:
            teacher: teachers out of fold, or a model that differential privacy covers.
            tokenizer: of the teacher.
            name: what it is called.
            promised: what the training of a single model promises (`PrivacyLedger.of_weights(path).as_teacher()`).
            public_model: that the teachers were trained from, where they are whole models.

        Raises:
            ValueError: it is one model, and nothing is promised of its training data; or the teachers share records.
        """
        if isinstance(teacher, OutOfFoldTeacher):
            model: Any = AgreeingTeachers(teacher, public_model)
            promised = teacher.promised()
        elif promised:
            model = teacher
            align_padding("teacher", teacher, tokenizer)
        else:
            raise ValueError(
                "One teacher without differential privacy gives its records to whoever asks in the right words, and "
                "no protection of single tokens changes that: the client chooses the text. Serve two that share no "
                "record (swingkd crossfit), or one that was trained with target_epsilon."
            )
        return cls(placed(model).eval(), tokenizer, name, tuple(promised))

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return min(vocabulary_size(self.tokenizer), self.model.config.get_text_config().vocab_size)

    @property
    def longest(self) -> int | None:
        """Longest row, in tokens; `None`: nobody says."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @torch.inference_mode()
    def answer(self, rows: Sequence[Sequence[int]], top_k: int) -> list[Answer]:
        """Answer about some rows at once.

        Args:
            rows: ids, two at least in each.
            top_k: how many tokens at each place.
        """
        device = self.model.device
        lengths = [len(row) for row in rows]
        ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.as_tensor(row)
            mask[place, : len(row)] = 1
        ids, mask = ids.to(device), mask.to(device)
        logits = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1, : self.vocabulary]
        # Only what is asked for leaves the device.
        kept = mask[:, 1:].bool()
        parts = zip(logits[kept].split(_PLACES), ids[:, 1:][kept].split(_PLACES), strict=True)
        found = [self._top(part, sent, top_k) for part, sent in parts]
        columns = [torch.cat(column).cpu().numpy() for column in zip(*found, strict=True)]
        ends = np.cumsum([length - 1 for length in lengths])[:-1]
        return [Answer(*row) for row in zip(*(np.split(column, ends) for column in columns), strict=True)]

    @staticmethod
    def _top(logits: torch.Tensor, sent: torch.Tensor, top_k: int) -> tuple[torch.Tensor, ...]:
        log_probs = logits.float().log_softmax(-1)
        values, ids = log_probs.topk(min(top_k, log_probs.size(-1)), -1)
        own = log_probs.gather(-1, sent[:, None])
        return ids, values, own[:, 0], (log_probs > own).sum(-1) + 1
