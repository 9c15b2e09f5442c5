"""What was protected, in words: the same in the log, on the card and on the page."""

from __future__ import annotations

from typing_extensions import TypedDict


class Protected(TypedDict):
    """What a run protects; nothing in it is secret.

    `protection` and `why` it was chosen; the `tagger` (or what stands in its place); `flagged`, the share of `answers`
    (predicted tokens, words or examples) that count as private, and of each kind in `kinds` (`None`: not counted, of a
    stream or under differential privacy); `examples`, spans of which only the shape is left.
    """

    protection: str
    why: str
    tagger: str
    answers: str
    flagged: float | None
    kinds: dict[str, float]
    examples: list[str]


def protected_lines(protected: Protected) -> list[str]:
    """Say it, a line each."""
    lines = [
        f"Protection of private tokens: {protected['protection']} ({protected['why']}).",
        f"Private text is found by: {protected['tagger']}.",
    ]
    if protected["flagged"] is not None:
        kinds = sorted(protected["kinds"].items(), key=lambda item: -item[1])
        shares = f" ({', '.join(f'{name} {_percent(share)}' for name, share in kinds)})" if kinds else ""
        lines.append(f"It flags {_percent(protected['flagged'])} of the {protected['answers']}{shares}.")
    if protected["examples"]:
        lines.append(f"Such as, their letters and digits masked: {', '.join(protected['examples'])}.")
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
