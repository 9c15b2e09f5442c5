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

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from swingkd.data.columns import IGNORE, PII_COLUMNS, VERSION, add_facts, in_parts, rows_of
from swingkd.data.packing import PackingStrategy, pack
from swingkd.data.padding import OF_EACH_TOKEN, as_here, unpadded
from swingkd.data.retag import tag_tokenised
from swingkd.data.spans import token_facts
from swingkd.data.teacher_columns import TEACHER_COLUMNS
from swingkd.tagging import Tagger, tag_texts
from swingkd.tagging.identity import tagger_fingerprint
from swingkd.tagging.windows import check_fast_tokenizer

log = logging.getLogger(__name__)
# Columns that hold chats, and who speaks, as ShareGPT calls them.
_CHATS = ("messages", "conversations")
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant"}


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
    """

    text_field: str | list[str] = "text"
    max_length: int = 1024
    packing: PackingStrategy | None = None
    completion_only_loss: bool | None = None
    assistant_only_loss: bool = False
    dilation: int = 1
    label_field: str | None = None
    example_likelihood: Literal["max", "mean"] = "max"


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

    Raises:
        ValueError: slow tokenizer, unknown columns, a row without text, a transform, or likelihoods that are no uint8.
    """
    dataset = unformatted(dataset)
    columns = column_names(dataset)
    if "input_ids" in columns:
        if tagger is not None and "pii_likelihood" not in columns and readable(columns, settings):
            known = {"tokenizer": tokenizer, "tagger": tagger, "settings": settings}
            known["read"] = _reader(columns, tokenizer, settings)
            dataset = retagged(dataset, tag_tokenised, known)
        prepared = ready(as_here(dataset, columns, settings), tagger, OF_EACH_TOKEN)
    else:
        check_fast_tokenizer(tokenizer)
        read = _reader(columns, tokenizer, settings)
        options: dict[str, Any] = {"batched": True, "remove_columns": [c for c in columns if c not in keep]}
        if isinstance(dataset, Dataset):
            options |= {"num_proc": num_proc, "desc": f"Tagging and tokenising ({description})"}
        known = {"read": read, "tokenizer": tokenizer, "tagger": tagger, "settings": settings}
        prepared = tagged_map(dataset, _tokenise, known, **options)
    if settings.packing and not set(TEACHER_COLUMNS) & set(columns):
        known = {"strategy": settings.packing, "length": settings.max_length, "first": first}
        options = {"batched": True, "batch_size": 10_000, "fn_kwargs": known}
        prepared = prepared.select_columns([c for c in column_names(prepared) if c in OF_EACH_TOKEN])
        if isinstance(prepared, Dataset):
            options |= {"desc": f"Packing ({description})"}
        prepared = prepared.map(pack, **options)
    return prepared


def tagged_map(
    dataset: Dataset | IterableDataset, function: Callable[..., dict[str, list]], known: dict[str, Any], **options: Any
) -> Dataset | IterableDataset:
    """Tokenise and tag rows as `dataset.map` does; tags of a tagger whose code changed are not used again.

    Args:
        dataset: map-style or streaming.
        function: of a batch, and of what is known.
        known: its arguments, a `tagger` among them.
        **options: of `dataset.map`.
    """
    version = f"{VERSION} {tagger_fingerprint(known['tagger'])}"
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


@dataclass(frozen=True)
class _Rendered:
    """One row as text; `learn_from` is the first character that the loss counts; `learn` marks tokens instead."""

    text: str | None
    learn_from: int = 0
    learn: list[int] | None = None
    templated: bool = False


class _TextReader:
    def __init__(self, field: str):
        self.field = field

    def __call__(self, row: dict[str, Any]) -> _Rendered:
        return _Rendered(row[self.field])


