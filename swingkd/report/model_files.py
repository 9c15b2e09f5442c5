"""The files of one model: its card, its page, their figures, and the facts that they are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from swingkd.audit import AuditReport
from swingkd.files import read_as, write_json, write_text
from swingkd.privacy import PrivacyLedger
from swingkd.privacy.ledger import LEDGER_FILE
from swingkd.report.audit_figures import roc_figures
from swingkd.report.model_card import ModelFacts, model_card
from swingkd.report.page import PAGE_FILE, TOKENS_FILE, ShownToken, load_tokens, save_tokens, write_page
from swingkd.report.page_contents import model_page

CARD_FILE, FACTS_FILE = "README.md", "model_facts.json"
# What has a file of its own, or is made anew each time.
_ELSEWHERE = {"ledger", "audit", "figures", "page"}


def write_model_files(facts: ModelFacts, output_dir: str | Path, tokens: Sequence[Sequence[ShownToken]] = ()) -> None:
    """Write README.md, report.html, one roc_*.png a kind of record and model_facts.json into a model's folder.

    Args:
        facts: what is known of the model.
        output_dir: the folder.
        tokens: texts to show on the page, from `shown_tokens`.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for old in _linked_figures(folder / CARD_FILE):
        old.unlink(missing_ok=True)  # of another audit
    figures = [path.name for path in roc_figures(facts.audit, folder)] if facts.audit else []
    facts = replace(facts, figures=tuple(figures), page=PAGE_FILE)
    write_text(folder / CARD_FILE, model_card(facts))
    write_page(model_page(facts, tokens), folder / PAGE_FILE)
    known = {field.name: getattr(facts, field.name) for field in fields(facts) if field.name not in _ELSEWHERE}
    write_json(folder / FACTS_FILE, known)
    if tokens:
        save_tokens(tokens, folder / TOKENS_FILE)
    else:
        (folder / TOKENS_FILE).unlink(missing_ok=True)  # of another page


def read_model_facts(model_dir: str | Path) -> ModelFacts:
    """Read what `write_model_files` knew of a model, and its ledger; the audit is not among it.

    Raises:
        ValueError: the folder holds no such files.
    """
    facts = Path(model_dir) / FACTS_FILE
    ledger = PrivacyLedger.load(model_dir) if facts.exists() else None
    if ledger is None:
        raise ValueError(
            f"{model_dir} lacks {FACTS_FILE} or {LEDGER_FILE}, so its card cannot be written again. A folder of "
            "swingkd distill has both, and one of a trainer after save_model and create_model_card."
        )
    try:
        known = read_as(dict[str, Any], facts.read_bytes(), str(facts))
        listed = {name: tuple(known[name]) for name in ("datasets", "dataset_tags", "tags")}
        return ModelFacts(ledger=ledger, **(known | listed))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{facts} is damaged. Train the student again, or let create_model_card write it.") from error


def forget_model_facts(model_dir: str | Path) -> None:
    """Remove what was known of a model whose weights are about to be replaced."""
    (Path(model_dir) / FACTS_FILE).unlink(missing_ok=True)


def write_audit_onto_card(report: AuditReport, model_dir: str | Path) -> None:
    """Write a model's card and page again, with what an audit found.

    Raises:
        ValueError: the folder holds no facts to write a card of.
    """
    facts = replace(read_model_facts(model_dir), audit=report)
    write_model_files(facts, model_dir, load_tokens(Path(model_dir) / TOKENS_FILE))


def _linked_figures(card: Path) -> list[Path]:
    """List the figures that a card shows."""
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    return [card.parent / name for name in re.findall(r"\]\((roc_[\w-]+\.png)\)", text)]
