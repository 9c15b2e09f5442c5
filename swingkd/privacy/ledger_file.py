"""What a ledger's file may hold: it may be somebody else's, so types, ranges and names are checked."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, StringConstraints
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from swingkd.files import Line, read_as
from swingkd.privacy.accounting import Accountant

# Of a file of weights: its name, and nothing that leads out of the folder.
_FileName = Annotated[str, StringConstraints(pattern=r"^[\w-][\w.-]{0,200}$")]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Wide enough for any run, and narrow enough for the accountants to come to an end.
_Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
_Noise = Annotated[float, Field(ge=1e-3, le=1e6)]
_Rate = Annotated[float, Field(ge=1e-9, le=1)]
_Delta = Annotated[float, Field(ge=0, lt=1)]
_Epsilon = Annotated[float, Field(gt=0, le=1e6)]


class EntryContent(TypedDict):
    """An entry of a ledger; what follows from the rest (epsilon, guarantee) is not read."""

    mechanism: Line
    scope: Line
    unit: Line
    neighbours: Literal["add or remove one", "replace one", "change its values"]
    releases: _Count
    delta: _Delta
    noise_multiplier: _Noise | None
    sampling_rate: _Rate
    pure_epsilon: _Epsilon | None
    accountant: Accountant
    claim: Line
    holds: bool
    caveat: Line


class LedgerContent(TypedDict):
    """A ledger."""

    version: Literal[1]
    budget: NotRequired[_Epsilon | None]
    unknown: NotRequired[dict[Line, Line]]
    entries: Annotated[list[EntryContent], Field(max_length=100)]
    weights: NotRequired[dict[_FileName, _Digest]]


_NUMBERS = ("delta", "noise_multiplier", "sampling_rate", "pure_epsilon", "budget")


def checked_content(content: Any, what: str) -> LedgerContent:
    """Return what a ledger's file holds, checked.

    Args:
        content: as JSON or YAML gave it.
        what: what it is called in the error.

    Raises:
        ValueError: says what does not fit, and not what stands there.
    """
    return read_as(LedgerContent, json.dumps(_numbers(content), default=str), what)


def _numbers(content: Any) -> Any:
    """Return the content with numbers where YAML, in a card, takes 1e-06 for a word."""
    if isinstance(content, list):
        return [_numbers(part) for part in content]
    if not isinstance(content, dict):
        return content
    return {k: _number(v) if k in _NUMBERS else _numbers(v) for k, v in content.items()}


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
