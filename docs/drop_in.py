"""Write the table of drop_in.md: every habit that tests/dropin/habits.py tries, and what comes of it.

python docs/drop_in.py (from the repository's root)
"""

from __future__ import annotations

import sys
from pathlib import Path

PAGE = Path(__file__).with_suffix(".md")
HEADING = "| habit | `Trainer` or TRL | this trainer |"


def page(text: str) -> str:
    """Return the page with the table as it is now."""
    sys.path.insert(0, str(PAGE.parents[1]))
    from tests.dropin.habits import HABITS

    rows = [f"| {h.name} | {h.theirs} | {h.ours}{': ' + h.about if h.about else ''} |" for h in HABITS]
    before = text[: text.index(HEADING)]
    return "\n".join([before + HEADING, "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
