"""From text to batches: tokenise, put the tagger's findings beside the ids, pack, pad.

Every row becomes `input_ids`, `labels` and four columns about privacy, one value per token:

- `pii_likelihood` (uint8): 0 = ordinary ... 255 = surely private;
- `pii_group` (int32): what the tagger found and where in its span the token stands (`swingkd.targets.population`);
- `pii_shape` (int64): what the span's text before the token looks like: two hashes, of its shape ("9-9" for "212-55")
  and of its last character;
- `pii_span` (int64): a hash of the span's text, so that copies of one secret can be counted once.

They describe the token *itself*; the loss reads them at the position that predicts it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from swingkd.data.aligned import aligned
from swingkd.data.columns import FOLD, IGNORE, PII_COLUMNS, TEACHER_AT, VERSION, add_facts, in_parts, rows_of
from swingkd.data.made_up import learnt_alike, made_up
from swingkd.data.packing import PackingStrategy, pack
from swingkd.data.padding import OF_EACH_TOKEN, as_here, unpadded
from swingkd.data.rendering import readable, reader
from swingkd.data.retag import tag_tokenised
from swingkd.data.spans import token_facts
from swingkd.data.teacher_columns import TEACHER_COLUMNS
from swingkd.surrogates import Surrogates
from swingkd.tagging import THRESHOLD, Tagger, tag_texts
from swingkd.tagging.base import tagger_labels
from swingkd.tagging.identity import code_fingerprint
from swingkd.tagging.windows import check_fast_tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSettings:
    """How rows become tokens.

    Args:
        text_field: the column with the text, for rows of plain text; of sentence pairs, the two columns.
        max_length: longest row or block, in tokens.
        packing: how rows are joined into blocks of `max_length`, see `pack`; `None`: they are not.
        completion_only_loss: learn only the completion; default: yes for prompt/completion rows.
        assistant_only_loss: learn only the assistant's turns (the chat template must mark them).
        dilation: how many neighbouring tokens inherit a private token's likelihood.
        label_field: the column with the labels of a classifier; `None`: the first of the usual names.
        example_likelihood: how an example that has one label inherits the likelihood of its tokens: "max" or "mean".
        threshold: from which likelihood on something is private, where it is replaced.
    """

    text_field: str | list[str] = "text"
    max_length: int = 1024
    packing: PackingStrategy | None = None
    completion_only_loss: bool | None = None
    assistant_only_loss: bool = False
    dilation: int = 1
    label_field: str | None = None
    example_likelihood: Literal["max", "mean"] = "max"
    threshold: float = THRESHOLD


def column_names(dataset: Dataset | IterableDataset) -> list[str]:
    """Return the columns, of a stream by looking at its first row."""
    return dataset.column_names or list(next(iter(dataset), {}))


def has_transform(dataset: Dataset | IterableDataset) -> bool:
    """Tell whether rows go through a function of the user's when they are read (`with_transform`)."""
    return isinstance(dataset, Dataset) and dataset.format["type"] == "custom"


