"""Write a card: a template filled with what was measured, and the metrics beside it."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from swingkd.files import write_text
from swingkd.report.row import rows_of, words_of


def fill(template: str, **context: Any) -> str:
    """Fill in a template of this room.

    Args:
        template: its name.
        **context: what it needs.
    """
    environment = Environment(
        loader=PackageLoader("swingkd.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["code"] = _code
    return environment.get_template(template).render(**context)


def plain(text: str) -> str:
    """Return text as one line of Markdown that is text and nothing else: no heading, link, image, tag or code.

    Names of models, runs and records are somebody's text, and so is what another model's ledger says.
    """
    line = html.escape(" ".join("".join(c if c.isprintable() else " " for c in text).split()), quote=False)
    line = line.replace("\\", "\\\\").replace("*", "\\*").replace("`", "'").replace("|", "/")
    # Links and images, those that a bare address makes as well.
    return line.replace("](", "]\\(").replace("][", "]\\[").replace("://", ":\\//").replace("www.", "www\\.")


def _code(line: str) -> Markup:
    """Return a line for a page: escaped, and what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(line))))


def _words(plan: dict[str, Any]) -> dict[str, str]:
    """Return the words that tell a configured row from others."""
    words = words_of(plan.get("setting", "")) | {key: str(value) for key, value in plan.get("words", {}).items()}
    return words | {key: str(plan[key]) for key in ("transfer", "table") if key in plan}


def not_run(content: dict[str, Any]) -> list[str]:
    """Name the configured rows of which a run has nothing, each seed that is missing.

    Args:
        content: of its metrics.json.
    """
    measured, plans = rows_of(content), content["config"].get("rows", [])
    named = [_words(plan) for plan in plans]
    missing: dict[str, list[int]] = {}
    for plan, words in zip(plans, named, strict=True):
        # What says all this and more is another plan's.
        further = [
            more.items() - words.items()
            for other, more in zip(plans, named, strict=True)
            if other["model"] == plan["model"] and words.items() < more.items()
        ]
        own = [row.words for row in measured if row.model == plan["model"]]
        # Not every kind of run says the text or the table of a row.
        known = {k: v for k, v in words.items() if k not in ("transfer", "table") or any(k in row for row in own)}
        own = [row for row in own if known.items() <= row.items() and not any(more <= row.items() for more in further)]
        for seed in plan.get("seeds", content["config"].get("seeds", [0])):
            if not any(row.get("seed", str(seed)) == str(seed) for row in own):
                told = [value if key in ("transfer", "table") else f"{key}={value}" for key, value in words.items()]
                name = f"{plan['model']} ({', '.join(told)})" if told else plan["model"]
                missing.setdefault(f"`{name}`", []).append(seed)
    return [
        f"{name} seed {', '.join(map(str, seeds))}" if len(seeds) > 1 or seeds != [0] else name
        for name, seeds in missing.items()
    ]


def render_card(
    template: str, metrics: str | os.PathLike, content: dict[str, Any], folder: Path, **context: Any
) -> Path:
    """Write README.md and metrics.json of a run into a folder.

    Args:
        template: its name.
        metrics: the run's metrics.json.
        content: what stands in it.
        folder: where the two files go.
        **context: what the template needs beside the run, its environment and its configuration.

    Returns:
        The path of the card.
    """
    if Path(metrics).resolve() != (folder / "metrics.json").resolve():
        shutil.copy(metrics, folder / "metrics.json")
    path = folder / "README.md"
    shown = {name: content.get(name, []) for name in ("run", "environment", "elsewhere")}
    shown["not_run"] = not_run(content)
    write_text(path, fill(template, **shown, config=json.dumps(content["config"], indent=1), **context))
    return path
