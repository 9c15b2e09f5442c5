"""The card of one model: what its training promises, and what was measured on it."""

from __future__ import annotations

import json
from typing import Any

from swingkd.privacy import PrivacyLedger
from swingkd.report.render import fill


def model_card(title: str, ledger: PrivacyLedger, results: dict[str, float], settings: dict[str, Any]) -> str:
    """Return the card of a model that is saved or pushed.

    Args:
        title: what it is called.
        ledger: what its training released.
        results: what was measured, by name.
        settings: of its training; without secrets.
    """
    return fill(
        "model.md", title=title, promises=ledger.lines(), results=results, settings=json.dumps(settings, indent=1)
    )
