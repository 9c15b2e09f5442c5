"""Train teachers out of fold: one for each fold, without its rows; what is trained stays trained."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from peft import PeftConfig, PeftModel
from peft.utils import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel

from swingkd.data.folds import Folds
from swingkd.data.row_contents import BEFORE_TEXT
from swingkd.files import SEAL_FILE, alone_in, seal, write_json
from swingkd.models.loading import load_pretrained, load_processor, name_of
from swingkd.surrogates import Surrogates
from swingkd.tagging import Tagger
from swingkd.tasks import Task, task_of
from swingkd.trainer.checkpoints import last_complete_checkpoint
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.distillation import PrivateDistillationTrainer
from swingkd.trainer.interruption import StopOnInterrupt
from swingkd.trainer.out_of_fold import (
    ABOUT_FILE,
    FOLDS_FILE,
    NAME,
    About,
    OutOfFoldTeacher,
    check_adapters,
    check_held_out,
    is_out_of_fold,
)
from swingkd.trainer.resuming import run_settings

log = logging.getLogger(__name__)

# What an adapter is known by; PEFT fills in the rest when it finds its modules.
_SHAPE = ("r", "lora_alpha", "use_rslora")


def train_out_of_fold(
    model: str | PreTrainedModel,
    args: PrivateDistillationConfig,
    dataset: Dataset,
    processing_class: Any = None,
    *,
    folds: Folds | None = None,
    k: int | None = None,
    held_out: int = 1,
    peft_config: PeftConfig | None = None,
    tagger: Tagger | None = None,
    surrogates: Surrogates | None = None,
    train: Callable[[Dataset, Path], PreTrainedModel] | None = None,
    stop: StopOnInterrupt | None = None,
) -> OutOfFoldTeacher:
    """Train a teacher for each fold on the rows of the others; return all of them as one.

    They lie in `args.output_dir`; a second call goes on where the first one was stopped.

    Args:
        model: the base that each begins with, or its name.
        args: how one is trained; it learns the text alone (`alpha=0`), without a teacher.
        dataset: the private rows, map-style.
        processing_class: tokenizer or image processor; default: the base's.
        folds: which row is in which fold; default: `Folds.of(dataset, k)`, of what is learnt from a row.
        k: how many folds; default: 2, or as many as the folder holds teachers of.
        held_out: how many of them each teacher does without; a row has as many teachers.
        peft_config: LoRA adapters on one base, which is in memory once; default: whole models.
        tagger, surrogates: as for the trainer: the teachers then learn made-up values too.
        train: a function of your own: it gets rows and an empty folder, and returns the trained model.
        stop: ends the training at a step, with a checkpoint, when Ctrl-C is pressed.

    Raises:
        KeyboardInterrupt: it did.
        ValueError: the folder holds teachers of other rows, folds or settings; or the adapters are of a kind that
            cannot answer each row of a batch with one of its own.
    """
    if not isinstance(args, PrivateDistillationConfig):
        args = PrivateDistillationConfig.of(args)
    if peft_config is not None:
        check_adapters([peft_config])
    out = Path(args.output_dir)
    task = task_of(model, args.task)
    if processing_class is None and train is None:
        processing_class = load_processor(task.auto_processor, name_of(model) or "")
    main = args.process_index == 0
    # One process of a launch stands for all: it deals the rows, the others read how.
    with alone_in(out) if main else nullcontext():
        with args.main_process_first(desc="dealing rows into folds"):
            folds = _folds(out, dataset, folds if main else None, k, learnt_columns(args, task, dataset))
            check_held_out(folds.k, held_out)
            about = About(
                folds.k,
                held_out,
                peft_config is not None,
                task.name,
                name_of(model) or None,
                folds.digest(),
                _told(args, peft_config, tagger, surrogates),
            )
            _begin(out, about, folds, peft_config is not None and not task.predicts_tokens)
        fitting = _Fitting(args, task, processing_class, peft_config, tagger, surrogates, train, stop)
        base = model
        for number in range(folds.k):
            folder = out / NAME.format(number)
            if (folder / SEAL_FILE).exists():
                log.info("The teacher of fold %d is there already.", number)
                continue
            unseen = [(number + place) % folds.k for place in range(held_out)]
            base = fitting.fit(base, folds.without(dataset, *unseen), folder, out / "training" / NAME.format(number))
        base = fitting.loaded(base) if peft_config is not None else base
        if main and isinstance(base, PreTrainedModel):
            base.config.save_pretrained(out)
        if main and processing_class is not None:
            processing_class.save_pretrained(out)
        PartialState().wait_for_everyone()
    return OutOfFoldTeacher.load(out, base if peft_config is not None else None)  # type: ignore[arg-type]


class _Fitting:
    """Fits the teacher of one fold after the other."""

    def __init__(
        self,
        args: PrivateDistillationConfig,
        task: Task,
        processing_class: Any,
        peft_config: PeftConfig | None,
        tagger: Tagger | None,
        surrogates: Surrogates | None,
        train: Callable[[Dataset, Path], PreTrainedModel] | None,
        stop: StopOnInterrupt | None,
    ):
        self.args, self.task, self.processing_class, self.peft_config = args, task, processing_class, peft_config
        self.tagger, self.surrogates, self.train, self.stop = tagger, surrogates, train, stop

    def loaded(self, base: str | PreTrainedModel) -> PreTrainedModel:
        return load_pretrained(self.task.auto_model, base, role="base", new_head=not self.task.predicts_tokens)

    def fit(self, base: str | PreTrainedModel, rows: Dataset, folder: Path, training: Path) -> str | PreTrainedModel:
        """Train one teacher and write it; return the base for the next one."""
        if self.train is not None:
            training.mkdir(parents=True, exist_ok=True)
            trained = self.train(rows, training)
            self.finish(folder, training, lambda: trained.save_pretrained(folder))
            return base
        if self.peft_config is not None:
            base = self.loaded(base)
        student = base if self.peft_config is not None or isinstance(base, str) else copy.deepcopy(base)
        trainer = PrivateDistillationTrainer(
            student,
            self.args.settled(
                alpha=0.0,
                output_dir=str(training),
                task=self.task.name,
                protection=self.args.protection if self.tagger is not None else "none",
            ),
            train_dataset=rows,
            processing_class=self.processing_class,
            tagger=self.tagger,
            surrogates=self.surrogates,
            peft_config=self.peft_config,
            callbacks=[self.stop] if self.stop is not None else None,
        )
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(str(training)))
        if self.stop is not None and self.stop.interrupted:
            raise KeyboardInterrupt
        trainer.save_model(str(folder))
        self.finish(folder, training, lambda: None)
        return _unloaded(trainer.model) if isinstance(trainer.model, PeftModel) else base

    def finish(self, folder: Path, training: Path, save: Callable[[], object]) -> None:
        """Seal a teacher that is written, and remove what its training left: it knows what the teacher knows."""
        PartialState().wait_for_everyone()
        if self.args.process_index == 0:
            save()
            seal(folder)
            shutil.rmtree(training, ignore_errors=True)
        PartialState().wait_for_everyone()


def _unloaded(model: PeftModel) -> PreTrainedModel:
    """Return the base as it was before the adapter; PEFT would leave the head in it that this adapter has trained.

    It knows the rows that the next teacher must not see.
    """
    parts = model.get_base_model().named_modules()
    originals = {name: part.original_module for name, part in parts if isinstance(part, AuxiliaryTrainingWrapper)}
    base = model.unload()
    for name, original in originals.items():
        base.set_submodule(name, original)
    return base


def learnt_columns(args: PrivateDistillationConfig, task: Task, dataset: Dataset) -> list[str] | None:
    """Return the text columns that the settings name, where a trainer reads them; `None`: it reads others by itself.

    Args:
        args: of the training.
        task: what is trained.
        dataset: its rows.
    """
    field, known = args.dataset_text_field, set(dataset.column_names)
    names = [field] if isinstance(field, str) else list(field)
    chosen_before = task.predicts_tokens and any(set(columns) <= known for columns in BEFORE_TEXT)
    return names if names != ["text"] and set(names) <= known and not chosen_before else None


def _folds(out: Path, dataset: Dataset, given: Folds | None, k: int | None, columns: list[str] | None) -> Folds:
    """Return the folds: those that are there already, of a run that goes on."""
    if given is not None and k is not None and k != given.k:
        raise ValueError(f"k={k}, and the folds are {given.k}. Leave k out where folds are given.")
    if not (out / FOLDS_FILE).exists():
        return given if given is not None else Folds.of(dataset, k or 2, columns=columns)
    known = Folds.load(out / FOLDS_FILE)
    if k is not None and k != known.k:
        raise ValueError(f"{out} was begun with {known.k} folds, not {k}. Leave k out, or choose another folder.")
    if given is not None and given.digest() != known.digest():
        raise ValueError(f"{out} holds teachers of other folds. Leave folds out to go on, or choose another folder.")
    known.add_to(dataset)
    if len(dataset) != len(known.of_row):
        raise ValueError(
            f"{out} was begun with {len(known.of_row)} rows, and these are {len(dataset)}. Pass the same rows, or "
            "choose another folder."
        )
    return known


def _begin(out: Path, about: About, folds: Folds, own_heads: bool) -> None:
    """Write down what is trained, or look whether it is the same.

    Raises:
        ValueError: names what differs; or an earlier version began it, whose classifiers' heads saw held-out rows.
    """
    if is_out_of_fold(str(out)):
        known, now = asdict(About.read(out)), asdict(about)
        known, now = known | known.pop("settings"), now | now.pop("settings")
        # What an earlier version did not write down is not compared.
        differ = [name for name in now if name in known and known[name] != now[name]]
        if own_heads and "adapter" not in known:
            raise ValueError(
                f"{out} was begun by an earlier version, in which each teacher's head began as the one before had "
                "trained it, on rows that it must not know. Choose another folder, and train them anew."
            )
        if differ:
            raise ValueError(
                f"{out} was begun with another {', '.join(differ)}. Use the same to go on, or choose another folder."
            )
        return
    folds.save(out / FOLDS_FILE)
    write_json(out / ABOUT_FILE, asdict(about))


def _told(
    args: PrivateDistillationConfig, adapter: PeftConfig | None, tagger: Tagger | None, surrogates: Surrogates | None
) -> dict[str, Any]:
    """Return what all teachers must be trained with: one that reads real values, others made-up ones, would tell."""
    own = {"tagger": type(tagger).__name__ if tagger is not None else None, "surrogates": surrogates is not None}
    shape = {name: getattr(adapter, name, None) for name in _SHAPE} if adapter is not None else None
    kept = {name: value for name, value in run_settings(args, {}).items() if name != "output_dir"}
    return kept | own | {"adapter": shape}
