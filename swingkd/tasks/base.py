"""What a task is: how rows become batches, where a model answers, and what is private about each answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel

from swingkd.data import DataSettings, column_names
from swingkd.data.columns import IGNORE
from swingkd.data.teacher_columns import CacheInfo
from swingkd.models.inputs import OF_TOKENS
from swingkd.surrogates import Surrogates
from swingkd.tagging import Tagger
from swingkd.targets import ProtectionName
from swingkd.tasks.predicted import PredictedTokens


@dataclass(frozen=True)
class Reading:
    """How rows of a user become rows of a task.

    Args:
        processing_class: tokenizer or image processor of the student.
        tagger: what rates the text; `None`: nothing is private.
        settings: see `DataSettings`.
        model: the student, whose configuration names the classes; `None`: rows are not made, only their text is read.
        teacher_processing_class: the teacher's tokenizer, where it is another one.
        num_proc: processes for map-style data.
        labelled: a classifier's rows must have labels; those that are only predicted need none.
        surrogates: replaces what the tagger finds; `None`: texts stay as they are.
        teacher_length: how many tokens of its own tokenizer the teacher reads; `None`: as many as there are.
    """

    processing_class: Any
    tagger: Tagger | None
    settings: DataSettings
    model: PreTrainedModel
    teacher_processing_class: Any = None
    num_proc: int | None = None
    labelled: bool = True
    surrogates: Surrogates | None = None
    teacher_length: int | None = None

    def mapping(self, dataset: Dataset | IterableDataset, description: str, keep: tuple[str, ...]) -> dict[str, Any]:
        """Return the arguments of `dataset.map` for a batch of texts.

        Args:
            dataset: map-style or streaming.
            description: shown beside the progress bar.
            keep: columns to keep.
        """
        options: dict[str, Any] = {
            "batched": True,
            "with_indices": True,
            "remove_columns": [name for name in column_names(dataset) if name not in keep],
        }
        if isinstance(dataset, Dataset):
            options |= {"num_proc": self.num_proc, "desc": f"Tagging and tokenising ({description})"}
        return options


#: What is summed over the answers of a sequence: how many there are, how many are flagged, the hard loss of all and of
#: the flagged ones, the soft loss, and the loss that is trained.
SUMS = ("answers", "flagged", "hard", "hard_flagged", "soft", "loss")


class Task(ABC):
    """What a model is trained for.  Everything else, the loss above all, is the same for every task."""

    #: As the Hub names it.
    name: ClassVar[str]
    #: The Auto class that loads its models.
    auto_model: ClassVar[Any]
    #: The Auto class that loads what prepares its inputs.
    auto_processor: ClassVar[Any]
    #: How the classes of its models end.
    endings: ClassVar[tuple[str, ...]]
    #: Whether answers are tokens of the vocabulary (or classes).
    predicts_tokens: ClassVar[bool] = True
    #: What they are called.
    answers: ClassVar[str] = "predicted tokens"
    #: Whether a token is predicted at the position before it.
    shifts_labels: ClassVar[bool] = False
    #: What is done at private answers where nobody says otherwise and there is no public model.
    default_protection: ClassVar[ProtectionName] = "population"
    #: Whether private values in its rows can be replaced while they are read.
    reads_surrogates: ClassVar[bool] = False
    #: Whether an answer says what stands in a text: where that is made up, its class, or a word's, is nobody's secret.
    teaches_values: ClassVar[bool] = True
    #: Columns of its batches, beside the labels and those about privacy.
    columns: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", *OF_TOKENS)

    @abstractmethod
    def prepare(
        self,
        dataset: Dataset | IterableDataset,
        reading: Reading,
        *,
        description: str = "train",
        keep: tuple[str, ...] = (),
    ) -> Dataset | IterableDataset:
        """Return rows that the collator takes, with what the tagger found.

        Args:
            dataset: rows as a user has them.
            reading: how they are read.
            description: shown beside the progress bar.
            keep: other columns to keep.
        """

    def texts(self, dataset: Dataset, reading: Reading) -> Iterator[list[str]]:
        """Yield what the tagger reads of rows, some at a time; nothing where they are no text any more.

        Args:
            dataset: rows as a user has them.
            reading: how they are read.
        """
        return iter(())

    @abstractmethod
    def collator(
        self, processing_class: Any, teacher_processing_class: Any = None, cache: CacheInfo | None = None
    ) -> Callable:
        """Return what makes batches of rows."""

    @abstractmethod
    def at(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return where a model gives the answers that have a label: bool in the shape of the logits but the last."""

    @abstractmethod
    def predicted(self, inputs: dict[str, torch.Tensor], width: int, end: int | None) -> PredictedTokens:
        """Find the answers of a batch that have a label.

        Args:
            inputs: a batch of the collator.
            width: how much context to note for each.
            end: id that ends a record.
        """

    @abstractmethod
    def call(self, inputs: dict[str, torch.Tensor], model: PreTrainedModel) -> dict[str, Any]:
        """Return what a model's forward gets of a batch."""

    def of_teacher(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the batch as the teacher reads it: where it has a tokenizer of its own, in its tokens."""
        return inputs

    def answered(self, inputs: dict[str, torch.Tensor], read: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return where the teacher gives its answers, in the batch that it reads: bool as of `at`.

        Args:
            inputs: a batch of the collator.
            read: of `of_teacher`.
        """
        return self.at(read)

    @abstractmethod
    def metrics(
        self, sums: np.ndarray, answers: Iterable[tuple[np.ndarray, np.ndarray]], model: PreTrainedModel
    ) -> dict[str, float]:
        """Turn what evaluation gathered into numbers.

        Args:
            sums: [len(SUMS)] over all answers, see `SUMS`.
            answers: of a classifier, the guessed classes and the labels of each batch.
            model: the student.
        """


def labelled(labels: torch.Tensor) -> torch.Tensor:
    """Return which labels are to be learnt."""
    return labels != IGNORE