def _template_inputs(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a chat template reads beside the messages, as TRL names it: tools (perhaps as JSON) and others."""
    tools = row.get("tools")
    known: dict[str, Any] = {"tools": json.loads(tools) if isinstance(tools, str) else tools} if tools else {}
    return known | (row.get("chat_template_kwargs") or {})


class _CompletionReader:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, completion_only: bool, assistant_only: bool):
        self.tokenizer = tokenizer
        self.completion_only = completion_only
        self.assistant_only = assistant_only

    def __call__(self, row: dict[str, Any]) -> _Rendered:
        prompt, completion = row["prompt"], row["completion"]
        if completion is None:
            return _Rendered(None)
        if isinstance(prompt, str) or prompt is None:
            _check_turns(self.assistant_only)
            prompt = prompt or ""
            return _Rendered(prompt + completion, len(prompt) if self.completion_only else 0)
        known = _template_inputs(row)
        prompt, completion = chat_turns(prompt), chat_turns(completion)
        start = self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **known)
        text = self.tokenizer.apply_chat_template(prompt + completion, tokenize=False, **known)
        if not text.startswith(start):
            raise ValueError(
                "The chat template renders a prompt differently once the completion follows, so the completion cannot "
                "be told apart. Pass completion_only_loss=False, or use a template whose prompt is a prefix."
            )
        learn = _assistants(self.tokenizer, prompt + completion, known) if self.assistant_only else None
        return _Rendered(text, len(start) if self.completion_only else 0, learn, templated=True)


class _MessagesReader:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, assistant_only: bool, column: str = "messages"):
        self.tokenizer = tokenizer
        self.assistant_only = assistant_only
        self.column = column

    def __call__(self, row: dict[str, Any]) -> _Rendered:
        known, turns = _template_inputs(row), chat_turns(row[self.column])
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, **known)
        learn = _assistants(self.tokenizer, turns, known) if self.assistant_only else None
        return _Rendered(text, learn=learn, templated=True)


def _assistants(tokenizer: PreTrainedTokenizerBase, turns: list[dict], known: dict[str, Any]) -> list[int]:
    """Return which tokens of a chat its template marks as the assistant's."""
    marked = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True, **known)
    if not any(marked["assistant_masks"]):
        raise ValueError(
            "assistant_only_loss=True, but the chat template marks no assistant token. Wrap the assistant's text "
            "in {% generation %} ... {% endgeneration %} in the template, or turn the option off."
        )
    return marked["assistant_masks"]


def _check_turns(assistant_only: bool) -> None:
    if assistant_only:
        raise ValueError(
            "assistant_only_loss=True is for chats, and a row is plain text. Leave it out, or pass rows of messages."
        )


def chat_turns(turns: Any) -> list[dict[str, Any]]:
    """Return the turns of a chat as templates read them: with `role` and `content`.

    Args:
        turns: a list of such, or with `from` and `value`, as ShareGPT has them; perhaps as JSON.

    Raises:
        ValueError: they are something else, of which a template would make an empty text.
    """
    turns = json.loads(turns) if isinstance(turns, str) else turns
    if all(isinstance(turn, dict) and {"from", "value"} <= turn.keys() for turn in turns):
        return [{"role": _ROLES.get(turn["from"], turn["from"]), "content": turn["value"]} for turn in turns]
    if not all(isinstance(turn, dict) and turn.get("role") for turn in turns):
        raise ValueError("A chat's turns need a 'role' and a 'content' each ('from' and 'value' will do).")
    return turns


def readable(columns: Sequence[str], settings: DataSettings) -> bool:
    """Tell whether rows have a text that can be read."""
    own = settings.text_field in columns if isinstance(settings.text_field, str) else False
    return own or bool(set(_CHATS) & set(columns)) or {"prompt", "completion"} <= set(columns)


def _reader(columns: list[str], tokenizer: PreTrainedTokenizerBase, settings: DataSettings):
    """Choose how a row is read by its columns."""
    if not isinstance(settings.text_field, str):
        raise ValueError(
            f"dataset_text_field={settings.text_field} names the two texts of a pair, which a classifier reads. Name "
            "one column."
        )
    pictures = sorted({"image", "images"} & set(columns))
    if pictures:
        raise ValueError(
            f"The dataset has the column {pictures[0]}, and a language model is trained on text alone here. Drop it, "
            "where the text makes sense without."
        )
    for column in _CHATS:
        if column in columns:
            return _MessagesReader(tokenizer, settings.assistant_only_loss, column)
    if "prompt" in columns and "completion" in columns:
        return _CompletionReader(tokenizer, settings.completion_only_loss is not False, settings.assistant_only_loss)
    if settings.text_field in columns:
        _check_turns(settings.assistant_only_loss)
        return _TextReader(settings.text_field)
    raise ValueError(
        f"The dataset has the columns {columns}; none of them can be read. It needs {settings.text_field!r} (set "
        "dataset_text_field to another column), 'prompt' and 'completion', 'messages', or 'input_ids'."
    )


def _tokenise(batch, read, tokenizer, tagger, settings, version):
    rows = [read(row) for row in rows_of(batch)]
    texts = [row.text for row in rows]
    if not all(isinstance(text, str) for text in texts):
        without = sum(not isinstance(text, str) for text in texts)
        raise ValueError(
            f"{without} of {len(rows)} rows have no text (None, or no string). Drop them first, such as "
            "dataset.filter(lambda row: isinstance(row['text'], str))."
        )
    encoded = tokenizer(
        texts, add_special_tokens=not rows[0].templated, return_offsets_mapping=True, return_attention_mask=False
    )
    tags = tag_texts(tagger, texts) if tagger is not None else [None] * len(rows)
    cut = settings.max_length if settings.packing in (None, "bfd") else None
    out: dict[str, list] = {key: [] for key in ("input_ids", "labels")}
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
        if char_tags is None:
            continue
        add_facts(out, token_facts(row.text, char_tags, offsets, settings.dilation).at(slice(cut)))
    return out
