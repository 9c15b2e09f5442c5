"""The records of an audit: texts, prompts with completions, or labelled examples, and where each was read.

Every error names the record: `members.jsonl:17` for one that was read from a file, `members[16]` for one in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from datasets import Dataset, load_dataset, load_from_disk
from sklearn.feature_extraction.text import HashingVectorizer
from transformers import PreTrainedConfig

from swingkd.data.row_files import load_file, row_file
from swingkd.models.class_labels import class_number, described

ORIGIN = "read_from"
_LABELS = ("label", "labels")
# Texts that share more of their runs of words (Jaccard) are one text; texts that are compared at a time.
_ALIKE, _AT_ONCE = 0.8, 500
Data: TypeAlias = Dataset | Sequence[str]


@dataclass(frozen=True)
class TextRecords:
    """Texts to be scored.

    Args:
        texts: whole texts, prompt included.
        starts: the character at which the scored part begins; 0 where there is no prompt.
        names: what each record is called in errors.
    """

    texts: list[str] = field(repr=False)
    starts: list[int]
    names: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def keys(self) -> list[str]:
        """Return what two equal records share."""
        return self.texts

    def distinct(self) -> tuple[TextRecords, np.ndarray]:
        """Return each record once, and which of them every record is, [records]."""
        first, which = first_copies(list(zip(self.texts, self.starts, strict=True)))
        return TextRecords(*([own[i] for i in first] for own in (self.texts, self.starts, self.names))), which

    def __add__(self, other: TextRecords) -> TextRecords:
        return TextRecords(self.texts + other.texts, self.starts + other.starts, self.names + other.names)


@dataclass(frozen=True)
class LabelledRecords:
    """Examples of a classifier.

    Args:
        inputs: texts, or images.
        labels: [n] ids of the true classes.
        names: what each record is called in errors.
    """

    inputs: list[Any] = field(repr=False)
    labels: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def keys(self) -> list[str | bytes]:
        """Return what two equal records share."""
        return [given if isinstance(given, str) else np.asarray(given).tobytes() for given in self.inputs]

    def distinct(self) -> tuple[LabelledRecords, np.ndarray]:
        """Return each record once, and which of them every record is, [records]."""
        first, which = first_copies(list(zip(self.keys(), self.labels.tolist(), strict=True)))
        inputs, names = ([own[i] for i in first] for own in (self.inputs, self.names))
        return LabelledRecords(inputs, self.labels[first], names), which

    def __add__(self, other: LabelledRecords) -> LabelledRecords:
        labels = np.concatenate([self.labels, other.labels])
        return LabelledRecords(self.inputs + other.inputs, labels, self.names + other.names)


def read_records(source: str | Path) -> Dataset:
    """Read records and remember where each was found.

    Args:
        source: a file of rows (.jsonl, .txt, .csv, .tsv, .parquet, ..., perhaps compressed), a folder of
            `save_to_disk`, or a data set on the Hub.

    Raises:
        ValueError: there is no such file, it is empty, or a line cannot be read; names the file and the line.
    """
    path, file = Path(source), row_file(source)
    if file is not None and file.ending in (".jsonl", ".txt") and not file.compressed:
        rows, lines = [], []
        # Not splitlines(): JSON strings may hold the rarer line separators.
        for number, line in enumerate(_read(path).split("\n"), 1):
            if line.strip():
                rows.append(_parse(line, path, number) if file.kind == "json" else {"text": line})
                lines.append(f"{path}:{number}")
        columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}
        try:
            data = Dataset.from_dict({**columns, ORIGIN: lines})
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            # Not with their words, which quote the text.
            raise ValueError(f"{path}: a field holds text in one line and something else in another.") from None
    else:
        if file is not None:
            data = load_file(path, file)
        elif (path / "state.json").exists():
            data = load_from_disk(path)
        else:
            data = load_dataset(str(source), split="train")
        data = data.add_column(ORIGIN, [f"{source}: row {i + 1}" for i in range(len(data))])
    if not len(data):
        raise ValueError(f"{source} is empty: there is no record in it.")
    return data


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from None


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{number}: this line is no JSON ({error.msg} at character {error.colno}).") from error
    if not isinstance(row, dict):
        raise ValueError(f'{path}:{number}: this line is no record. Write one object a line, such as {{"text": "…"}}.')
    return row


def text_records(data: Data, side: str) -> TextRecords:
    """Take the texts out of a data set, or a list of texts.

    Args:
        data: texts, or a data set with the column `text`, or with `prompt` and `completion`.
        side: what errors call the data ("members").

    Raises:
        ValueError: there is no record, no such column, or a record without text.
    """
    columns, names = _columns(data, side)
    if {"prompt", "completion"} <= columns.keys():
        prompts, completions = [prompt or "" for prompt in columns["prompt"]], columns["completion"]
    elif "text" in columns:
        prompts, completions = [""] * len(names), columns["text"]
    else:
        raise ValueError(
            f"The {side} have the columns {', '.join(columns)}; 'text' is needed, or 'prompt' and 'completion'."
        )
    for name, prompt, completion in zip(names, prompts, completions, strict=True):
        if not isinstance(prompt, str) or not isinstance(completion, str) or not completion.strip():
            raise ValueError(f"{name}: there is no text. Drop the record, or fill it in.")
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    return TextRecords(texts, [len(prompt) for prompt in prompts], names)


def labelled_records(data: Data, side: str, config: PreTrainedConfig) -> LabelledRecords:
    """Take examples and labels out of a data set.

    Args:
        data: a data set with the column `text` or `image` and the column `label` or `labels`.
        side: what errors call the data.
        config: the model's, which names its classes.

    Raises:
        ValueError: there is no record, no such column, or a label that the model does not have.
    """
    columns, names = _columns(data, side)
    inputs = next((columns[name] for name in ("image", "img", "text") if name in columns), None)
    answers = next((columns[name] for name in _LABELS if name in columns), None)
    if inputs is None or answers is None:
        raise ValueError(
            f"The {side} have the columns {', '.join(columns)}; a classifier's need 'text' or 'image', and 'label'."
        )
    labels = []
    for name, given, label in zip(names, inputs, answers, strict=True):
        if given is None or (isinstance(given, str) and not given.strip()):
            raise ValueError(f"{name}: there is neither text nor image. Drop the record, or fill it in.")
        number = class_number(label, config)
        if number is None:
            raise ValueError(
                f"{name}: the label ({described(label)}) is none of the model's {config.num_labels} classes. Give its "
                "number, or its name in the model's config."
            )
        labels.append(number)
    return LabelledRecords(list(inputs), np.array(labels), names)


def check_no_overlap(inside: TextRecords | LabelledRecords, outside: TextRecords | LabelledRecords) -> None:
    """Refuse a record that is said to be a member and not to be one.

    Raises:
        ValueError: names both places.
    """
    where = dict(zip(inside.keys(), inside.names, strict=True))
    for key, name in zip(outside.keys(), outside.names, strict=True):
        if key in where:
            raise ValueError(f"{name} is the same record as {where[key]}: it cannot be in and out. Drop one of them.")


def first_copies(keys: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of each different key's first copy, and the number of its key for every place.

    Copies are no evidence of their own: a model that says one thing of a record says it of each copy.
    """
    numbers: dict[Hashable, int] = {}
    which = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    return np.unique(which, return_index=True)[1], which


