"""report.html: one page that needs nothing else, light and dark, for people and for screen readers.

The figures are those of the card, drawn once more as SVG inside the page; each has its numbers in a table below it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from rich.table import Table

from swingkd.files import read_as, write_json, write_text
from swingkd.report.plots import stacked
from swingkd.report.render import fill
from swingkd.surrogates import Surrogates
from swingkd.tagging import THRESHOLD, Tagger, align, dilate, label_spans, private_spans, tag_texts
from swingkd.tagging.base import named_spans, tagger_labels
from swingkd.tagging.threshold import decided
from swingkd.targets import TemperatureSettings

PAGE_FILE, TOKENS_FILE = "report.html", "tokens.json"
# From here on a character is masked: a page may be published.
_MASKED = 0.05


@dataclass(frozen=True)
class Figure:
    """A figure with its numbers.

    Args:
        title: what it shows.
        svg: from `svg_of`.
        headings, rows: the numbers.
        note: how to read it.
    """

    title: str
    svg: str = ""
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    note: str = ""


@dataclass(frozen=True)
class ShownToken:
    """One token as it may be shown: private characters are masked."""

    text: str
    likelihood: float
    temperature: float
    label: str


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Args:
        title: its heading.
        promises: what was promised, a line each.
        claims: what does not hold, a line each.
        claims_heading: what they are called.
        protected: what was protected, a line each.
        numbers: the three that count, with what each is.
        verdicts: what was found, in words, a line each.
        folded: figures and tables are shown to whoever asks for them.
        sections: what else is told: a heading and its lines each.
        tables: numbers without a figure.
        figures: figures with their numbers.
        tokens: texts, token by token, from `shown_tokens`.
        replaced: the same texts with made-up values, from `shown_surrogates`.
    """

    title: str
    promises: Sequence[str] = ()
    claims: Sequence[str] = ()
    tables: Sequence[Figure] = ()
    figures: Sequence[Figure] = ()
    tokens: Sequence[Sequence[ShownToken]] = field(default=())
    replaced: Sequence[Sequence[ShownToken]] = ()
    claims_heading: str = "What does not hold"
    protected: Sequence[str] = ()
    numbers: Sequence[tuple[str, str]] = ()
    verdicts: Sequence[str] = ()
    folded: bool = False
    sections: Sequence[tuple[str, Sequence[str]]] = ()


def write_page(page: Page, path: Path) -> Path:
    """Write a page; return its path."""
    hottest = max((token.temperature for text in page.tokens for token in text), default=1.0)
    write_text(path, fill("page.html", page=page, hottest=max(hottest, 1.0 + 1e-9)))
    return path


def shown_spans(texts: Sequence[str], tagger: Tagger) -> list[list[ShownToken]]:
    """Return texts in pieces: what the tagger found, masked, and what stands between, at the default temperatures.

    Args:
        texts: the texts.
        tagger: what rates the characters.
    """
    names = getattr(tagger, "labels", ("", "private"))
    shown = []
    for text, tags in zip(texts, tag_texts(tagger, list(texts)), strict=True):
        row, last = [], 0
        for start, end, label in private_spans(tags, _MASKED):
            likelihood = float(tags.likelihood[start:end].max())
            temperature = float(TemperatureSettings().for_tokens(decided(torch.tensor([likelihood]))).teacher)
            row.append(ShownToken(text[last:start], 0.0, TemperatureSettings().base, ""))
            row.append(ShownToken("•" * (end - start), likelihood, temperature, names[label]))
            last = end
        shown.append([*row, ShownToken(text[last:], 0.0, TemperatureSettings().base, "")])
    return shown


