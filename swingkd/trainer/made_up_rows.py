"""The surrogates of a run: what makes them, and what may be made into them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from swingkd.data import column_names
from swingkd.data.teacher_columns import CacheInfo
from swingkd.files import PRIVATE
from swingkd.surrogates import KEY_FILE, Surrogates
from swingkd.tagging import ConsistentTagger, Tagger
from swingkd.tasks import Task
from swingkd.tasks.base import Reading
from swingkd.trainer.config import PrivateDistillationConfig


def check_made_up(
    args: PrivateDistillationConfig,
    task: Task,
    dataset: Dataset | IterableDataset | None,
    tagger: Tagger | None,
    cache: CacheInfo | None,
) -> None:
    """Refuse rows whose private values could not be replaced: their real tokens would be learnt.

    Args:
        args: the settings.
        task: what the models are for.
        dataset: the training rows, as they were given.
        tagger: what finds the values.
        cache: what wrote the teacher's targets into the rows, perhaps when they had surrogates already.

    Raises:
        ValueError: says what is missing.
    """
    if args.protection != "surrogate":
        return
    if not task.reads_surrogates:
        raise ValueError(
            f"protection='surrogate' replaces values in text, and the models are for {task.name}. Choose another "
            "protection."
        )
    if dataset is None:
        return
    if cache is not None and cache.protection == "surrogate":
        return
    if cache is not None or "input_ids" in column_names(dataset):
        raise ValueError(
            "protection='surrogate' replaces values in text, and the rows are tokenised already. Pass the text (and "
            "cache a teacher with the same protection)."
        )
    if tagger is None:
        raise ValueError(
            "protection='surrogate' replaces what a tagger finds in the text, and there is none. Give one, such as "
            "the rules (RuleTagger)."
        )


def can_be_made_up(task: Task, dataset: Dataset | IterableDataset | None, tagger: Tagger | None) -> bool:
    """Tell whether rows are text in which a tagger finds values, so that these can be replaced."""
    if dataset is None or tagger is None or not task.reads_surrogates:
        return False
    return "input_ids" not in column_names(dataset)


def consistent(
    reading: Reading, args: PrivateDistillationConfig, task: Task, dataset: Any
) -> tuple[Reading, set[str]]:
    """Return how rows are read when what a tagger found once is private wherever it stands again, and what it found.

    Args:
        reading: how they would be read otherwise.
        args: the settings.
        task: what the models are for.
        dataset: the training rows, as they were given; `None`: there are none.
    """
    if reading.tagger is None:
        return reading, set()
    tagger, found = ConsistentTagger.around(reading.tagger, args.private_threshold), set[str]()
    # Under differential privacy, no record may change how another one is read.
    if isinstance(dataset, Dataset) and not args.differentially_private:
        for texts in task.texts(dataset, reading):
            found.update(tagger.learn(texts))
    return replace(reading, tagger=tagger), found


def with_surrogates(reading: Reading, args: PrivateDistillationConfig, found: set[str]) -> Reading:
    """Return how training rows are read when what is private in them is made up.

    Args:
        reading: how they would be read otherwise, with a tagger.
        args: the settings.
        found: the values of the corpus, which are not made up.
    """
    if args.protection != "surrogate":
        return reading
    # A run that goes on makes the same ones.
    surrogates = Surrogates.kept_in(Path(args.output_dir) / PRIVATE / KEY_FILE, locale=args.surrogate_locale)
    surrogates.avoid(sorted(found))
    return replace(reading, surrogates=surrogates)