def copies_note(records: int, distinct: int) -> tuple[str, ...]:
    """Say how many records are copies of others, or nothing."""
    if records == distinct:
        return ()
    return (f"{records - distinct} of {records} records are copies of others; each is counted once",)


def near_duplicates(both: TextRecords | LabelledRecords, members: int) -> tuple[str, ...]:
    """Say how many texts are in and, but for a few words, out as well: no attack could tell them apart.

    Args:
        both: all records, members first.
        members: how many of them are.

    Returns:
        A note, or nothing.
    """
    texts = both.texts if isinstance(both, TextRecords) else both.inputs
    if not all(isinstance(text, str) for text in texts):
        return ()
    # Runs of up to three words, whatever their case and punctuation; digits one by one.
    reader = HashingVectorizer(
        ngram_range=(1, 3), binary=True, norm=None, alternate_sign=False, token_pattern=r"[^\W\d_]+|\d"
    )
    rows = reader.transform(texts)
    sizes = np.maximum(np.asarray(rows.sum(1))[:, 0], 1)
    inside, outside, near = rows[:members], rows[members:].T.tocsc(), 0
    for start in range(0, members, _AT_ONCE):
        shared = (inside[start : start + _AT_ONCE] @ outside).toarray()
        own = sizes[start : start + len(shared), None]
        near += int((shared / (own + sizes[members:] - shared) > _ALIKE).any(1).sum())
    if not near:
        return ()
    return (
        f"{near} of {members} members are nearly the same text as a record on the other side: no attack could tell "
        "these apart, so the numbers are too low. Keep copies on one side",
    )


def _columns(data: Data, side: str) -> tuple[dict[str, Any], list[str]]:
    if isinstance(data, str):
        raise ValueError(f"The {side} are one text. Give a list of texts, or a file's by read_records.")
    if not len(data):
        raise ValueError(f"There are no {side}: an attack needs records of both kinds.")
    if not isinstance(data, Dataset):
        return {"text": list(data)}, [f"{side}[{i}]" for i in range(len(data))]
    columns = {name: data[name][:] for name in data.column_names}
    return columns, columns.pop(ORIGIN, [f"{side}[{i}]" for i in range(len(data))])


def rows_digest(rows: Any, key: bytes) -> tuple[str, int]:
    """Return a keyed digest of records (HMAC with SHA-256) and how many there are.

    Whoever has the records and the key can tell that they were these.  Without the key nobody can try values.

    Args:
        rows: a data set, texts, or canaries.
        key: it stays with whoever was audited.

    Raises:
        ValueError: a record holds something whose bytes are not its own.
    """
    digest, count = hmac.new(key, digestmod="sha256"), 0
    for row in rows:
        known = asdict(row) if is_dataclass(row) and not isinstance(row, type) else row
        own = {k: v for k, v in known.items() if k != ORIGIN} if isinstance(known, dict) else known
        digest.update(json.dumps(own, sort_keys=True, default=_plain, ensure_ascii=False).encode() + b"\n")
        count += 1
    return digest.hexdigest(), count


def _plain(value: Any) -> Any:
    if hasattr(value, "tobytes") and hasattr(value, "mode"):  # an image
        return [value.mode, *value.size, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise ValueError(f"A record holds a {type(value).__name__}, which has no digest. Leave that column out.")
