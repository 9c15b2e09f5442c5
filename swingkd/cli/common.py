"""What the commands share: the app, errors, configurations, data and taggers."""

from __future__ import annotations

import dataclasses
import difflib
import io
import logging
import re
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
import yaml
from rich.console import Console
from rich.text import Text
from safetensors import SafetensorError

from swingkd.cli.words import in_words
from swingkd.guards import check_finite

if TYPE_CHECKING:
    from swingkd.tagging.base import BaseTagger


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as everywhere else."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
# Beside what the library refuses: what others say of what is not installed, or does not run here.
_WRONG = (ValueError, TypeError, KeyError, ImportError, OverflowError, RuntimeError, yaml.YAMLError, SafetensorError)
DATA = (
    "A file (.jsonl, .csv, .tsv, .parquet, .txt, compressed or not), a folder of save_to_disk, or a data set on the "
    "Hub."
)
# What a field of this type may be; true is no number.
_KINDS = {"bool": ((bool,), "true or false"), "int": ((int,), "a whole number"), "float": ((int, float), "a number")}
#: Exit codes: the input is wrong; stopped by Ctrl-C, and can go on.
WRONG_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Distil a model without distilling its secrets.

    Begin with: swingkd quickstart.  Every command has examples in its --help.  Exit codes: 0 done, 2 the input is
    wrong (one line says what to do), 130 stopped by Ctrl-C.
    """,
)


def _version(asked: bool) -> None:
    if asked:
        from swingkd import __version__

        typer.echo(f"swingkd {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Hold what stands before every command."""


ConfigOption = Annotated[
    Path | None,
    typer.Option(help="YAML with settings of the training: those of docs/settings.md, one a line.", exists=True),
]
TextColumnOption = Annotated[str | None, typer.Option(help="The column with the text.  \\[text]")]
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
    """Print one line that says what is wrong, in the words of the command; return what is to be raised."""
    line = printable(spoken(" ".join(message.split())))
    Console(stderr=True).print(Text("error: ", style="bold red") + Text(line), highlight=False, soft_wrap=True)
    return typer.Exit(WRONG_INPUT)


def spoken(message: str) -> str:
    """Say an error or a warning of the library in the words of the command that runs."""
    context = click.get_current_context(silent=True)
    name = context.info_name or "" if context is not None else ""
    given = [str(value) for value in context.params.values()] if context is not None else []
    fields: tuple[str, ...] = ()
    if name in ("distill", "cache-teacher", "crossfit"):
        from swingkd.trainer.config import PrivateDistillationConfig

        fields = tuple(field.name for field in dataclasses.fields(PrivateDistillationConfig))
    return in_words(message, name, fields, given)


class _Spoken(logging.Filter):
    """Lets the library's warnings speak as its errors do."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = spoken(record.getMessage()), ()
        return True


def show_command(*words: str | Path) -> None:
    """Print a command that can be copied as it stands, on a line of its own.

    Args:
        *words: of it, after `swingkd`.
    """
    typer.echo(f"  swingkd {shlex.join(map(str, words))}")


def _wrong() -> tuple[type[Exception], ...]:
    """Return what is told in one line; of a library that nobody loaded nothing can come."""
    datasets = sys.modules.get("datasets")
    return (*_WRONG, datasets.exceptions.DatasetsError) if datasets is not None else _WRONG


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a sub-command whose errors are one line each."""

    @app.command()
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        for logger in (name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "swingkd"):
            logging.getLogger(logger).addFilter(_Spoken())
        # A terminal that knows ASCII only shows other letters by their numbers; it is no reason to stop.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            for name, value in kwargs.items():
                check_finite(f"--{name.replace('_', '-')}", value)
            function(*args, **kwargs)
        except typer.Exit:
            raise
        except UnicodeDecodeError as error:
            # Not with its own words, which hold the whole text.
            raise fail(f"A file is not UTF-8 (byte {error.start}). Save it as UTF-8.") from None
        except OSError as error:
            where = f"{error.filename}: {error.strerror}" if error.strerror and error.filename else str(error)
            raise fail(where) from error
        except Exception as error:
            if not isinstance(error, _wrong()):
                raise
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
    from swingkd.data.row_files import load_file, row_file

    if (Path(data) / "state.json").exists():
        return load_from_disk(data)
    file = row_file(data)
    try:
        rows = load_file(data, file) if file is not None else load_dataset(data, split=split)
    except (DatasetGenerationError, StopIteration):
        if file is not None and file.kind in ("json", "text"):
            read_records(data)  # says which line is broken
        what = file.kind if file is not None else "a data set"
        raise ValueError(f"{data} cannot be read as {what}: it is empty, or broken.") from None
    if not len(rows):
        raise ValueError(f"{data} is empty: there is no row in it.")
    return rows


def text_named(rows: Any, column: str | None, data: str) -> Any:
    """Return rows whose text is called `text`, from a column of another name.

    Args:
        rows: with columns, or `None`.
        column: its name; `None`: it is called so already.
        data: what was read, for the error.

    Raises:
        ValueError: there is no such column.
    """
    if rows is None or column is None:
        return rows
    if column not in rows.column_names:
        from swingkd.audit.records import ORIGIN

        own = ", ".join(name for name in rows.column_names if name != ORIGIN)
        raise ValueError(f"{data} has no column {column!r} (it has {own}). Name another one: --text-column.")
    if column == "text":
        return rows
    rest = rows.remove_columns([name for name in ("text",) if name in rows.column_names])
    return rest.rename_column(column, "text")


def make_tagger(model: str | None) -> BaseTagger:
    """Return the rules, and a model that reads text beside them where one is named."""
    from swingkd.tagging import EnsembleTagger, RuleTagger, TokenClassificationTagger

    return EnsembleTagger(RuleTagger(), TokenClassificationTagger(model)) if model else RuleTagger()
