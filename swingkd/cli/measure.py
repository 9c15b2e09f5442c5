"""swingkd audit, budget, card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from swingkd.cli.common import DATA, TextColumnOption, command, plain_console, say, text_named


@command
def audit(
    model: Annotated[str, typer.Option(help="The model: a name on the Hub or a folder, with its tokenizer.")],
    members: Annotated[str | None, typer.Option(help="Records that it was trained on. " + DATA)] = None,
    nonmembers: Annotated[str | None, typer.Option(help="Records alike that it was not trained on.")] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            help="A model that saw none of the records, or base: the model with its adapter off; several times."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            "--against",
            help="The model's teacher, or a model to compare with: what is gone. An attack that does not catch it "
            "either has no power.",
        ),
    ] = None,
    canaries: Annotated[
        Path | None, typer.Option(help="The canaries.json that swingkd canaries wrote.", exists=True)
    ] = None,
    pii: Annotated[
        str | None,
        typer.Option(help="Training text to extract private values from, with their `spans` where they are known."),
    ] = None,
    unseen: Annotated[
        str | None, typer.Option(help="With --pii: text alike that the model never saw, to compare with.")
    ] = None,
    text_column: TextColumnOption = None,
    out: Annotated[Path, typer.Option(help="Where report.json and the figures go.")] = Path("out/audit"),
    onto_card: Annotated[
        bool,
        typer.Option("--card", help="Also write it onto the model's card and page, in place of what stood there."),
    ] = False,
    prefix_tokens: Annotated[int, typer.Option(help="How much of a text is given to be continued.")] = 50,
    suffix_tokens: Annotated[int, typer.Option(help="How much of it is asked for.")] = 50,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="With --pii, only this: continuation, values, reconstruction or inference; several times."),
    ] = None,
    samples: Annotated[int, typer.Option(help="How many texts to sample in search of private values.")] = 1000,
    limit: Annotated[int, typer.Option(help="How many private values to reconstruct and to pick.")] = 200,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --pii: a quarter of the samples and values, for a first look.")
    ] = False,
    candidates: Annotated[int, typer.Option(help="Among how many the model picks a private value.")] = 20,
    annex: Annotated[
        bool,
        typer.Option(
            "--annex", help="Also write annex.json and annex.html: the evidence that EDPB Opinion 28/2024 asks for."
        ),
    ] = False,
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Write the private values that were found into report.json.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report instead of tables.")] = False,
) -> None:
    """Attack a model: exposure of canaries, membership, empirical epsilon, extraction.

    Examples:

    swingkd audit --model ./student --members train.jsonl --nonmembers test.jsonl --canaries canaries.json

    swingkd audit --model out/student --members train.jsonl --nonmembers test.jsonl --card

    swingkd audit --model ./student --against ./teacher --members train.jsonl --nonmembers test.jsonl --annex
    """

    from swingkd.audit import CanarySet, audit_model, read_records
    from swingkd.audit.foretold import foretell_extraction
    from swingkd.audit.loading import load_model, load_reference
    from swingkd.audit.records import rows_digest, text_records
    from swingkd.files import PRIVATE, keep_secret
    from swingkd.models.base_model import has_adapter
    from swingkd.models.loading import public_name
    from swingkd.privacy import PrivacyLedger, module_digest
    from swingkd.progress import duration
    from swingkd.report import audit_tables, read_model_facts, write_audit, write_audit_onto_card
    from swingkd.report.annex import ANNEX_KEY, Identified, write_annex
    from swingkd.report.model_files import CARD_FILE

    # What is read first is refused first: models take longer.
    if onto_card:
        read_model_facts(model)
    out.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {
        name: text_named(read_records(source), text_column, source) if source else None
        for name, source in (
            ("members", members),
            ("nonmembers", nonmembers),
            ("private_text", pii),
            ("unseen_text", unseen),
        )
    }
    canary_set = CanarySet.load(canaries) if canaries else None
    extraction: dict[str, Any] | None = None
    if pii:
        part = 4 if quick else 1
        sizes = {"samples": max(samples // part, 1), "limit": max(limit // part, 1), "candidates": candidates}
        extraction = {"prefix_tokens": prefix_tokens, "suffix_tokens": suffix_tokens, **sizes}
        extraction |= {"attacks": attack} if attack else {}
    elif quick:
        raise ValueError("--quick is for --pii. Leave it out.")
    audited, processing = load_model(model)
    if extraction is not None and audited.can_generate() and not as_json:
        texts = text_records(data["private_text"], "texts").texts
        asked = {name: value for name, value in extraction.items() if not name.endswith("_tokens")}
        seconds = foretell_extraction(audited, processing, texts, **asked, sides=2 if unseen else 1)
        hint = "" if quick or seconds < 60 else "; --quick takes about a quarter of it"
        say(f"The search for private values takes about {duration(seconds)}{hint}.", err=True)
    references = reference or []
    if not references and members and has_adapter(audited):
        references = ["base"]
        say("The model has an adapter, so what it was trained from is the reference.", err=True)
    control = load_reference(teacher, processing) if teacher else None
    report = audit_model(
        audited,
        processing,
        **data,
        canaries=canary_set,
        references=["base" if name == "base" else load_reference(name, processing) for name in references],
        teacher=control,
        extraction=extraction,
    )
    written = write_audit(report, out, title=public_name(model) or model, show_secrets=show_secrets)
    if annex:
        models = {"audited model": (model, audited), "compared with": (teacher, control)}
        known = [
            Identified(role, public_name(name) or str(name), module_digest(one), one.num_parameters())
            for role, (name, one) in models.items()
            if one is not None
        ]
        given = [*data.items(), ("canaries", canary_set and canary_set.canaries)]
        keep_secret(out / PRIVATE / ANNEX_KEY)
        key = (out / PRIVATE / ANNEX_KEY).read_bytes()
        known += [Identified(role, "", *rows_digest(rows, key)) for role, rows in given if rows is not None]
        written += write_annex(
            report, out, title=public_name(model) or model, identified=known, ledger=PrivacyLedger.of_weights(model)
        )
    if onto_card:
        write_audit_onto_card(report, model)
        written.append(Path(model) / CARD_FILE)
        if not as_json:
            say("The model's card tells of this audit only: give all that it shall tell of in one call.")
    if as_json:
        typer.echo(json.dumps(report.to_dict(show_secrets), ensure_ascii=False))
        return
    console = plain_console()
    for table in audit_tables(report):
        console.print(table)
    console.print(f"Written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)


@command
def budget(
    units: Annotated[int, typer.Argument(help="How many records there are, or users.")],
    batch: Annotated[
        int | None, typer.Option(help="How many of them a step draws on average.  \\[256, or all]")
    ] = None,
    epochs: Annotated[float, typer.Option(help="How often each is drawn on average.")] = 3.0,
    epsilon: Annotated[float | None, typer.Option(help="What the run may cost; the noise is found.")] = None,
    noise: Annotated[float | None, typer.Option(help="The noise multiplier; the epsilon is found.")] = None,
    delta: Annotated[float | None, typer.Option(help="Of the guarantee; default: a tenth of 1 / units.")] = None,
    unit: Annotated[str, typer.Option(help="What a unit is called.")] = "record",
    accountant: Annotated[
        str, typer.Option(help="pld (tight, and fast), prv (what a training counts with) or rdp (an upper bound).")
    ] = "pld",
    table: Annotated[
        bool, typer.Option("--table", help="Also the same run with other noise, and other runs.")
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw it: a .png file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Plan a private run: the noise that an epsilon needs, or the epsilon that some noise gives.

    Example: swingkd budget 10000 --batch 512 --epochs 5 --epsilon 8
    """
    from swingkd.privacy.budget import Budget
    from swingkd.report.budget import budget_dict, budget_figure, budget_line, budget_tables

    if batch is None:
        batch = min(256, units)
    if figure is not None and figure.suffix.lower() != ".png":
        raise ValueError(f"--figure {figure}: the figure is a PNG, name it {figure.with_suffix('.png')}.")
    planned = Budget.of(
        units,
        batch=batch,
        epochs=epochs,
        epsilon=8.0 if epsilon is None and noise is None else epsilon,
        noise_multiplier=noise,
        delta=delta,
        unit=unit,
        accountant=accountant,  # type: ignore[arg-type]
    )
    console = plain_console()
    if not as_json:
        console.print(budget_line(budget_dict(planned, around=False)), highlight=False, soft_wrap=True)
    if not (table or figure or as_json):
        say("Other batches, epochs and noise: --table.")
        return
    content = budget_dict(planned, around=table or figure is not None)
    drawn = budget_figure(content, figure) if figure is not None else None
    if as_json:
        typer.echo(json.dumps(content))
        return
    for shown in budget_tables(content) if table else ():
        console.print(shown)
    if drawn is not None:
        console.print(f"Written: {drawn}", highlight=False, soft_wrap=True)


@command
def card(
    metrics: Annotated[Path, typer.Argument(help="The metrics.json of a run.", exists=True)],
    output_dir: Annotated[Path | None, typer.Option(help="Where the card goes; default: beside the metrics.")] = None,
) -> None:
    """Write the card and the figure of a run from its metrics.json.

    Example: swingkd card out/quickstart/metrics.json
    """
    from swingkd.report import write_card

    if metrics.is_dir():
        raise ValueError(
            f"{metrics} is a folder. Name a run's metrics.json. The card of one model is written by swingkd distill, "
            "and what an audit finds goes onto it with swingkd audit --card."
        )
    path = write_card(metrics, output_dir or metrics.parent)
    say(f"Written: {path}")
