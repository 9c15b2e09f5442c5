"""swingkd crossfit, sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swingkd.cli.common import (
    DATA,
    INTERRUPTED,
    ConfigOption,
    SetOption,
    SplitOption,
    TextColumnOption,
    checked,
    command,
    load_rows,
    make_tagger,
    read_fields,
    say,
    show_command,
    text_named,
)


@command
def crossfit(
    base: Annotated[str, typer.Option(help="Model that each teacher begins with: a name on the Hub or a folder.")],
    data: Annotated[str, typer.Option(help=DATA)],
    output_dir: Annotated[Path | None, typer.Option(help="Where the teachers go.  \\[out/teachers]")] = None,
    text_column: TextColumnOption = None,
    split: SplitOption = "train",
    k: Annotated[
        int | None, typer.Option("--k", help="How many folds; each has a teacher that never saw it.  \\[2]")
    ] = None,
    held_out: Annotated[int, typer.Option(help="How many folds each teacher does without.")] = 1,
    group_by: Annotated[
        str | None, typer.Option(help="A column that names a person: all rows of one are in one fold.")
    ] = None,
    near_duplicates: Annotated[
        bool, typer.Option(help="Keep rows of nearly the same text in one fold, not only equal ones.")
    ] = True,
    rank: Annotated[
        int, typer.Option(help="Rank of the LoRA adapters, which share one base; 0 trains whole models.")
    ] = 16,
    config: ConfigOption = None,
    changes: SetOption = None,
    surrogates: Annotated[
        bool, typer.Option("--surrogates", help="Replace what the rules find, so that no teacher reads it either.")
    ] = False,
    tagger: Annotated[
        str | None, typer.Option(help="With --surrogates: a model that finds private text beside the rules.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the teachers that are missing.")] = False,
) -> None:
    """Train teachers out of fold: none of them answers about a record that it was trained on.

    Copies of a record, and nearly equal ones, share a fold. Ctrl-C ends the step, writes a checkpoint and stops: run
    it again with --resume.

    Examples:

    swingkd crossfit --base ./base --data notes.jsonl --output-dir out/teachers

    swingkd crossfit --base ./base --data notes.jsonl --group-by patient --k 3 --set num_train_epochs=3
    """
    from peft import LoraConfig

    from swingkd.data.folds import Folds
    from swingkd.tasks import task_of
    from swingkd.trainer.config import PrivateDistillationConfig
    from swingkd.trainer.crossfit import learnt_columns, train_out_of_fold
    from swingkd.trainer.interruption import StopOnInterrupt
    from swingkd.trainer.out_of_fold import FOLDS_FILE, is_out_of_fold

    if tagger and not surrogates:
        raise ValueError("--tagger finds what --surrogates replaces. Add --surrogates, or leave --tagger out.")
    if rank < 0:
        raise ValueError(f"--rank {rank} is no rank of an adapter: use 16, or 0 for whole models.")
    fields = read_fields(
        config, changes, output_dir=str(output_dir) if output_dir else None, dataset_text_field=text_column
    )
    output_dir = Path(fields.setdefault("output_dir", "out/teachers"))
    args = PrivateDistillationConfig(**checked(fields, PrivateDistillationConfig))
    begun = is_out_of_fold(str(output_dir))
    if begun and not resume:
        raise ValueError(f"{output_dir} holds teachers. Go on with --resume, or choose another --output-dir.")
    if resume and not begun:
        say(f"There is nothing in {output_dir} to go on with: beginning anew.", err=True)
    rows = load_rows(data, split)
    known = begun and (output_dir / FOLDS_FILE).exists()
    if known:
        # Which rows are where was drawn when it began.
        folds, told = None, Folds.load(output_dir / FOLDS_FILE).group_by
        if group_by is not None and group_by != told:
            raise ValueError(
                f"{output_dir} was begun with --group-by {told}. Leave it out to go on, or "
                "choose another --output-dir."
            )
    else:
        columns = learnt_columns(args, task_of(base, args.task), rows)
        folds = Folds.of(rows, k or 2, group_by=group_by, columns=columns, near_duplicates=near_duplicates)
    stop = StopOnInterrupt()
    try:
        with stop:
            teacher = train_out_of_fold(
                base,
                args,
                rows,
                folds=folds,
                k=k,
                held_out=held_out,
                peft_config=LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear") if rank else None,
                tagger=make_tagger(tagger) if surrogates else None,
                stop=stop,
            )
    except KeyboardInterrupt:
        say(f"Stopped; what is trained is in {output_dir}. Run the same command with --resume.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    say(f"{output_dir} holds {teacher.k} teachers: {teacher.folds}. They are as private as the text.")
    say("Next, with a student that begins with public weights for STUDENT:")
    show_command("distill", "--teacher", output_dir, "--student", "STUDENT", "--data", data)


@command
def sample(
    teacher: Annotated[str, typer.Option(help="A folder of swingkd crossfit, or a public (or private) model's name.")],
    output: Annotated[Path, typer.Option(help="Where the text goes: a file ending in .jsonl.")],
    count: Annotated[int, typer.Option(help="How many texts.")] = 1000,
    private: Annotated[
        str | None, typer.Option(help="What the teachers were trained on: near-copies of it are left out. " + DATA)
    ] = None,
    text_column: TextColumnOption = None,
    split: SplitOption = "train",
    prompts: Annotated[
        Path | None, typer.Option(help="A file with beginnings, one a line, without anything private.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest text, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="Of the sampling.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest tokens of this much probability.")] = 1.0,
    bound: Annotated[
        float, typer.Option(help="Leave out what its writer knows so much better than the other teacher, in nats.")
    ] = 10.0,
) -> None:
    """Let teachers write the text that a student learns from, so that it never reads a private record.

    Example: swingkd sample --teacher out/teachers --private notes.jsonl --output out/sampled.jsonl
    """
    from transformers import AutoModelForCausalLM

    from swingkd.files import written_whole
    from swingkd.models.loading import load_pretrained, load_tokenizer, placed
    from swingkd.privacy import PrivacyLedger
    from swingkd.trainer.out_of_fold import OutOfFoldTeacher, is_out_of_fold
    from swingkd.trainer.sampled import sample_transfer

    if output.suffix != ".jsonl":
        raise ValueError(f"--output {output} must end in .jsonl.")
    several = is_out_of_fold(teacher)
    known = text_named(load_rows(private, split), text_column or "text", private)["text"][:] if private else None
    rows, report = sample_transfer(
        placed(OutOfFoldTeacher.load(teacher) if several else load_pretrained(AutoModelForCausalLM, teacher)),
        load_tokenizer(teacher),
        count,
        known,
        prompts=prompts.read_text(encoding="utf-8").splitlines() if prompts else ("",),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        bound=bound,
    )
    # It may still say what its writer was trained on.
    with written_whole(output, owner_only=True) as part:
        rows.to_json(part)
    say(str(report))
    promised = None if several else PrivacyLedger.of_weights(teacher)
    if promised is not None and promised.as_teacher() and private is None:
        say(f"What the teacher's training promises holds for this text too: {promised}")
    elif promised is not None and promised.as_teacher():
        say(
            "What was left out depends on the private records themselves, which no promise of the teacher's covers. "
            "Without --private its promise holds for the text too."
        )
    elif private is None:
        say("Nothing was compared with private records: unless the teacher is public, name them with --private.")
    say(f"Written: {output}. Next, with a student that begins with public weights for STUDENT:")
    show_command("distill", "--teacher", teacher, "--student", "STUDENT", "--data", output)
