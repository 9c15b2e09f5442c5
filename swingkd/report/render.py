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
    shown = {"run": content["run"], "environment": content["environment"]}
    write_text(path, fill(template, **shown, config=json.dumps(content["config"], indent=1), **context))
    return path
