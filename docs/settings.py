"""Write settings.md: every field of PrivateDistillationConfig, described where it is defined.

python docs/settings.py
"""

from __future__ import annotations

from pathlib import Path

from swingkd import PrivateDistillationConfig

PAGE = Path(__file__).with_suffix(".md")


def page() -> str:
    """Return the page: one table a group of fields."""
    lines = [
        "# Settings",
        "",
        "`PrivateDistillationConfig` has every field of `TrainingArguments`, and these. On the command line they are",
        "`--config FILE` or `--set field=value`. The page is made from the fields' own help texts.",
    ]
    for field in PrivateDistillationConfig.own_fields():
        if field.name in PrivateDistillationConfig.GROUPS:
            title = PrivateDistillationConfig.GROUPS[field.name]
            lines += ["", f"## Parameters that control {title}", "", "| field | default | |", "|---|---|---|"]
        choices = field.metadata.get("choices")
        about = field.metadata["help"] + (f" One of {', '.join(map(repr, choices))}." if choices else "")
        lines.append(f"| `{field.name}` | `{field.default!r}` | {about.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
