"""Write the card of a run, whatever kind of run it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from swingkd.report.metrics import Kind, MetricsFile
from swingkd.report.page import PAGE_FILE, TOKENS_FILE, load_tokens, write_page
from swingkd.report.render import render_card
from swingkd.report.row import Row, rows_of
from swingkd.report.runs.audits import AuditCard
from swingkd.report.runs.base import RunCard
from swingkd.report.runs.canaries import CanaryCard
from swingkd.report.runs.federation import FederationCard
from swingkd.report.runs.frontier import FrontierCard
from swingkd.report.runs.images import ImageCard
from swingkd.report.runs.labels import LabelCard
from swingkd.report.runs.language import LanguageCard
from swingkd.report.runs.taggers import TaggerCard

#: The cards, by the kind that metrics.json names; an unknown one fails.
RUNS: dict[Kind, type[RunCard]] = {
    card.kind: card
    for card in (LanguageCard, LabelCard, ImageCard, FederationCard, TaggerCard, AuditCard, CanaryCard, FrontierCard)
}


def write_card(metrics: str | os.PathLike, output_dir: str | os.PathLike) -> Path:
    """Write README.md, report.html, a figure and metrics.json of a run into a folder.

    Args:
        metrics: the run's metrics.json; texts to show stand beside it, in tokens.json.
        output_dir: where the files go.

    Returns:
        The path of the card.

    Raises:
        ValueError: the file has no rows, or lacks what its kind of card is made of.
    """
    content, folder = MetricsFile(metrics).read(), Path(output_dir)
    card = RUNS[kind_of(content)](content)
    folder.mkdir(parents=True, exist_ok=True)
    if card.drawn:
        card.draw(folder / card.picture)
        write_page(card.page(load_tokens(Path(metrics).parent / TOKENS_FILE)), folder / PAGE_FILE)
    context = {"findings": card.findings(), **card.context(folder)}
    return render_card(card.template, metrics, content, folder, **context)


def kind_of(content: dict[str, Any]) -> Kind:
    """Return which kind of run metrics.json is about; older files do not say it, and their rows tell.

    Raises:
        ValueError: it names a kind that there is not.
    """
    named = content.get("kind")
    if named is not None:
        return named
    rows = rows_of(content)
    # What only such a run has comes first: accuracies and F1 are measured in several.
    signs: dict[Kind, bool] = {
        "audit": _any(rows, "audit", "all"),
        "taggers": _any(rows, "table", "taggers"),
        "federation": any(row.metric == "client_accuracy" for row in rows),
        "images": _any(rows, "table", "teachers"),
        "labels": any(row.metric in ("macro_f1", "f1") for row in rows),
    }
    return next((kind for kind, present in signs.items() if present), "language")


def _any(rows: list[Row], name: str, value: str) -> bool:
    return any(row.words.get(name) == value for row in rows)
