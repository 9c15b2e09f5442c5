"""The surrogates of a run: what makes them, and what may be made into them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash
from datasets import Dataset, Features, IterableDataset, List, Value

from swingkd.data import column_names, unformatted
from swingkd.data.columns import VERSION
from swingkd.data.teacher_columns import CacheInfo
from swingkd.files import PRIVATE, keep_secret
from swingkd.privacy import FLAGGED_VALUES, LedgerEntry
from swingkd.privacy.gaussian import gdp_mu
from swingkd.privacy.plan import run_delta
from swingkd.surrogates import KEY_FILE, Surrogates, ValueTable
from swingkd.tagging import ConsistentTagger, Tagger, private_spans, tag_texts
from swingkd.tagging.base import tagger_labels
from swingkd.tagging.identity import code_fingerprint
from swingkd.tasks import Task
from swingkd.tasks.base import Reading
from swingkd.trainer.check_data import check_unit
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.drawn_once import drawn_once

_VALUES = Features(
    values=List(
        {"text": Value("string"), "likelihood": Value("float32"), "label": Value("int16"), "is_name": Value("bool")}
    )
)
#: The noised table of values, in a run's private folder.
VALUE_TABLE = "value_table.safetensors"


def check_made_up(
    args: PrivateDistillationConfig,
    task: Task,
    dataset: Dataset | IterableDataset | None,
    tagger: Tagger | None,
    cache: CacheInfo | None,
    own: Surrogates | None = None,
) -> None:
    """Refuse rows whose private values could not be replaced: their real tokens would be learnt.

    Args:
        args: the settings.
        task: what the models are for.
        dataset: the training rows, as they were given.
        tagger: what finds the values.
        cache: what wrote the teacher's targets into the rows, perhaps when they had surrogates already.
        own: the user's own surrogates.

    Raises:
        ValueError: says what is missing.
    """
    if own is not None and (args.protection != "surrogate" or cache is not None or args.value_epsilon is not None):
        raise ValueError(
            "Surrogates of your own make the values of protection='surrogate', of rows of text and without "
            "value_epsilon. Leave them out here."
        )
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
    # Under differential privacy, of records or of their values, none may change how another one is read.
    alone = args.differentially_private or args.value_epsilon is not None
    tagger, found = ConsistentTagger.around(reading.tagger, args.private_threshold, alone=alone), set[str]()
    if isinstance(dataset, Dataset) and not alone and can_be_made_up(task, dataset, tagger):
        # The student is no part of what is read, and would be hashed.
        known = {"task": task, "reading": replace(reading, model=None), "tagger": tagger}
        rows = unformatted(dataset).map(
            _find,
            batched=True,
            fn_kwargs=known | {"version": f"{VERSION} {code_fingerprint(tagger)}"},
            remove_columns=dataset.column_names,
            features=_VALUES,
            num_proc=args.dataset_num_proc,
            desc="Looking for private values",
        )
        for batch in rows.iter(1000):
            found.update(tagger.know(value for own in batch["values"] for value in own))
    return replace(reading, tagger=tagger), found


def _find(
    batch: dict[str, list], task: Task, reading: Reading, tagger: ConsistentTagger, version: str
) -> dict[str, list]:
    """Return the values of rows."""
    texts = [text for some in task.texts(Dataset.from_dict(batch), reading) for text in some]
    return {"values": tagger.values(texts)}


def with_surrogates(
    reading: Reading,
    args: PrivateDistillationConfig,
    task: Task,
    dataset: Any,
    found: set[str],
    own: Surrogates | None = None,
) -> tuple[Reading, LedgerEntry | None]:
    """Return how training rows are read when what is private in them is made up, and what that released.

    Args:
        reading: how they would be read otherwise, with a tagger.
        args: the settings.
        task: what the models are for.
        dataset: the training rows, as they were given.
        found: the values of the corpus, which are not made up.
        own: the user's own surrogates; default: from public lists, their secret kept beside the run.

    Raises:
        ValueError: values of a stream were to be counted, or they were counted with other noise before.
    """
    if args.protection != "surrogate":
        return reading, None
    folder = Path(args.output_dir) / PRIVATE
    table, entry = None, None
    if args.value_epsilon is not None:
        table, entry = _value_table(reading, args, task, dataset, folder / VALUE_TABLE)
    if own is not None:
        surrogates = own.again()
    else:
        # A run that goes on makes the same ones, and so do all of its processes.
        drawn_once(folder / KEY_FILE, lambda: keep_secret(folder / KEY_FILE))
        surrogates = Surrogates.kept_in(folder / KEY_FILE, locale=args.surrogate_locale, table=table)
    surrogates.avoid(sorted(found))
    return replace(reading, surrogates=surrogates), entry


def _value_table(
    reading: Reading, args: PrivateDistillationConfig, task: Task, dataset: Any, path: Path
) -> tuple[ValueTable, LedgerEntry]:
    """Count the values of each unit with noise, or read the table that an earlier start of this run drew."""
    assert args.value_epsilon is not None
    assert reading.tagger is not None
    if not isinstance(dataset, Dataset):
        raise ValueError("value_epsilon counts the values of all rows first, and a stream is read once. Leave it out.")
    check_unit(args.privacy_unit, dataset)
    unit = args.privacy_unit
    users = dataset.with_format(None)[unit][:] if unit != "record" else list(range(len(dataset)))
    total = len(set(users))
    delta = run_delta(args.target_delta, total)
    multiplier = 1 / gdp_mu(args.value_epsilon, delta)
    labels = tagger_labels(reading.tagger)
    about = f"{unit} {total} {delta} {multiplier:.6f} {labels} {_digest(reading, task, dataset)}"

    def count_values() -> None:
        if path.exists():
            return
        units: dict[Any, list[tuple[str, str]]] = {}
        for user, own in zip(users, _values(reading, args, task, dataset), strict=True):
            units.setdefault(user, []).extend(own)
        ValueTable.measured(units.values(), labels, args.surrogate_locale, multiplier, about).save(path)

    drawn_once(path, count_values)
    table = ValueTable.load(path)
    if (table.about, table.locale) != (about, args.surrogate_locale):
        raise ValueError(
            f"{path} was counted for other rows, units, kinds or settings. Go on with those, or choose another "
            "output_dir: a second table is a second release."
        )
    entry = LedgerEntry(
        "noised table of values",
        scope=FLAGGED_VALUES,
        unit=unit,
        neighbours="change its values",
        releases=1,
        delta=delta,
        noise_multiplier=multiplier,
        caveat="what the tagger misses, kinds, shapes and places of values, and what the teacher says are not covered",
    )
    return table, entry


def _digest(reading: Reading, task: Task, dataset: Dataset) -> str:
    """Hash the texts that are counted; kept where the texts are known anyway."""
    digest, rows = xxhash.xxh3_128(), 0
    for texts in task.texts(dataset, reading):
        rows += len(texts)
        for text in texts:
            digest.update(text.encode(errors="surrogatepass") + b"\0")
    if rows != len(dataset):
        raise ValueError(
            f"{len(dataset) - rows} of {len(dataset)} rows have no text (None, or no string). Drop them first, such "
            "as dataset.filter(lambda row: isinstance(row['text'], str))."
        )
    return digest.hexdigest()


def _values(
    reading: Reading, args: PrivateDistillationConfig, task: Task, dataset: Dataset
) -> list[list[tuple[str, str]]]:
    """List the values of each row, with their labels."""
    tagger = reading.tagger
    assert tagger is not None
    labels, rows = tagger_labels(tagger), []
    for texts in task.texts(dataset, reading):
        for text, tags in zip(texts, tag_texts(tagger, texts), strict=True):
            spans = private_spans(tags, args.private_threshold)
            rows.append([(text[start:end], labels[label]) for start, end, label in spans])
    return rows