def unformatted(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Return rows of plain numbers and lists, whatever format the user works with.

    Raises:
        ValueError: they go through a transform, which could show other text than was tagged.
    """
    if has_transform(dataset):
        raise ValueError(
            "The dataset has a transform (with_transform), which could show the student other text than was tagged. "
            "Apply it with map() instead."
        )
    return dataset.with_format(None)


def prepare_dataset(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    tagger: Tagger | None,
    settings: DataSettings,
    *,
    num_proc: int | None = None,
    description: str = "train",
    keep: tuple[str, ...] = (),
    first: int = 0,
    surrogates: Surrogates | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_length: int | None = None,
) -> Dataset | IterableDataset:
    """Tokenise and tag a dataset.

    Args:
        dataset: rows with `text`, `prompt` and `completion`, `messages`, or ready `input_ids`; map-style or streaming.
        tokenizer: a fast tokenizer.
        tagger: what rates the characters; `None`: nothing is private.
        settings: see `DataSettings`.
        num_proc: processes for map-style data.
        description: shown beside the progress bar.
        keep: other columns to keep, of rows that are not packed.
        first: the number of a packed row's first position, see `models.inputs.first_position`.
        surrogates: puts made-up values in the place of what the tagger finds; `None`: texts stay as they are.
        teacher_tokenizer: the teacher's own fast tokenizer, where it has another one.
        teacher_length: how many of its tokens the teacher reads; what stands behind them has none of its answers.

    Raises:
        ValueError: slow tokenizer, unknown columns, a row without text, a transform, or likelihoods that are no uint8.
    """
    dataset = unformatted(dataset)
    columns = column_names(dataset)
    if surrogates is not None and ("input_ids" in columns or tagger is None):
        raise ValueError(
            "Surrogates take the place of what a tagger finds in text, and "
            + ("the rows are tokenised already. Pass the text." if tagger else "there is no tagger. Pass one.")
        )
    if "input_ids" in columns:
        if teacher_tokenizer is not None and not {"teacher_input_ids", TEACHER_AT} <= set(columns):
            raise ValueError(
                "The dataset is tokenised already, so it cannot be tokenised for the teacher. Pass the text."
            )
        if tagger is not None and "pii_likelihood" not in columns and readable(columns, settings):
            known = {"tokenizer": tokenizer, "tagger": tagger, "settings": settings}
            known["read"] = reader(columns, tokenizer, settings)
            dataset = retagged(dataset, tag_tokenised, known)
        prepared = ready(as_here(dataset, columns, settings), tagger, OF_EACH_TOKEN)
    else:
        check_fast_tokenizer(tokenizer)
        read = reader(columns, tokenizer, settings)
        options: dict[str, Any] = {"batched": True, "remove_columns": [c for c in columns if c not in keep]}
        if isinstance(dataset, Dataset):
            options |= {"num_proc": num_proc, "desc": f"Tagging and tokenising ({description})"}
        known = {"read": read, "tokenizer": tokenizer, "tagger": tagger, "settings": settings}
        if surrogates is not None:
            known["surrogates"] = surrogates
        if teacher_tokenizer is not None:
            check_fast_tokenizer(teacher_tokenizer)
            known |= {"teacher_tokenizer": teacher_tokenizer, "teacher_length": teacher_length}
        prepared = tagged_map(dataset, _tokenise, known, with_indices=True, **options)
    if settings.packing and not set(TEACHER_COLUMNS) & set(columns):
        known = {"strategy": settings.packing, "length": settings.max_length, "first": first}
        options = {"batched": True, "batch_size": 10_000, "fn_kwargs": known}
        prepared = prepared.select_columns([c for c in column_names(prepared) if c in (*OF_EACH_TOKEN, FOLD)])
        if isinstance(prepared, Dataset):
            options |= {"desc": f"Packing ({description})"}
        prepared = prepared.map(pack, **options)
    return prepared


def rendered(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, settings: DataSettings, at_once: int = 1000
) -> Iterator[list[str]]:
    """Yield the texts of rows, some at a time, as they are tagged.

    Args:
        dataset: rows of text or chats.
        tokenizer: with a chat template, where there are chats.
        settings: see `DataSettings`.
        at_once: how many.

    Raises:
        ValueError: none of the columns can be read.
    """
    dataset = unformatted(dataset)
    read = reader(column_names(dataset), tokenizer, settings)
    for batch in dataset.iter(at_once):
        texts = [read(row).text for row in rows_of(batch)]
        yield [text for text in texts if isinstance(text, str)]


def tagged_map(
    dataset: Dataset | IterableDataset, function: Callable[..., dict[str, list]], known: dict[str, Any], **options: Any
) -> Dataset | IterableDataset:
    """Tokenise and tag rows as `dataset.map` does; what code wrote that changed since is not used again.

    Args:
        dataset: map-style or streaming.
        function: of a batch, and of what is known.
        known: its arguments, a `tagger` among them, and `surrogates` where there are some.
        **options: of `dataset.map`.
    """
    version = f"{VERSION} {code_fingerprint(known['tagger'], known.get('surrogates'))}"
    began = time.time()
    mapped = dataset.map(function, fn_kwargs=known | {"version": version}, **options)
    files = [file["filename"] for file in mapped.cache_files] if isinstance(mapped, Dataset) else []
    own = [name for name in files if name not in {file["filename"] for file in getattr(dataset, "cache_files", [])}]
    if known["tagger"] is not None and own and all(os.path.getmtime(name) < began - 1 for name in own):
        log.warning(
            "The tags come from the cache of an earlier run, with the same text, settings and tagger. To tag anew, "
            "call datasets.disable_caching() first."
        )
    return mapped


def retagged(
    dataset: Dataset | IterableDataset, function: Callable[..., dict[str, list]], known: dict[str, Any]
) -> Dataset | IterableDataset:
    """Tag rows that are tokenised already and still have their text.

    Args:
        dataset: map-style or streaming.
        function: of a batch, its rows' numbers, and of what is known.
        known: its arguments, a fast `tokenizer` and a `tagger` among them.

    Raises:
        ValueError: the tokenizer is a slow one, or a row's tokens are not those of its text.
    """
    check_fast_tokenizer(known["tokenizer"])
    return tagged_map(dataset, function, known, batched=True, with_indices=True)


def ready(
    dataset: Dataset | IterableDataset, tagger: Tagger | None, of_each_token: tuple[str, ...]
) -> Dataset | IterableDataset:
    """Return data that is tokenised already, without padding.

    Args:
        dataset: the rows.
        tagger: what would rate the text.
        of_each_token: the columns with a value for each token.

    Raises:
        ValueError: a tagger is to read text that is not there any more, or a mask is no padding's.
    """
    names = column_names(dataset)
    if tagger is not None and "pii_likelihood" not in names:
        raise ValueError(
            "The dataset is tokenised already and its text is gone, so the tagger cannot read it. Keep the text in "
            "its column, or pass the text instead, or add a "
            "pii_likelihood column (uint8, one value per token; swingkd.data.prepare_dataset writes it)."
        )
    for prefix in ("", "teacher_"):
        dataset = unpadded(dataset, names, of_each_token, prefix)
    _check_not_empty(dataset)
    return dataset


def _check_not_empty(dataset: Dataset | IterableDataset) -> None:
    """Refuse rows without tokens that somebody else tokenised; an empty text of the user's is its own affair."""
    if not isinstance(dataset, Dataset):
        return
    first = 0
    for ids in in_parts(dataset, "input_ids"):
        empty = pc.equal(pc.list_value_length(ids), 0) if pa.types.is_nested(ids.type) else None
        if empty is not None and pc.any(empty).as_py():
            row = first + pc.index(empty, True).as_py()
            raise ValueError(f"The column input_ids has no token in row {row}. Drop such rows.")
        first += len(ids)


def _tokenise(
    batch,
    indices,
    read,
    tokenizer,
    tagger,
    settings,
    version,
    surrogates=None,
    teacher_tokenizer=None,
    teacher_length=None,
):
    rows = [read(row) for row in rows_of(batch)]
    texts = [row.text for row in rows]
    if not all(isinstance(text, str) for text in texts):
        without = sum(not isinstance(text, str) for text in texts)
        raise ValueError(
            f"{without} of {len(rows)} rows have no text (None, or no string). Drop them first, such as "
            "dataset.filter(lambda row: isinstance(row['text'], str))."
        )
    options = {"return_offsets_mapping": True, "return_attention_mask": False}
    encode = partial(tokenizer, add_special_tokens=not rows[0].templated, **options)
    tags = tag_texts(tagger, texts) if tagger is not None else [None] * len(rows)
    if surrogates is None:
        encoded = encode(texts)
    else:
        made = made_up(texts, tags, indices, tagger_labels(tagger), surrogates, settings.threshold)
        encoded, tags = encode([one.text for one in made]), [one.tags for one in made]
        # The old text's tokens say what is learnt only where a chat's template marks them.
        marked = any(row.learn is not None for row in rows)
        before = encode(texts)["offset_mapping"] if marked else [[] for _ in rows]
        rows = [learnt_alike(*each) for each in zip(rows, made, before, encoded["offset_mapping"], strict=True)]
    cut = settings.max_length if settings.packing in (None, "bfd") else None
    out: dict[str, list] = {key: [] for key in ("input_ids", "labels")}
    places: list[np.ndarray] = []
    if tagger is not None:
        out |= {key: [] for key in PII_COLUMNS}
    for row, ids, offsets, char_tags in zip(rows, encoded["input_ids"], encoded["offset_mapping"], tags, strict=True):
        ids, offsets = np.array(ids, np.int64), np.array(offsets, np.int64).reshape(-1, 2)
        learnt = offsets[:, 1] > row.learn_from if row.learn_from else np.ones(len(ids), bool)
        if row.learn is not None:
            learnt &= np.array(row.learn, bool)
        end = tokenizer.eos_token_id
        if end is not None and not row.templated:
            if not len(ids) or ids[-1] != end:
                ids, learnt = np.append(ids, end), np.append(learnt, True)
                offsets = np.concatenate([offsets, np.full((1, 2), len(row.text))])
            learnt[-1] = True
        out["input_ids"].append(ids[:cut])
        out["labels"].append(np.where(learnt, ids, IGNORE)[:cut])
        places.append(offsets[:cut])
        if char_tags is None:
            continue
        add_facts(out, token_facts(row.text, char_tags, offsets, settings.dilation).at(slice(cut)))
    if teacher_tokenizer is not None:
        out |= _teacher_columns(out, rows, places, tokenizer, teacher_tokenizer, teacher_length)
    return out


def _teacher_columns(out, rows, every, tokenizer, teacher_tokenizer, longest):
    """Return the tokens of the teacher's own, of as much of each text as the student reads, and which are which."""
    texts = [row.text[: offsets[:, 1].max(initial=0)] for row, offsets in zip(rows, every, strict=True)]
    encoded = teacher_tokenizer(texts, add_special_tokens=not rows[0].templated, return_offsets_mapping=True)
    begin, end = _begins_with(teacher_tokenizer), teacher_tokenizer.eos_token_id
    columns: dict[str, list] = {"teacher_input_ids": [], TEACHER_AT: []}
    pairs = zip(out["input_ids"], every, texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    for ids, offsets, text, own, places in pairs:
        own, places = np.array(own, np.int64), np.array(places, np.int64).reshape(-1, 2)
        if begin is not None and own[:1] != begin:
            # A chat's template is the student's, and writes no beginning of the teacher's.
            own, places = np.append(begin, own), np.concatenate([np.zeros((1, 2), np.int64), places])
        if len(ids) and ids[-1] == tokenizer.eos_token_id and end is not None and own[-1:] != end:
            own, places = np.append(own, end), np.concatenate([places, np.full((1, 2), len(text))])
        columns["teacher_input_ids"].append(own[:longest])
        columns[TEACHER_AT].append(aligned(offsets, places[:longest]))
    return columns


def _begins_with(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that a tokenizer puts before every text; `None` where it puts none."""
    first = tokenizer("a")["input_ids"][0]
    return first if first == tokenizer.bos_token_id else None
