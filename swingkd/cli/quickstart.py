"""swingkd quickstart, env."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from swingkd.cli.common import INTERRUPTED, command, plain_console, say
from swingkd.files import recipes_dir


@command
def quickstart(
    output_dir: Annotated[Path, typer.Option(help="Where the results go.")] = Path("out/quickstart"),
    fresh: Annotated[bool, typer.Option(help="Start anew instead of going on where the last run stopped.")] = False,
) -> None:
    """Train a teacher on private dialogues, distil it with and without protection, and measure what leaked.

    Takes a few minutes on a laptop and needs no network.  Example: swingkd quickstart
    """
    if fresh:
        (output_dir / "metrics.json").unlink(missing_ok=True)
        shutil.rmtree(output_dir / "_private", ignore_errors=True)
    script = runpy.run_path(str(recipes_dir() / "quickstart" / "run.py"))
    try:
        script["main"](output_dir)
    except KeyboardInterrupt:
        say("Stopped. What is measured is kept: run it again to go on.", err=True)
        raise typer.Exit(INTERRUPTED) from None


@command
def env(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show the versions and the hardware that a report of a problem needs.

    Example: swingkd env
    """
    import os

    import torch

    from swingkd import __version__
    from swingkd.report.metrics import environment

    facts = {"swingkd": __version__, **environment()}
    facts["cpus"] = os.cpu_count()
    if torch.cuda.is_available():
        facts["gpus"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    if as_json:
        typer.echo(json.dumps(facts))
        return
    table = Table(box=box.SIMPLE, show_header=False)
    for name, value in facts.items():
        table.add_row(name, str(value))
    plain_console().print(table)