def shown_surrogates(texts: Sequence[str], tagger: Tagger, surrogates: Surrogates) -> list[list[ShownToken]]:
    """Return texts in pieces, made-up values in the place of what the tagger found.

    Args:
        texts: the texts.
        tagger: what rates the characters.
        surrogates: makes the values.
    """
    names, shown = tagger_labels(tagger), []
    for number, (text, tags) in enumerate(zip(texts, tag_texts(tagger, list(texts)), strict=True)):
        made = surrogates.replace(text, named_spans(tags, names, THRESHOLD), number)
        row, last = [], 0
        for span in made.spans:
            start, end = span["start"], span["end"]
            row.append(ShownToken(made.text[last:start], 0.0, 1.0, ""))
            row.append(ShownToken(made.text[start:end], 1.0, 1.0, span["label"]))
            last = end
        shown.append([*row, ShownToken(made.text[last:], 0.0, 1.0, "")])
    return shown


def save_tokens(tokens: Sequence[Sequence[ShownToken]], path: Path) -> None:
    """Write texts that are to be shown, masked as they are."""
    write_json(path, [[asdict(token) for token in text] for text in tokens])


def load_tokens(path: Path) -> list[list[ShownToken]]:
    """Read what `save_tokens` wrote; nothing where there is no such file."""
    if not path.exists():
        return []
    return read_as(list[list[ShownToken]], path.read_bytes(), str(path))


def table_of(table: Table) -> Figure:
    """Take a terminal's table into a page."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    headings = [str(column.header) for column in table.columns]
    return Figure(str(table.title), "", headings, list(zip(*columns, strict=True)), str(table.caption or ""))


def svg_of(draw: Callable[[Path], Any], name: str) -> str:
    """Return a figure as SVG that takes its text colour from the page: as it is, and stacked for a narrow screen.

    Args:
        draw: saves a figure at a path, in the format that its ending names.
        name: tells the figure from others of the page.
    """
    wide, narrow = _svg(draw, name), _svg(draw, f"{name}-narrow", narrow=True)
    return f'<div class="roomy">{wide}</div><div class="narrow">{narrow}</div>'


def _svg(draw: Callable[[Path], Any], name: str, narrow: bool = False) -> str:
    settings: Any = {"svg.fonttype": "none", "savefig.transparent": True, "svg.hashsalt": name}
    with tempfile.TemporaryDirectory() as folder, matplotlib.rc_context(settings):
        path = Path(folder) / "figure.svg"
        with stacked() if narrow else nullcontext():
            draw(path)
        svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Names within a page are unique, whatever a figure calls its parts.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    svg = re.sub(r"#000000|#000\b", "currentColor", svg)
    # As wide as the page lets it be.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)


def shown_tokens(
    texts: Sequence[str], tokenizer: Any, tagger: Tagger, settings: TemperatureSettings, *, dilation: int = 1
) -> list[list[ShownToken]]:
    """Return texts token by token, with likelihood and the teacher's temperature; what is private is masked.

    Args:
        texts: they are shown, but for what the tagger finds: take public ones, or read them first.
        tokenizer: a fast tokenizer.
        tagger: what rates the characters.
        settings: how likelihood becomes temperature.
        dilation: how many neighbouring tokens inherit a likelihood.
    """
    names = getattr(tagger, "labels", ("", "private"))
    encoded = tokenizer(list(texts), return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    shown = []
    for text, tags, pairs in zip(texts, tag_texts(tagger, list(texts)), encoded, strict=True):
        offsets = np.array(pairs, np.int64).reshape(-1, 2)
        likelihood = dilate(align(tags.likelihood, offsets), dilation)
        labels = align(tags.labels, offsets)
        hidden = tags.likelihood >= _MASKED
        # A span is masked whole, its blanks as well: they would tell how it is built.
        for start, end, _ in label_spans(tags.labels):
            hidden[start:end] |= hidden[start:end].any()
        masked = "".join("•" if hide else char for char, hide in zip(text, hidden, strict=True))
        temperature = settings.for_tokens(decided(torch.from_numpy(likelihood))).teacher.tolist()
        row, last = [], 0
        for (start, end), s, t, label in zip(offsets, likelihood, temperature, labels, strict=True):
            # What stands between two tokens is shown with the second.
            row.append(ShownToken(masked[min(last, start) : end], float(s), float(t), names[label]))
            last = max(last, end)
        shown.append(row)
    return shown
