"""The `swingkd` command: thin, one function per sub-command."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from rich.console import Console
from rich.text import Text

from swingkd.tagging import CharTags, RuleTagger, label_spans

_DATA = "A .jsonl, .csv, .parquet or .txt file, a folder of save_to_disk, or a data set on the Hub."
app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_show_locals=False, help=__doc__)


def recipes_dir() -> Path:
    """Return where the recipes are: inside an installed wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.exists() else Path(__file__).parent.parent / "recipes"


def _fail(message: str) -> typer.Exit:
    Console(stderr=True).print(Text("error: ", style="bold red") + Text(message), highlight=False, soft_wrap=True)
    return typer.Exit(2)


@app.command()
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
    script["main"](output_dir)


@app.command()
def distill(
    student: Annotated[str, typer.Option(help="Student to start from: a name on the Hub or a folder.")],
    data: Annotated[str, typer.Option(help=_DATA)],
    teacher: Annotated[
        str | None,
        typer.Option(help="Teacher: a name on the Hub or a folder; not needed where cache-teacher wrote the data."),
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Where the student goes.")] = Path("out/student"),
    split: Annotated[str, typer.Option(help="Which split to train on.")] = "train",
    config: Annotated[
        Path | None, typer.Option(help="YAML with any field of PrivateDistillationConfig.", exists=True)
    ] = None,
    protection: Annotated[
        str | None, typer.Option(help="mollify, population, noise, drop or none; default: the configuration's.")
    ] = None,
    public_model: Annotated[
        str | None, typer.Option(help="For --protection mollify: a model trained on public text.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in the output folder.")] = False,
) -> None:
    """Distil a causal language model; private tokens are found by the rules.

    Example: swingkd distill --teacher ./teacher --student ./student --data notes.jsonl --output-dir out/student
    """
    from datasets.exceptions import DatasetsError

    from swingkd.config import PrivateDistillationConfig
    from swingkd.trainer import PrivateDistillationTrainer

    try:
        fields: dict[str, Any] = yaml.safe_load(config.read_text()) or {} if config else {}
        fields |= {"output_dir": str(output_dir)} | ({"protection": protection} if protection else {})
        args = PrivateDistillationConfig(**fields)
        rows = _load(data, split)
        tagger = None if "input_ids" in (rows.column_names or []) else RuleTagger()
        trainer = PrivateDistillationTrainer(
            student, teacher, args, train_dataset=rows, tagger=tagger, public_model=public_model
        )
        trainer.train(resume_from_checkpoint=resume or None)
    except (ValueError, TypeError, OSError, DatasetsError, yaml.YAMLError) as error:
        raise _fail(str(error)) from error
    trainer.save_model()
    typer.echo(str(trainer.ledger))
    typer.echo(f"The student is in {output_dir}. Next: measure what it remembers with swingkd audit.")


@app.command()
def cache_teacher(
    teacher: Annotated[str, typer.Option(help="Teacher: a name on the Hub or a folder, with its tokenizer.")],
    data: Annotated[str, typer.Option(help=_DATA)],
    output_dir: Annotated[
        Path, typer.Option(help="The data goes to its folder `private`; to `protected` with --protect.")
    ] = Path("out/cache"),
    split: Annotated[str, typer.Option(help="Which split to read.")] = "train",
    top_k: Annotated[int, typer.Option(help="How many of the teacher's likeliest tokens to keep.")] = 64,
    config: Annotated[
        Path | None, typer.Option(help="YAML with any field of PrivateDistillationConfig.", exists=True)
    ] = None,
    protect: Annotated[
        str | None, typer.Option(help="Write protected targets, to hand out: noise, mollify, population or drop.")
    ] = None,
    private_data: Annotated[
        str | None, typer.Option(help="With --protect: the text that the teacher was trained on, to be refused.")
    ] = None,
    public_model: Annotated[
        str | None, typer.Option(help="For --protect mollify: a model trained on public text.")
    ] = None,
) -> None:
    """Ask the teacher once and write what it says beside the tokens: students then train without it.

    Example: swingkd cache-teacher --teacher ./teacher --data notes.jsonl --output-dir out/cache
    """
    from datasets.exceptions import DatasetsError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from swingkd.config import PrivateDistillationConfig
    from swingkd.teacher_cache import cache_teacher as write

    # Never in one folder: what is handed out must not lie among what is private.
    target = output_dir / ("protected" if protect else "private")
    try:
        if target.exists():
            raise ValueError(f"{target} exists already. Choose another --output-dir, or delete it first.")
        fields: dict[str, Any] = yaml.safe_load(config.read_text()) or {} if config else {}
        fields |= {"output_dir": str(output_dir)} | ({"protection": protect} if protect else {})
        written = write(
            AutoModelForCausalLM.from_pretrained(teacher),
            PrivateDistillationConfig(**fields),
            _load(data, split),
            AutoTokenizer.from_pretrained(teacher),
            tagger=RuleTagger(),
            public_model=AutoModelForCausalLM.from_pretrained(public_model) if public_model else None,
            top_k=top_k,
            protect=protect is not None,
            private_dataset=_load(private_data, split) if private_data else None,
        )
        written.save_to_disk(target)
    except (ValueError, TypeError, OSError, DatasetsError, yaml.YAMLError) as error:
        raise _fail(str(error)) from error
    what = "the teacher's own targets: as private as the text"
    if protect:
        what = (
            "protected targets. Hand out that folder only, never _private/. They carry no differential privacy "
            "guarantee, and what the tagger missed is not protected"
        )
    typer.echo(f"{target} holds {what}. Next: swingkd distill --data {target} --student ...")


@app.command()
def tag(
    source: Annotated[str, typer.Argument(help="A text file, a .jsonl file, or - for standard input.")] = "-",
    text_column: Annotated[str, typer.Option(help="The field with the text, for .jsonl.")] = "text",
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON lines with the spans instead of colour.")
    ] = False,
    threshold: Annotated[float, typer.Option(help="Show what is at least this likely private.")] = 0.5,
) -> None:
    """Show what the rules take for private.

    Example: echo "My pin is 4711." | swingkd tag
    """
    try:
        raw = sys.stdin.read() if source == "-" else Path(source).read_text()
        # Not splitlines(): JSON strings may hold the rarer line separators.
        lines = [line for line in raw.split("\n") if line.strip()]
        texts = [json.loads(line)[text_column] for line in lines] if source.endswith(".jsonl") else lines
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{text_column!r} is not text in every row")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _fail(
            f"cannot read {source}: {error!r}. Give a text file, or a .jsonl file with --text-column."
        ) from error
    tagger, console = RuleTagger(), Console()
    for text, tags in zip(texts, tagger.tag(texts), strict=True):
        found = np.where(tags.likelihood >= threshold, tags.labels, 0)
        spans = label_spans(found)
        if as_json:
            rows = [
                {"start": start, "end": end, "label": tagger.labels[label], "likelihood": _highest(tags, start, end)}
                for start, end, label in spans
            ]
            typer.echo(json.dumps({"text": text, "spans": rows}, ensure_ascii=False))
            continue
        coloured = Text(text)
        for start, end, label in reversed(spans):
            coloured.stylize("bold white on red", start, end)
            coloured = coloured[:end] + Text(f" {tagger.labels[label]}", style="dim red") + coloured[end:]
        console.print(coloured)


