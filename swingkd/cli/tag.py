"""swingkd tag, canaries."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from swingkd.cli.common import (
    DATA,
    SplitOption,
    TaggerOption,
    TextColumnOption,
    command,
    load_rows,
    make_tagger,
    plain_console,
    printable,
    say,
    show_command,
    text_named,
)

if TYPE_CHECKING:
    from swingkd.tagging import CharTags, MemorisationTagger
    from swingkd.tagging.base import BaseTagger

_AT_ONCE = 64


@command
def tag(
    source: Annotated[str, typer.Argument(help="- for standard input, or what has rows of text. " + DATA)] = "-",
    text_column: TextColumnOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON lines with the spans instead of colour.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page instead; private characters are masked.")] = None,
    tagger: TaggerOption = None,
    threshold: Annotated[float, typer.Option(help="Show what is at least this likely private.")] = 0.5,
    surrogates: Annotated[
        bool, typer.Option("--surrogates", help="Also show the text with made-up values in the place of these.")
    ] = False,
    memorised: Annotated[
        str | None,
        typer.Option(help="List what these teachers (a folder of swingkd crossfit) know by heart and nothing found."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="With --memorised and one model in the place of teachers: the public base to compare with."),
    ] = None,
) -> None:
    """Show what is taken for private: by the rules, and by --tagger where it is given, at every mention in its text.

    Example: echo "My pin is 4711." | swingkd tag

    Example: swingkd tag notes.jsonl --surrogates --html notes.html

    Example: swingkd tag notes.jsonl --memorised out/teachers

    Example: swingkd tag notes.jsonl --memorised ./model --base ./base
    """
    from swingkd.surrogates import Surrogates
    from swingkd.tagging import ConsistentTagger, private_spans
    from swingkd.tagging.base import named_spans

    if not 0 < threshold <= 1:
        raise ValueError(f"--threshold {threshold} must lie between 0 and 1.")
    texts = _texts(source, text_column)
    if as_json and html is not None:
        raise ValueError("--json prints lines, --html writes a page. Choose one.")
    if as_json and surrogates:
        raise ValueError("--json tells of the text as it is; swingkd surrogates writes the new text. Choose one.")
    if memorised is not None and (as_json or html is not None or surrogates):
        raise ValueError("--memorised lists what is known by heart, and nothing else. Leave the other options out.")
    if base is not None and memorised is None:
        raise ValueError("--base is what a model is compared with: name the model, --memorised.")
    finder, console = ConsistentTagger(make_tagger(tagger), threshold=threshold), plain_console()
    if memorised is not None:
        _list_memorised(memorised, base, texts, finder, threshold)
        return
    made_up = Surrogates()
    if html is not None:
        from swingkd.report.page import Page, shown_spans, shown_surrogates, write_page

        title, replaced = f"What is private in {Path(source).name}", []
        if surrogates:
            replaced = shown_surrogates(texts, finder, made_up)
        write_page(Page(title, tokens=shown_spans(texts, finder), replaced=replaced), html)
        say(f"Written: {html}")
        return
    for number, (text, tags) in enumerate(_tagged(texts, finder)):
        spans = private_spans(tags, threshold)
        if as_json:
            rows = [
                {"start": start, "end": end, "label": finder.labels[label], "likelihood": _highest(tags, start, end)}
                for start, end, label in spans
            ]
            typer.echo(json.dumps({"text": text, "spans": rows}, ensure_ascii=False))
            continue
        coloured = Text(printable(text))
        for start, end, label in reversed(spans):
            coloured.stylize("bold white on red", start, end)
            coloured = coloured[:end] + Text(f" {finder.labels[label] or 'PRIVATE'}", style="dim red") + coloured[end:]
        console.print(coloured, soft_wrap=True)
        if surrogates and spans:
            made = made_up.replace(text, named_spans(tags, finder.labels, threshold), number)
            shown = Text(printable(made.text))
            for span in made.spans:
                shown.stylize("bold green underline", span["start"], span["end"])
            console.print(shown, soft_wrap=True)


def _list_memorised(name: str, base: str | None, texts: list[str], finder: BaseTagger, threshold: float) -> None:
    """Print the spans that a model knows better than one that was not trained on them, by what they look like."""
    from swingkd.tagging import is_private
    from swingkd.trainer.protected import shape

    detector, known = _detector(name, base, texts)
    flagged = [is_private(tags.likelihood, threshold) for _, tags in _tagged(texts, finder)]
    found = detector.remembered(texts, flagged)
    shapes: dict[str, list] = {}
    for one in found:
        shapes.setdefault(shape(texts[one.text][one.start : one.end]), []).append(one)
    say(f"{known} Known by heart, and found by no tagger (masked):")
    for masked, group in shapes.items():
        rows = sorted({one.text for one in group})
        shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
        say(f"  {group[0].nats:6.1f} nats  {masked or '•':<24}  in text {shown}")
    if not found:
        say("  nothing")


def _detector(name: str, base: str | None, texts: list[str]) -> tuple[MemorisationTagger, str]:
    """Return what finds what a model knows by heart, and how many texts it was trained on, in words."""
    from transformers import AutoModelForCausalLM

    from swingkd.models.loading import load_pretrained, load_tokenizer, placed
    from swingkd.tagging import MemorisationTagger
    from swingkd.trainer.out_of_fold import OutOfFoldTeacher, is_out_of_fold

    tokenizer = load_tokenizer(name)
    if is_out_of_fold(name):
        if base is not None:
            raise ValueError(f"{name} holds teachers that are compared with each other. Leave --base out.")
        teacher = placed(OutOfFoldTeacher.load(name))
        known = int((teacher.folds.of_texts(texts) >= 0).sum())  # type: ignore[union-attr]  # loaded with its folds
        if not known:
            raise ValueError(f"None of these texts is among those that {name} was trained on. Name the same rows.")
        return MemorisationTagger.of_folds(teacher, tokenizer), f"{known} of {len(texts)} texts were trained on."
    if base is None:
        raise ValueError(
            f"{name} is one model. Name what to compare it with, --base PUBLIC; or train teachers out of fold, which "
            "tell more (swingkd crossfit)."
        )
    inside, outside = (placed(load_pretrained(AutoModelForCausalLM, one)) for one in (name, base))
    if load_tokenizer(base).get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"{base} has another tokenizer than {name}, so what they say of a token does not compare.")
    what = f"{len(texts)} texts. The base knows less of the whole domain, so that common words may be listed as well."
    return MemorisationTagger(inside, outside, tokenizer), what


def _texts(source: str, column: str | None) -> list[str]:
    """Return the texts of a source: its rows, or its lines where it is text."""
    from swingkd.audit import read_records
    from swingkd.data.row_files import READ

    if source == "-":
        return [line for line in sys.stdin.read().split("\n") if line.strip()]
    path = Path(source)
    if path.is_file() and path.suffix.lower() not in READ:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    rows = text_named(read_records(source), column or "text", source)
    texts = rows["text"][:]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{source}: {column or 'text'!r} is not text in every row.")
    return [text for text in texts if text.strip()]


def _tagged(texts: list[str], finder: BaseTagger) -> Iterator[tuple[str, CharTags]]:
    """Tag texts, some at a time: what is found is shown at once."""
    for start in range(0, len(texts), _AT_ONCE):
        part = texts[start : start + _AT_ONCE]
        yield from zip(part, finder.tag(part), strict=True)


def _highest(tags: CharTags, start: int, end: int) -> float:
    return round(float(tags.likelihood[start:end].max()), 3)


@command
def canaries(
    data: Annotated[str, typer.Option(help="The text to put them into. " + DATA)],
    output_dir: Annotated[Path, typer.Option(help="Where the text with canaries goes.")] = Path("out/canaries"),
    template: Annotated[
        str, typer.Option(help="A sentence with {name} and {secret} (or two), like those of your text.")
    ] = "the account number of {name} is {secret}",
    kind: Annotated[
        str,
        typer.Option(help="What the secrets are: digits, email, names, date, url, or words (no tagger finds them)."),
    ] = "digits",
    length: Annotated[int, typer.Option(help="Digits, or words, of a secret.")] = 6,
    count: Annotated[int, typer.Option(help="Canaries a level of repetition.")] = 20,
    repetitions: Annotated[
        list[int] | None, typer.Option(help="A level: how often each stands in the text; several times.  [1, 10, 100]")
    ] = None,
    coin: Annotated[
        bool, typer.Option("--coin", help="Leave half of them out, by coin: for membership and epsilon.")
    ] = False,
    asked: Annotated[
        str, typer.Option(help="What is asked for: the secret, or the suffix (secrets are ranked by the text behind).")
    ] = "secret",
    changed: Annotated[float, typer.Option(help="Share of the sentence's words that differ from copy to copy.")] = 0.0,
    text_column: TextColumnOption = None,
    split: SplitOption = "train",
) -> None:
    """Put made-up secrets into text before a teacher is trained on it.

    Writes with_canaries.jsonl, to train on, and _private/canaries.json, for swingkd audit --canaries.

    Example: swingkd canaries --data notes.jsonl --output-dir out/canaries --repetitions 1 --repetitions 10
    """

    from swingkd.audit import CanarySet
    from swingkd.files import written_whole

    target = output_dir / "_private" / "canaries.json"
    if target.exists():
        raise ValueError(f"{target} exists already: a teacher may know them. Choose another --output-dir.")
    rows = load_rows(data, split)
    made = CanarySet.generate(
        template,
        kind=kind,  # type: ignore[arg-type]
        length=length,
        count=count,
        repetitions=tuple(repetitions or (1, 10, 100)),
        assign="coin" if coin else "all",
        asked=asked,  # type: ignore[arg-type]
        changed=changed,
    )
    with_canaries = made.insert(rows, text_column=text_column or "text")
    made.save(target)
    # Every secret stands in it.
    with written_whole(output_dir / "with_canaries.jsonl", owner_only=True) as part:
        with_canaries.to_json(part)
    inside = sum(canary.inserted for canary in made.canaries)
    say(f"{inside} canaries are in {output_dir / 'with_canaries.jsonl'}, {len(made.canaries) - inside} are not.")
    say("Train the teacher on it. Then ask it, and its students, with the model for MODEL:")
    show_command("audit", "--model", "MODEL", "--canaries", target)
