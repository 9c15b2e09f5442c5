"""The surrogates of a run: what makes them, and what may be made into them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from datasets import Dataset, IterableDataset

from swingkd.data import column_names
from swingkd.data.prepare import rendered
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
        cache: what wrote the teacher's targets into the rows.

    Raises:
        ValueError: says what is missing.
    """
    if args.protection != "surrogate":
        return
    if not task.reads_surrogates:
        raise ValueError(
            "protection='surrogate' replaces values in what a language model reads, and the models are for "
            f"{task.name}. Replace them first (Surrogates.map, or swingkd surrogates), and train on that text with "
            "another protection."
        )
    if dataset is None:
        return
    if cache is not None or "input_ids" in column_names(dataset):
        raise ValueError(
            "protection='surrogate' replaces values in text, and the rows are tokenised already. Pass the text and a "
            "live teacher."
        )
    if tagger is None:
        raise ValueError(
            "protection='surrogate' replaces what a tagger finds in the text, and there is none. Give one, such as "
            "the rules (RuleTagger)."
        )


def with_surrogates(reading: Reading, args: PrivateDistillationConfig, dataset: Dataset | IterableDataset) -> Reading:
    """Return how training rows are read when what is private in them is made up.

    Args:
        reading: how they would be read otherwise, with a tagger.
        args: the settings.
        dataset: the training rows.
    """
    if args.protection != "surrogate":
        return reading
    # A run that goes on makes the same ones.
    surrogates = Surrogates.kept_in(Path(args.output_dir) / PRIVATE / KEY_FILE, locale=args.surrogate_locale)
    assert reading.tagger is not None
    given = reading.tagger
    tagger = given if isinstance(given, ConsistentTagger) else ConsistentTagger(given)
    # Under differential privacy, no record may change how another one is read.
    if isinstance(dataset, Dataset) and not args.differentially_private:
        for texts in rendered(dataset, reading.processing_class, reading.settings):
            surrogates.avoid(tagger.learn(texts))
    return replace(reading, tagger=tagger, surrogates=surrogates)
