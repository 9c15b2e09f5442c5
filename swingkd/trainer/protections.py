"""Build the protection that the settings name; what it keeps secret lives in `output_dir/_private/`."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader

from swingkd.files import keep_secret
from swingkd.progress import progress_bar
from swingkd.targets import (
    Drop,
    LabelsAlone,
    MollifiedTarget,
    NoisedTarget,
    NoiseKey,
    PopulationBuilder,
    PopulationTable,
    PopulationTarget,
    Protection,
    ProtectionName,
    Soften,
)
from swingkd.tasks import Task
from swingkd.trainer.check_private_settings import AVERAGING
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.drawn_once import drawn_once
from swingkd.trainer.objective import Objective


def default_protection(
    args: PrivateDistillationConfig, task: Task, *, public: bool, teacher: bool, replaceable: bool
) -> tuple[ProtectionName, str]:
    """Return what is done at private answers where nobody says, and the reason.

    It is what kept the most at no measurable leak in the cards.

    Args:
        args: the settings.
        task: what the models are for.
        public: there is a public model.
        teacher: there is a teacher, live or cached; without one there is no answer to protect.
        replaceable: there is text whose values can be replaced, and a tagger that finds them.
    """
    if public:
        return "mollify", "the default where there is a public model"
    if replaceable:
        return "surrogate", "the default where a tagger finds values in text"
    if not teacher:
        return "none", "there is no teacher whose answers could be protected"
    # Averages over the training set are not for differential privacy.
    if args.differentially_private and task.default_protection == "population":
        return "noise", "the default under differential privacy without a public model"
    return task.default_protection, f"the default for {task.name} where no text's values can be replaced"


def check_protection(
    name: ProtectionName | None,
    args: PrivateDistillationConfig,
    own: Protection | None = None,
    *,
    public: bool,
    known: bool = False,
) -> None:
    """Refuse a protection that reads the other rows under differential privacy, or misses its public model.

    Args:
        name: what was chosen; `None`: the user's own.
        args: the settings.
        own: the user's own protection.
        public: there is a public model.
        known: the targets are protected otherwise, by the user's own or when they were written down.
    """
    if args.differentially_private and (name in AVERAGING or isinstance(own, PopulationTarget)):
        raise ValueError(
            "The targets are averages over the rows, without noise: no row would be protected from the others' "
            "targets. Choose another protection for differential privacy, in the cache as well."
        )
    if name == "mollify" and not public and not known:
        raise ValueError(
            "protection='mollify' mixes the teacher with a public model: pass public_model=<a model like the "
            "student, trained on public data>, or choose protection='population'."
        )


@dataclass(frozen=True)
class _Run:
    """What protections are built from, see `build_protection`."""

    args: PrivateDistillationConfig
    objective: Objective
    dataset: Dataset | IterableDataset | None
    collator: Callable
    reuse: bool
    release: str | None

    @property
    def folder(self) -> Path:
        """Where its secrets are."""
        return Path(self.args.output_dir) / "_private"


def build_protection(
    args: PrivateDistillationConfig,
    objective: Objective,
    dataset: Dataset | IterableDataset | None,
    collator: Callable,
    *,
    reuse: bool = False,
    release: str | None = None,
) -> Protection:
    """Return what rewrites the teacher's targets at private tokens.

    Args:
        args: the settings.
        objective: asks the teacher, where the protection averages over it.
        dataset: the prepared training set.
        collator: makes its batches.
        reuse: take the secrets that an interrupted run began with.
        release: names targets that are to be handed out; each release has draws of its own.

    Raises:
        ValueError: those secrets are missing, there is nothing to average, or there is no such protection.
    """
    return protection_of(args).build(_Run(args, objective, dataset, collator, reuse, release))


def protection_of(args: PrivateDistillationConfig) -> ProtectionKind:
    """Return what is known of the protection that was chosen.

    Raises:
        ValueError: there is no such protection, or none was chosen; fields may have been set since they were checked.
    """
    args.check()
    if args.protection is None:
        raise ValueError(f"No protection was chosen. Name one of {', '.join(PROTECTIONS)}.")
    return PROTECTIONS[args.protection]


def _noise(run: _Run) -> NoisedTarget:
    args, path = run.args, run.folder / "noise_key"
    if args.noise_replay:
        drawn_once(path, lambda: (check_secret_kept if run.reuse else keep_secret)(path))
    key = NoiseKey.load(path) if args.noise_replay else None
    return NoisedTarget(
        key.derive(run.release) if key is not None and run.release is not None else key,
        scale=args.noise_scale,
        support=args.noise_support,
        context=args.noise_context,
        distribution=args.noise_distribution,
    )


def _mollify(run: _Run) -> MollifiedTarget:
    return MollifiedTarget(run.args.mollify_bound, run.args.mollify_order)


def _population(run: _Run) -> PopulationTarget:
    args, path = run.args, run.folder / "population.safetensors"

    def average() -> None:
        if run.reuse:
            check_secret_kept(path)
        else:
            _average(args, run.objective, run.dataset, run.collator).save(path)

    drawn_once(path, average)
    return PopulationTarget(PopulationTable.load(path), args.population_share)


def _drop(run: _Run) -> Drop:
    return Drop()


def _labels(run: _Run) -> LabelsAlone:
    return LabelsAlone()


def _soften(run: _Run) -> Soften:
    return Soften(run.args.noise_support)


@dataclass(frozen=True)
class ProtectionKind:
    """What the other files of this room need to know of a protection.

    Args:
        build: makes it.
        settings: how the fields of the configuration begin that its targets depend on.
        secret: what it drew or averaged, as bytes that tell it from another draw.
        useless: a field, and the value of it that leaves the teacher's own targets at private tokens.
        protects: whether anything is protected at all.
    """

    build: Callable[[_Run], Protection]
    settings: tuple[str, ...] = ()
    secret: Callable[[Any], bytes] = lambda protection: b""
    useless: tuple[str, float] | None = None
    protects: bool = True


def _noise_drawn(protection: NoisedTarget) -> bytes:
    # One way only.  Without a key every visit draws afresh, and no part may be used twice.
    drawn = protection.key.derive("fingerprint").low if protection.key else secrets.token_hex()
    return repr(drawn).encode()


def _population_drawn(protection: PopulationTarget) -> bytes:
    tensors = (protection.table.keys, protection.table.log_probs)
    return b"".join(tensor.cpu().contiguous().numpy().tobytes() for tensor in tensors)


_TEMPERATURES = ("temperature", "max_temperature")
#: Each protection by its name; an unknown one fails.
PROTECTIONS: dict[ProtectionName, ProtectionKind] = {
    "noise": ProtectionKind(_noise, ("noise", *_TEMPERATURES), _noise_drawn, useless=("noise_scale", 0)),
    "mollify": ProtectionKind(_mollify, ("mollify",), useless=("mollify_bound", math.inf)),
    "population": ProtectionKind(_population, ("population",), _population_drawn, useless=("population_share", 1)),
    "none": ProtectionKind(_soften, ("noise", *_TEMPERATURES), protects=False),
    "drop": ProtectionKind(_drop),
    "surrogate": ProtectionKind(_labels, ("surrogate",)),
}


def _average(
    args: PrivateDistillationConfig,
    objective: Objective,
    dataset: Dataset | IterableDataset | None,
    collator: Callable,
) -> PopulationTable:
    """Average the teacher over the private tokens of the training set, in two passes."""
    if dataset is None:
        raise ValueError("protection='population' averages over the training set: pass train_dataset=...")
    builder = PopulationBuilder(objective.vocabulary, args.population_min_spans)
    loader = DataLoader(dataset, batch_size=args.per_device_eval_batch_size, collate_fn=collator)
    for batch in progress_bar(loader, desc="Counting private spans", disable=args.disable_tqdm):
        positions = objective.tokens(batch).private()
        if positions is not None:
            builder.count(positions)
    for batch in progress_bar(loader, desc="Averaging private tokens", disable=args.disable_tqdm):
        batch = {key: value.to(args.device) for key, value in batch.items()}
        for log_probs, positions in objective.teacher_log_probs(batch):
            builder.add(log_probs, positions)
    table = builder.finish()
    if not len(table.keys):
        raise ValueError(
            f"protection='population' found no kind of private token with {args.population_min_spans} distinct spans, "
            "so there is nothing to average. Use more data, another protection ('noise' needs no crowd, 'drop' learns "
            "nothing there), or lower population_min_spans: a small average shows its few secrets."
        )
    return table


def check_secret_kept(path: Path) -> None:
    """Refuse to resume a run without the secret it began with."""
    if not path.exists():
        raise ValueError(
            f"The run cannot go on as it began: {path} is missing. Copy the _private folder beside the checkpoints, "
            "or start afresh without resume_from_checkpoint."
        )
