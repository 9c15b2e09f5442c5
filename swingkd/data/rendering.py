"""One row as text: plain text, a prompt and its completion, or a chat through its template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

# Columns that hold chats, and who speaks, as ShareGPT calls them.
_CHATS = ("messages", "conversations")
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant"}


@dataclass(frozen=True)
class Rendered:
    """One row as text; `learn_from` is the first character that the loss counts; `learn` marks tokens instead."""

    text: str | None
    learn_from: int = 0
    learn: list[int] | None = None
    templated: bool = False


class _TextReader:
    def __init__(self, field: str):
        self.field = field

    def __call__(self, row: dict[str, Any]) -> Rendered:
        return Rendered(row[self.field])


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

    def __call__(self, row: dict[str, Any]) -> Rendered:
        prompt, completion = row["prompt"], row["completion"]
        if completion is None:
            return Rendered(None)
        if isinstance(prompt, str) or prompt is None:
            _check_turns(self.assistant_only)
            prompt = prompt or ""
            return Rendered(prompt + completion, len(prompt) if self.completion_only else 0)
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
        return Rendered(text, len(start) if self.completion_only else 0, learn, templated=True)


class _MessagesReader:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, assistant_only: bool, column: str = "messages"):
        self.tokenizer = tokenizer
        self.assistant_only = assistant_only
        self.column = column

    def __call__(self, row: dict[str, Any]) -> Rendered:
        known, turns = _template_inputs(row), chat_turns(row[self.column])
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, **known)
        learn = _assistants(self.tokenizer, turns, known) if self.assistant_only else None
        return Rendered(text, learn=learn, templated=True)


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


def readable(columns: Sequence[str], settings: Any) -> bool:
    """Tell whether rows have a text that can be read."""
    own = settings.text_field in columns if isinstance(settings.text_field, str) else False
    return own or bool(set(_CHATS) & set(columns)) or {"prompt", "completion"} <= set(columns)


def reader(columns: list[str], tokenizer: PreTrainedTokenizerBase, settings: Any):
    """Choose how a row is read by its columns.

    Args:
        columns: of the rows.
        tokenizer: with a chat template, where there are chats.
        settings: see `DataSettings`.

    Raises:
        ValueError: none of them can be read.
    """
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
