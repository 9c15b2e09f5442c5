"""What the commands share: the app, errors, configurations, data and taggers."""

from __future__ import annotations

import dataclasses
import difflib
import io
import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text
from safetensors import SafetensorError

from swingkd.guards import check_finite

if TYPE_CHECKING:
    from swingkd.tagging.base import BaseTagger


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as everywhere else."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
_WRONG = (ValueError, TypeError, KeyError, ImportError, OverflowError, yaml.YAMLError, SafetensorError)
DATA = "A .jsonl, .csv, .parquet or .txt file, a folder of save_to_disk, or a data set on the Hub."
# What a field of this type may be; true is no number.
_KINDS = {"bool": ((bool,), "true or false"), "int": ((int,), "a whole number"), "float": ((int, float), "a number")}
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
    str | None, typer.Option("--tagger", help="A token classification model that finds private text beside the rules.")
]
SplitOption = Annotated[str, typer.Option(help="Which split to read.")]


def plain_console(**options: Any) -> Console:
    """Return a console that takes text for text: names of models and files are somebody's, and may hold markup."""
    return Console(markup=False, emoji=False, **options)


def printable(text: str) -> str:
    """Return text without signs that steer a terminal; lines and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def say(text: object, *, err: bool = False) -> None:
    """Print text that may be somebody's."""
    typer.echo(printable(str(text)), err=err)


def fail(message: str) -> typer.Exit:
    """Print one line that says what is wrong; return what is to be raised."""
    line = printable(" ".join(message.split()))
    Console(stderr=True).print(Text("error: ", style="bold red") + Text(line), highlight=False, soft_wrap=True)
    return typer.Exit(WRONG_INPUT)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a sub-command whose errors are one line each."""

    @app.command()
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        from datasets.exceptions import DatasetsError

        # A terminal that knows ASCII only shows other letters by their numbers; it is no reason to stop.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            for name, value in kwargs.items():
                check_finite(f"--{name.replace('_', '-')}", value)
            function(*args, **kwargs)
        except UnicodeDecodeError as error:
            # Not with its own words, which hold the whole text.
            raise fail(f"A file is not UTF-8 (byte {error.start}). Save it as UTF-8.") from None
        except OSError as error:
            where = f"{error.filename}: {error.strerror}" if error.strerror and error.filename else str(error)
            raise fail(where) from error
        except (*_WRONG, DatasetsError) as error:
            raise fail(str(error)) from error

    return run


def read_fields(config: Path | None, changes: list[str] | None, **given: Any) -> dict[str, Any]:
    """Return the fields of a configuration: those of the file, those of --set, those of options of their own.

    Raises:
        ValueError: the file holds no fields, or a change is not field=value.
    """
    fields = yaml.load(config.read_text(encoding="utf-8"), _Loader) or {} if config else {}
    if not isinstance(fields, dict):
        raise ValueError(f"{config} holds no fields. Write one a line, such as max_steps: 100.")
    for change in changes or []:
        name, sign, value = change.partition("=")
        if not sign or not name.isidentifier():
            raise ValueError(f"--set {change}: write field=value, such as --set max_steps=100.")
        fields[name] = yaml.load(value, _Loader)
    return fields | {name: value for name, value in given.items() if value is not None}


def checked(fields: dict[str, Any], settings: type) -> dict[str, Any]:
    """Return the fields of a dataclass of settings.

    Raises:
        ValueError: one of them is not known, or no number where one is needed.
    """
    known = {field.name: str(field.type) for field in dataclasses.fields(settings)}
    for name, value in fields.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ValueError(
                f"{name} is no field of {settings.__name__}.{f' Did you mean {near[0]}?' if near else ''}"
            )
        kinds = set(re.findall(r"\b(?:str|int|float|bool|dict|list)\b", known[name]))
        if value is not None and kinds in ({"bool"}, {"int"}, {"float"}):
            (kind,) = kinds
            allowed, what = _KINDS[kind]
            if type(value) not in allowed:
                raise ValueError(f"{name}={value!r} must be {what}.")
    return fields


def load_rows(data: str, split: str) -> Any:
    """Load a data set by the name of a file, a folder or a repository.

    Raises:
        ValueError: it is empty, or broken.
    """
    from datasets import load_dataset, load_from_disk
    from datasets.exceptions import DatasetGenerationError

    from swingkd.audit import read_records

    if (Path(data) / "state.json").exists():
        return load_from_disk(data)
    kinds = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
    kind = kinds.get(os.path.splitext(data)[1])
    try:
        rows = load_dataset(kind, data_files=data, split="train") if kind else load_dataset(data, split=split)
    except (DatasetGenerationError, StopIteration):
        if kind in ("json", "text"):
            read_records(data)  # says which line is broken
        raise ValueError(f"{data} cannot be read as {kind or 'a data set'}: it is empty, or broken.") from None
    if not len(rows):
        raise ValueError(f"{data} is empty: there is no row in it.")
    return rows


def make_tagger(model: str | None) -> BaseTagger:
    """Return the rules, and a model that reads text beside them where one is named."""
    from swingkd.tagging import EnsembleTagger, RuleTagger, TokenClassificationTagger

    return EnsembleTagger(RuleTagger(), TokenClassificationTagger(model)) if model else RuleTagger()
