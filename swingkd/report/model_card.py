"""The card of one model: what its training promises, and what was measured on it."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from swingkd.privacy import PrivacyLedger


def model_card(title: str, ledger: PrivacyLedger, results: dict[str, float], settings: dict[str, Any]) -> str:
    """Return the card of a model that is saved or pushed.

    Args:
        title: what it is called.
        ledger: what its training released.
        results: what was measured, by name.
        settings: of its training; without secrets.
    """
    environment = Environment(
        loader=PackageLoader("swingkd.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("model.md").render(
        title=title, promises=ledger.lines(), results=results, settings=json.dumps(settings, indent=1)
    )
