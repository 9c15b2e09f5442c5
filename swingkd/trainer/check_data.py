"""Checks of the rows before the first step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel
from transformers.trainer_utils import SaveStrategy

from swingkd.data.columns import IGNORE, TEACHER_AT, flat, in_parts, row_lengths, stored
from swingkd.data.prepare import column_names
from swingkd.tagging import THRESHOLD
from swingkd.trainer.check_models import positions
from swingkd.trainer.config import PrivateDistillationConfig

log = logging.getLogger(__name__)
# Rows that a share is taken of.
_LOOKED_AT = 1000


def check_kind(dataset: Any, name: str, several: bool = True, named: bool = True) -> None:
    """Refuse what is no data set of the `datasets` library: its rows could not be tokenised and tagged.

    Args:
        dataset: what was given; `None`, or the name of an evaluation set, is nobody's business here.
        name: of the argument.
        several: whether a dict of data sets may be given.
        named: whether the name of one of several may be.

    Raises:
        ValueError: says what to make of it.
    """
    if isinstance(dataset, dict):
        if several:
            for part, rows in dataset.items():
                check_kind(rows, f"{name}[{part!r}]", several=False, named=False)
            return
        parts = ", ".join(map(repr, dataset))
        raise ValueError(
            f"{name} is a {type(dataset).__name__} with the splits {parts}. Pass one of them: "
            f"{name}=dataset[{next(iter(dataset), 'train')!r}]."
        )
    if dataset is None or isinstance(dataset, (Dataset, IterableDataset)) or (named and isinstance(dataset, str)):
        return
    how = "Dataset.from_pandas(rows)" if hasattr(dataset, "iloc") else "Dataset.from_list([dict(row) for row in rows])"
    raise ValueError(
        f"{name} is a {type(dataset).__module__}.{type(dataset).__qualname__}. Make it a data set of the datasets "
        f"library, so that its text can be tagged: {how}."
    )


def check_best_metric(args: PrivateDistillationConfig, evaluation: Any) -> None:
    """Refuse to look for the best model by a metric of no data set, where there are several.

    Raises:
        ValueError: names one that there will be.
    """
    metric = args.metric_for_best_model
    if not isinstance(evaluation, dict) or metric is None or not (args.load_best_model_at_end or _saves_best(args)):
        return
    name = metric.removeprefix("eval_")
    if not name.startswith((*(f"{part}_" for part in evaluation), "audit_")):
        raise ValueError(
            f"metric_for_best_model={metric!r} is of none of the data sets {', '.join(map(repr, evaluation))}. Say "
            f"which one decides: metric_for_best_model='eval_{next(iter(evaluation), 'name')}_{name}'."
        )


def _saves_best(args: PrivateDistillationConfig) -> bool:
    return args.save_strategy == SaveStrategy.BEST


def check_rows(dataset: Dataset | IterableDataset, models: dict[str, PreTrainedModel]) -> None:
    """Refuse an empty data set, and tokenised rows that are longer than the positions of a model (by its role)."""
    if not isinstance(dataset, Dataset):
        return
    if not len(dataset):
        raise ValueError("The data set is empty: no row is left after tokenising.")
    if "input_ids" not in dataset.column_names:
        return
    longest = int(row_lengths(dataset).max())
    for role, model in models.items():
        allowed = positions(model)
        if allowed is not None and longest > allowed:
            raise ValueError(
                f"The longest tokenised row has {longest} tokens, the {role} model allows {allowed}. Cut the rows, or "
                "pass packing=True to have them cut into blocks of max_length."
            )


def _values(dataset: Dataset, column: str) -> Iterator[pa.ChunkedArray]:
    """Yield the numbers of a column in parts, of all tokens where it holds lists."""
    return map(flat, in_parts(dataset, column))


def check_fresh_masks(args: PrivateDistillationConfig) -> None:
    """Refuse workers that would go on with the masks of the first epoch.

    Raises:
        ValueError: they are persistent.
    """
    if args.dataloader_persistent_workers:
        raise ValueError(
            "dataloader_persistent_workers=True keeps the masks of the first epoch. Leave it out for fill-mask."
        )


def check_something_to_learn(dataset: Dataset | IterableDataset, alpha: float) -> None:
    """Refuse data in which no token has a label; warn of tokens that no teacher predicts, where it has all the say.

    Args:
        dataset: the prepared rows.
        alpha: weight of the teacher.

    Raises:
        ValueError: no token has a label.
    """
    if not isinstance(dataset, Dataset) or "labels" not in dataset.column_names:
        return
    if not any(pc.any(pc.not_equal(part, IGNORE)).as_py() for part in _values(dataset, "labels")):
        raise ValueError(
            "No token of the training set has a label, so nothing would be learnt. Prompts longer than max_length "
            "leave nothing of their completions: raise max_length, or pass completion_only_loss=False."
        )
    if TEACHER_AT in dataset.column_names and alpha == 1:
        some = dataset.select(range(min(len(dataset), _LOOKED_AT))).with_format("numpy")
        learnt = np.concatenate([row[1:] != IGNORE for row in some["labels"]])
        asked = np.concatenate([row[1:] > 0 for row in some[TEACHER_AT]])
        log.warning(
            "Of %.0f %% of the tokens the teacher says nothing: they stand in the middle of tokens of its own. With "
            "alpha=1 nothing is learnt of them; a smaller alpha learns the text there.",
            100 * (1 - (asked & learnt).sum() / max(learnt.sum(), 1)),
        )


def check_something_private(
    dataset: Dataset | IterableDataset, protection: str | None, threshold: float = THRESHOLD
) -> None:
    """Refuse to protect nothing: no likelihood at all, or one that is below the threshold everywhere."""
    columns = column_names(dataset)
    if "pii_likelihood" not in columns and {"image", "pixel_values"} & set(columns):
        raise ValueError(
            f"protection={protection!r} needs to know which images are private: say so in a column pii_likelihood "
            "(0 to 255), or choose protection='none' for ordinary distillation."
        )
    if "pii_likelihood" not in columns:
        raise ValueError(
            f"protection={protection!r} needs to know which tokens are private, but there is neither a tagger nor a "
            "pii_likelihood column. Pass tagger=RuleTagger(), or protection='none' for ordinary distillation."
        )
    if protection == "drop" and isinstance(dataset, Dataset) and _all_sure(dataset, threshold):
        raise ValueError(
            "protection='drop' leaves out what is private, and all of the training set is: nothing "
            "would be learnt. Choose another protection, or another tagger (swingkd tag shows what it finds)."
        )
    if isinstance(dataset, Dataset) and not any(
        pc.any(pc.greater_equal(part, int(stored(threshold)))).as_py() for part in _values(dataset, "pii_likelihood")
    ):
        raise ValueError(
            f"The tagger found nothing private in the training set: no likelihood is {threshold} or more, and nothing "
            "would be protected. Check the tagger on a few texts (swingkd tag), or pass tagger=None with "
            "protection='none'."
        )


def _all_sure(dataset: Dataset, threshold: float) -> bool:
    sure = int(stored(threshold))
    return all(pc.all(pc.greater_equal(part, sure)).as_py() for part in _values(dataset, "pii_likelihood"))


def check_dp_rows(unit: str, dataset: Dataset | IterableDataset | None) -> None:
    """Refuse data that cannot be sampled by unit, before it is tokenised.

    Args:
        unit: "record", or the column that names users.
        dataset: the rows.
    """
    if dataset is None:
        return
    check_kind(dataset, "train_dataset", several=False, named=False)
    if not isinstance(dataset, Dataset):
        raise ValueError(
            "A stream cannot be sampled with known probability, so no guarantee would hold. Make it a map-style data "
            "set: Dataset.from_generator(...)."
        )
    check_unit(unit, dataset)


def check_unit(unit: str, dataset: Dataset) -> None:
    """Refuse a column of units that is missing, or holds lists."""
    if unit != "record" and unit not in dataset.column_names:
        raise ValueError(
            f"privacy_unit={unit!r} is no column of the training set ("
            f"{', '.join(dataset.column_names)}). Name the column that says whose row it is, or 'record'."
        )
    first = dataset.with_format(None)[:1][unit] if unit != "record" else []
    if first and isinstance(first[0], (list, dict)):
        raise ValueError(f"privacy_unit={unit!r} holds lists; names or numbers of users are needed, one a row.")
