"""What the commands share: the app, errors, configurations, data and taggers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from swingkd.tagging.base import BaseTagger

DATA = "A .jsonl, .csv, .parquet or .txt file, a folder of save_to_disk, or a data set on the Hub."
#: Exit codes: the input is wrong; stopped by Ctrl-C, and can go on.
WRONG_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_show_locals=False,
    help="""Distil a model without distilling its secrets.

    Begin with: swingkd quickstart.  Every command has examples in its --help.  Exit codes: 0 done, 2 the input is
    wrong (one line says what to do), 130 stopped by Ctrl-C.
    """,
)

ConfigOption = Annotated[
    Path | None, typer.Option(help="YAML with any field of PrivateDistillationConfig.", exists=True)
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="One field of it, field=value; may be given several times.")
]
TaggerOption = Annotated[
    str | None,
    typer.Option("--tagger", help="A token classification model that finds private text beside the rules."),
]
SplitOption = Annotated[str, typer.Option(help="Which split to read.")]


def recipes_dir() -> Path:
    """Return where the recipes are: inside an installed wheel, or beside the package in a checkout."""
    inside = Path(__file__).parents[1] / "recipes"
    return inside if inside.exists() else Path(__file__).parents[2] / "recipes"


def fail(message: str) -> typer.Exit:
    """Print one line that says what is wrong; return what is to be raised."""
    Console(stderr=True).print(Text("error: ", style="bold red") + Text(message), highlight=False, soft_wrap=True)
    return typer.Exit(WRONG_INPUT)


def read_fields(config: Path | None, changes: list[str] | None, **given: Any) -> dict[str, Any]:
    """Return the fields of a configuration: those of the file, those of --set, those of options of their own.

    Raises:
        ValueError: the file holds no fields, or a change is not field=value.
    """
    fields = yaml.safe_load(config.read_text()) or {} if config else {}
    if not isinstance(fields, dict):
        raise ValueError(f"{config} holds no fields. Write one a line, such as max_steps: 100.")
    for change in changes or []:
        name, found, value = change.partition("=")
        if not found or not name.isidentifier():
            raise ValueError(f"--set {change}: write field=value, such as --set max_steps=100.")
        fields[name] = yaml.safe_load(value)
    return fields | {name: value for name, value in given.items() if value is not None}


def load_rows(data: str, split: str) -> Any:
    """Load a data set by the name of a file, a folder or a repository."""
    from datasets import load_dataset, load_from_disk

    if (Path(data) / "state.json").exists():
        return load_from_disk(data)
    kinds = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
    kind = kinds.get(os.path.splitext(data)[1])
    if kind:
        return load_dataset(kind, data_files=data, split="train")
    return load_dataset(data, split=split)


def make_tagger(model: str | None) -> BaseTagger:
    """Return the rules, and a model that reads text beside them where one is named."""
    from swingkd.tagging import EnsembleTagger, RuleTagger, TokenClassificationTagger

    return EnsembleTagger(RuleTagger(), TokenClassificationTagger(model)) if model else RuleTagger()
