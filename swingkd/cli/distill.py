"""swingkd distill, cache-teacher."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from swingkd.cli.common import (
    DATA,
    INTERRUPTED,
    ConfigOption,
    SetOption,
    SplitOption,
    TaggerOption,
    TextColumnOption,
    checked,
    command,
    load_rows,
    make_tagger,
    read_fields,
    say,
    show_command,
)


@command
def distill(
    student: Annotated[str, typer.Option(help="Student to start from: a name on the Hub or a folder.")],
    data: Annotated[str, typer.Option(help=DATA)],
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Teacher: a name on the Hub, a folder, or one of crossfit; not needed where cache-teacher wrote the "
            "data."
        ),
    ] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where the student goes.  \\[out/student]")] = None,
    text_column: TextColumnOption = None,
    split: SplitOption = "train",
    config: ConfigOption = None,
    changes: SetOption = None,
    task: Annotated[
        str | None,
        typer.Option(help="text-generation, fill-mask, text-classification, ...; default: what the teacher is for."),
    ] = None,
    protection: Annotated[
        str | None,
        typer.Option(help="surrogate, mollify, population, noise, drop or none; default: the configuration's."),
    ] = None,
    public_model: Annotated[
        str | None, typer.Option(help="For --protection mollify: a model trained on public text.")
    ] = None,
    teacher_tokenizer: Annotated[
        str | None,
        typer.Option(help="For classifiers: the teacher's tokenizer or image processor, where it has its own."),
    ] = None,
    tagger: TaggerOption = None,
    plain: Annotated[bool, typer.Option("--plain", help="Protect nothing, look for nothing: the rival.")] = False,
    eval_data: Annotated[
        str | None, typer.Option(help="Evaluate on this at the end, for the card: text that was held out.")
    ] = None,
    eval_split: Annotated[str, typer.Option(help="Which split of it to read.")] = "test",
    push_to: Annotated[str | None, typer.Option(help="Send the student to this repository on the Hub.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in the output folder.")] = False,
    dry: Annotated[
        bool,
        typer.Option("--dry-run", help="Load, tag and check; say what would happen, the memory and the time; stop."),
    ] = False,
) -> None:
    """Distil a model; private text is found by the rules, and by --tagger where it is given.

    Ctrl-C ends the step, writes a checkpoint and stops: run it again with --resume.

    Examples:

    swingkd distill --teacher ./teacher --student ./student --data notes.jsonl --output-dir out/student

    swingkd distill --teacher ./teacher --student ./student --data notes.jsonl --config mine.yaml --set max_steps=500
    """
    from swingkd.audit.loading import AUDITED
    from swingkd.data import PII_COLUMNS
    from swingkd.models.loading import load_image_processor, load_tokenizer
    from swingkd.trainer import PrivateDistillationTrainer
    from swingkd.trainer.checkpoints import last_complete_checkpoint
    from swingkd.trainer.config import PrivateDistillationConfig
    from swingkd.trainer.dry_run import dry_run
    from swingkd.trainer.interruption import StopOnInterrupt
    from swingkd.trainer.out_of_fold import is_out_of_fold

    if plain and (tagger or protection not in (None, "none")):
        raise ValueError("--plain protects nothing. Leave out --tagger and --protection.")
    if eval_data and _source(data, split) == _source(eval_data, eval_split):
        raise ValueError("--eval-data is what the student is trained on. Name text that was held out.")
    fields = read_fields(
        config,
        changes,
        output_dir=str(output_dir) if output_dir else None,
        task=task,
        protection="none" if plain else protection,
        hub_model_id=push_to,
        dataset_text_field=_columns(text_column),
    )
    if teacher is not None and is_out_of_fold(teacher):
        fields.setdefault("alpha", 1.0)  # hard labels are the record, which no teacher of it has seen
    output_dir = Path(fields.setdefault("output_dir", "out/student"))
    if dry:
        # What is made on the way goes with it.
        fields["output_dir"] = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, fields["output_dir"], ignore_errors=True)
    args = PrivateDistillationConfig(**checked(fields, PrivateDistillationConfig))
    begun = last_complete_checkpoint(str(output_dir)) is not None
    if begun and not resume:
        raise ValueError(f"{output_dir} holds checkpoints. Go on with --resume, or choose another --output-dir.")
    if resume and not begun:
        say(f"There is no checkpoint in {output_dir}: beginning anew.", err=True)
    rows = load_rows(data, split)
    features = rows.features or {}
    images = [name for name in rows.column_names if name == "pixel_values" or _is_image(features.get(name))]
    tokens = ["input_ids"] if "input_ids" in rows.column_names else []
    if tagger and (images or tokens):
        raise ValueError(f"--tagger reads text, and {data} has {', '.join(images + tokens)}. Leave it out.")
    if plain:
        # Rows of a cache, and images, say themselves what is private.
        rows = rows.remove_columns([name for name in rows.column_names if name in PII_COLUMNS])
    # Beside rows that were tagged already there may be text that was not, to evaluate on.
    text = not images and (not tokens or "pii_likelihood" in rows.column_names)
    read = load_image_processor if images else load_tokenizer
    own = read(teacher_tokenizer) if teacher_tokenizer else None
    stop = StopOnInterrupt()
    trainer = PrivateDistillationTrainer(
        student,
        args,
        teacher_model=teacher,
        train_dataset=rows,
        eval_dataset=load_rows(eval_data, eval_split) if eval_data else None,
        tagger=make_tagger(tagger) if text and not plain else None,
        public_model=public_model,
        teacher_processing_class=own,
        callbacks=[stop],
    )
    if dry:
        for line in dry_run(trainer):
            say(line)
        say("Nothing was trained, and nothing is kept. Leave out --dry-run to begin.")
        return
    if push_to:
        trainer.init_hf_repo()  # what cannot be sent is known now, and not hours from here
    with stop:
        trainer.train(resume_from_checkpoint=resume or None)
    if stop.interrupted and trainer.state.global_step < trainer.state.max_steps:
        say(f"Stopped; a checkpoint is in {output_dir}. Run the same command with --resume.", err=True)
        raise typer.Exit(INTERRUPTED)
    if eval_data:
        trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card(model_name=output_dir.name)
    sent = trainer.push_to_hub() if push_to else None
    say(str(trainer.ledger))
    say(f"The student, its card and its page are in {output_dir}.{f' Sent: {sent}' if sent else ''}")
    if trainer.task.name in AUDITED:
        say(
            "Next: measure what it remembers."
            + ("" if eval_data else " NONMEMBERS is text alike that it was not trained on.")
        )
        show_command(
            *("audit", "--model", output_dir, "--members", data, "--nonmembers", eval_data or "NONMEMBERS"),
            *(("--text-column", text_column) if text_column else ()),
            "--card",
        )


def _columns(named: str | None) -> str | list[str] | None:
    """Return a column with text, or the two of a pair: a,b."""
    columns = named.split(",") if named is not None else []
    return columns if len(columns) > 1 else named


def _source(data: str, split: str) -> tuple[str, str | None]:
    """Name what `load_rows` reads: of files and folders of save_to_disk it reads everything, whatever the split."""
    path = Path(data).resolve()
    if path.is_file() or (path / "state.json").exists():
        return str(path), None
    return (str(path) if path.is_dir() else data), split


def _is_image(feature: object) -> bool:
    from datasets import Image

    return isinstance(feature, Image)


@command
def cache_teacher(
    teacher: Annotated[
        str,
        typer.Option(
            help="Teacher: a name on the Hub or a folder, with its tokenizer; or http://... of a server that has it."
        ),
    ],
    data: Annotated[str, typer.Option(help=DATA)],
    output_dir: Annotated[
        Path | None,
        typer.Option(help="The data goes to its folder `private`; to `protected` with --protect.  \\[out/cache]"),
    ] = None,
    text_column: TextColumnOption = None,
    split: SplitOption = "train",
    top_k: Annotated[
        int | None, typer.Option(help="How many of the teacher's likeliest tokens to keep.  \\[64; 20 of a server]")
    ] = None,
    teacher_model: Annotated[
        str | None, typer.Option(help="With a server: what it calls the teacher, where it has several models.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="With a server: the teacher's tokenizer, a name on the Hub or a folder.")
    ] = None,
    config: ConfigOption = None,
    changes: SetOption = None,
    tagger: TaggerOption = None,
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

    Examples:

    swingkd cache-teacher --teacher ./teacher --data notes.jsonl --output-dir out/cache

    swingkd cache-teacher --teacher http://localhost:8000/v1 --tokenizer ./teacher --data notes.jsonl

    A server is asked for the log-probabilities of its prompts, as vLLM and llama.cpp give them. The rows are sent to
    it: use one of your own.
    """
    from transformers import AutoModelForCausalLM

    from swingkd.files import folder_written_whole
    from swingkd.models.loading import load_pretrained, load_tokenizer
    from swingkd.models.teacher_server import TeacherServer
    from swingkd.trainer.config import PrivateDistillationConfig
    from swingkd.trainer.out_of_fold import OutOfFoldTeacher, is_out_of_fold
    from swingkd.trainer.teacher_cache import cache_teacher as write

    fields = read_fields(
        config,
        changes,
        output_dir=str(output_dir) if output_dir else None,
        protection=protect,
        dataset_text_field=text_column,
    )
    # Never in one folder: what is handed out must not lie among what is private.
    target = Path(fields.setdefault("output_dir", "out/cache")) / ("protected" if protect else "private")
    if target.exists():
        raise ValueError(f"{target} exists already. Choose another --output-dir, or delete it first.")
    args = PrivateDistillationConfig(**checked(fields, PrivateDistillationConfig))
    rows = load_rows(data, split)
    served = teacher.startswith(("http://", "https://"))
    if not served and (teacher_model or tokenizer):
        raise ValueError("--teacher-model and --tokenizer are for a --teacher that is a server: http://...")
    if served:
        asked: Any = TeacherServer(teacher, teacher_model)
    elif is_out_of_fold(teacher):
        asked = OutOfFoldTeacher.load(teacher)
    else:
        asked = load_pretrained(AutoModelForCausalLM, teacher)
    read_by = (tokenizer or asked.source) if served else teacher
    if read_by is None:
        raise ValueError("The server does not say where its tokenizer comes from. Name it: --tokenizer.")
    written = write(
        asked,
        args,
        rows,
        load_tokenizer(read_by),
        tagger=make_tagger(tagger),
        public_model=load_pretrained(AutoModelForCausalLM, public_model) if public_model else None,
        top_k=top_k if top_k is not None else 20 if served else 64,
        protect=protect is not None,
        private_dataset=load_rows(private_data, split) if private_data else None,
    )
    # As private as the text: nobody else looks into the folder.
    with folder_written_whole(target, owner_only=not protect) as part:
        written.save_to_disk(part)
    what = "the teacher's own targets: as private as the text"
    if protect:
        what = (
            "protected targets. Hand out that folder only, never _private/. They carry no differential privacy "
            "guarantee, and what the tagger missed is not protected"
        )
    say(f"{target} holds {what}. Next, with a student of yours for STUDENT:")
    show_command("distill", "--student", "STUDENT", "--data", target)