@app.command()
def audit(
    model: Annotated[str, typer.Option(help="The model: a name on the Hub or a folder, with its tokenizer.")],
    members: Annotated[str | None, typer.Option(help="Records that it was trained on. " + _DATA)] = None,
    nonmembers: Annotated[str | None, typer.Option(help="Records alike that it was not trained on.")] = None,
    reference: Annotated[
        list[str] | None, typer.Option(help="A model that saw none of the records; may be given several times.")
    ] = None,
    canaries: Annotated[Path | None, typer.Option(help="What CanarySet.save wrote.", exists=True)] = None,
    pii: Annotated[
        str | None,
        typer.Option(help="Training text to extract private values from, with their `spans` where they are known."),
    ] = None,
    unseen: Annotated[
        str | None, typer.Option(help="With --pii: text alike that the model never saw, to compare with.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where report.json and the figures go.")] = Path("out/audit"),
    prefix_tokens: Annotated[int, typer.Option(help="How much of a text is given to be continued.")] = 50,
    suffix_tokens: Annotated[int, typer.Option(help="How much of it is asked for.")] = 50,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="With --pii, only this: continuation, values, reconstruction or inference; several times."),
    ] = None,
    samples: Annotated[int, typer.Option(help="How many texts to sample in search of private values.")] = 1000,
    candidates: Annotated[int, typer.Option(help="Among how many the model picks a private value.")] = 20,
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Write the private values that were found into report.json.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report instead of tables.")] = False,
) -> None:
    """Attack a model: exposure of canaries, membership, empirical epsilon, extraction.

    Example: swingkd audit --model ./student --members train.jsonl --nonmembers test.jsonl --canaries canaries.json
    """
    from datasets.exceptions import DatasetsError

    from swingkd.audit import CanarySet, audit_model, read_records
    from swingkd.audit.loading import load_model, load_reference
    from swingkd.report import audit_tables, write_audit

    try:
        # What is read first is refused first: models take longer.
        out.mkdir(parents=True, exist_ok=True)
        data: dict[str, Any] = {
            name: read_records(source) if source else None
            for name, source in (
                ("members", members), ("nonmembers", nonmembers), ("private_text", pii), ("unseen_text", unseen),
            )
        }  # fmt: skip
        canary_set = CanarySet.load(canaries) if canaries else None
        extraction: dict[str, Any] | None = None
        if pii:
            extraction = {"prefix_tokens": prefix_tokens, "suffix_tokens": suffix_tokens, "samples": samples}
            extraction |= {"candidates": candidates} | ({"attacks": attack} if attack else {})
        audited, processing = load_model(model)
        report = audit_model(
            audited, processing, **data, canaries=canary_set,
            references=[load_reference(name, processing) for name in reference or []],
            extraction=extraction,
        )  # fmt: skip
    except (ValueError, OSError, DatasetsError) as error:
        raise _fail(str(error)) from error
    written = write_audit(report, out, title=model, show_secrets=show_secrets)
    if as_json:
        typer.echo(json.dumps(report.to_dict(show_secrets), ensure_ascii=False))
        return
    console = Console()
    for table in audit_tables(report):
        console.print(table)
    if report.extraction:
        console.print(str(report.extraction), highlight=False)
    console.print(f"Written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)


@app.command()
def budget(
    units: Annotated[int, typer.Argument(help="How many records there are, or users.")],
    batch: Annotated[int, typer.Option(help="How many of them a step draws on average.")] = 256,
    epochs: Annotated[float, typer.Option(help="How often each is drawn on average.")] = 3.0,
    epsilon: Annotated[float | None, typer.Option(help="What the run may cost; the noise is found.")] = None,
    noise: Annotated[float | None, typer.Option(help="The noise multiplier; the epsilon is found.")] = None,
    delta: Annotated[float | None, typer.Option(help="Of the guarantee; default: a tenth of 1 / units.")] = None,
    unit: Annotated[str, typer.Option(help="What a unit is called.")] = "record",
    accountant: Annotated[str, typer.Option(help="prv (tight) or rdp (an upper bound).")] = "prv",
    figure: Annotated[Path | None, typer.Option(help="Draw it: a .png file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Plan a private run: the noise that an epsilon needs, or the epsilon that some noise gives.

    Example: swingkd budget 10000 --batch 512 --epochs 5 --epsilon 8
    """
    from swingkd.privacy import Budget
    from swingkd.report import budget_dict, budget_figure, budget_line, budget_tables

    try:
        if figure is not None and figure.suffix.lower() != ".png":
            raise ValueError(f"--figure {figure}: the figure is a PNG, name it {figure.with_suffix('.png')}.")
        planned = Budget.of(
            units, batch=batch, epochs=epochs, epsilon=8.0 if epsilon is None and noise is None else epsilon,
            noise_multiplier=noise, delta=delta, unit=unit, accountant=accountant,  # type: ignore[arg-type]
        )  # fmt: skip
        content = budget_dict(planned)
        drawn = budget_figure(content, figure) if figure is not None else None
    except (ValueError, OSError) as error:
        raise _fail(str(error)) from error
    if as_json:
        typer.echo(json.dumps(content))
        return
    console = Console()
    console.print(budget_line(content), highlight=False, soft_wrap=True)
    for table in budget_tables(content):
        console.print(table)
    if drawn is not None:
        console.print(f"Written: {drawn}", highlight=False, soft_wrap=True)


@app.command()
def federate(
    config: Annotated[
        Path, typer.Option(help="YAML with the fields of FederationSettings; that of a recipe will do.", exists=True)
    ],
    output_dir: Annotated[Path, typer.Option(help="Where the clients' models, the results and the card go.")] = Path(
        "out/federation"
    ),
    method: Annotated[
        str | None, typer.Option(help="sd_dist, fedmd, local, ...; default: the configuration's.")
    ] = None,
    engine: Annotated[str, typer.Option(help="inproc: all in this process; flower: on Flower.")] = "inproc",
    superlink: Annotated[
        str | None, typer.Option(help="With --engine flower: a connection of Flower's; default: a simulation here.")
    ] = None,
    min_nodes: Annotated[int | None, typer.Option(help="With --engine flower: nodes that a round waits for.")] = None,
    round_timeout: Annotated[float, typer.Option(help="With --engine flower: seconds a round may take.")] = 600.0,
) -> None:
    """Let clients with different models learn from each other; run again, it goes on where it stopped.

    Example: swingkd federate --config recipes/sd_dist_har/config.yaml --output-dir out/har
    """
    from datasets.exceptions import DatasetsError

    from swingkd.decentralized import federate as run
    from swingkd.report import MetricsFile, federation_table, write_card

    try:
        fields: dict[str, Any] = yaml.safe_load(config.read_text()) or {}
        fields |= {"method": method} if method else {}
        others = {"superlink": superlink, "least": min_nodes, "patience": round_timeout} if engine == "flower" else {}
        outcome = run(fields, output_dir, engine, **others)  # type: ignore[arg-type]
        metrics = MetricsFile(output_dir / "metrics.json", "federation", fields)
        where = f"table=main seed={fields.get('seed', 0)}"
        name = fields.get("method", "sd_dist")
        if not metrics.has(name, where):
            metrics.add(outcome.rows(name, where))
        card_path = write_card(metrics.path, output_dir)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, DatasetsError, yaml.YAMLError) as error:
        raise _fail(str(error)) from error
    Console().print(federation_table(outcome.accuracies))
    typer.echo(str(outcome.weakest))
    typer.echo(f"Written: {card_path}")


@app.command()
def card(
    metrics: Annotated[Path, typer.Argument(help="The metrics.json of a run.", exists=True)],
    output_dir: Annotated[Path | None, typer.Option(help="Where the card goes; default: beside the metrics.")] = None,
) -> None:
    """Write the card and the figure of a run from its metrics.json.

    Example: swingkd card out/quickstart/metrics.json
    """
    from swingkd.report import write_card

    try:
        path = write_card(metrics, output_dir or metrics.parent)
    except ValueError as error:
        raise _fail(str(error)) from error
    typer.echo(f"Written: {path}")


def _highest(tags: CharTags, start: int, end: int) -> float:
    return round(float(tags.likelihood[start:end].max()), 3)


def _load(data: str, split: str):
    from datasets import load_dataset, load_from_disk

    if (Path(data) / "state.json").exists():
        return load_from_disk(data)
    kinds = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
    kind = kinds.get(os.path.splitext(data)[1])
    if kind:
        return load_dataset(kind, data_files=data, split="train")
    return load_dataset(data, split=split)


if __name__ == "__main__":
    app()
