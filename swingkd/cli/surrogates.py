"""swingkd surrogates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from swingkd.cli.common import (
    DATA,
    SplitOption,
    TaggerOption,
    TextColumnOption,
    command,
    load_rows,
    make_tagger,
    plain_console,
    say,
)


@command
def surrogates(
    data: Annotated[str, typer.Option(help="The text. " + DATA)],
    output_dir: Annotated[Path, typer.Option(help="Where the new text goes.")] = Path("out/surrogates"),
    kind: Annotated[
        list[str] | None, typer.Option(help="Replace only values with this label, such as ID_NUMBER; several times.")
    ] = None,
    locale: Annotated[str, typer.Option(help="Of made-up names, such as en_US or de_DE.")] = "en_US",
    tagger: TaggerOption = None,
    text_column: TextColumnOption = None,
    split: SplitOption = "train",
) -> None:
    """Replace private values in text by made-up ones: people can train on it and read no real one.

    What is replaced is what the rules find, and --tagger where it is given; or, without it, what the data's own column
    `spans` names. Writes with_surrogates.jsonl, and how many of each kind were replaced.

    Example: swingkd surrogates --data notes.jsonl --output-dir out/surrogates
    """
    from swingkd.files import PRIVATE, written_whole
    from swingkd.surrogates import KEY_FILE, Surrogates, counted

    rows = load_rows(data, split)
    column = text_column or "text"
    own = tagger is None and "spans" in rows.column_names
    keep = [name for name in rows.column_names if name in (column, *(["spans"] if own else []))]
    if column not in keep:
        raise ValueError(
            f"{data} has no column {column!r} (it has {', '.join(rows.column_names)}). Name another: --text-column."
        )
    maker = Surrogates.kept_in(output_dir / PRIVATE / KEY_FILE, *(kind or ()), locale=locale)
    made = maker.map(rows.select_columns(keep), tagger=None if own else make_tagger(tagger), text_column=column)
    target = output_dir / "with_surrogates.jsonl"
    with written_whole(target, owner_only=True) as part:
        made.select_columns([column, "spans"]).to_json(part)
    counts = counted(made)
    table = Table(title="values replaced", box=box.SIMPLE, title_justify="left")
    table.add_column("kind")
    table.add_column("values", justify="right")
    for label, count in counts.items():
        table.add_row(label or "private", f"{count:,}")
    if counts:
        plain_console().print(table)
    found = "the data's spans" if own else "the tagger"
    say(f"{sum(counts.values()):,} values that {found} named were replaced in {len(made):,} rows: {target}")
    say("What was not found stays in the text. Look at what is found: swingkd tag.")
