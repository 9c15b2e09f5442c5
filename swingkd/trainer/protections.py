"""Build the protection that the settings name; what it keeps secret lives in `output_dir/_private/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from swingkd.targets import (
    Drop,
    MollifiedTarget,
    NoisedTarget,
    NoiseKey,
    PopulationBuilder,
    PopulationTable,
    PopulationTarget,
    Protection,
    Soften,
)
from swingkd.tasks import Task
from swingkd.tasks.base import ProtectionName
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.objective import Objective


def default_protection(args: PrivateDistillationConfig, task: Task, *, public: bool, taught: bool) -> ProtectionName:
    """Return what is done at private answers where nobody says: what kept the most at no measurable leak in the cards.

    Args:
        args: the settings.
        task: what the models are for.
        public: there is a public model.
        taught: there is a teacher, live or cached; without one there is nothing to protect.
    """
    if public:
        return "mollify"
    if not taught:
        return "none"
    # Averages over the training set are not for differential privacy.
    averaged = task.default_protection == "population"
    return "noise" if args.differentially_private and averaged else task.default_protection


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
        ValueError: those secrets are missing, or there is nothing to average.
    """
    private_dir = Path(args.output_dir) / "_private"
    if args.protection == "noise":
        path = private_dir / "noise_key"
        if reuse and args.noise_replay:
            check_secret_kept(path)
        key = NoiseKey.load_or_create(path) if args.noise_replay else None
        return NoisedTarget(
            key.derive(release) if key is not None and release is not None else key,
            scale=args.noise_scale,
            support=args.noise_support,
            context=args.noise_context,
            distribution=args.noise_distribution,
        )
    if args.protection == "mollify":
        return MollifiedTarget(args.mollify_bound, args.mollify_order)
    if args.protection == "population":
        path = private_dir / "population.safetensors"
        if reuse:
            check_secret_kept(path)
        elif args.process_index == 0:
            _average(args, objective, dataset, collator).save(path)
        if args.distributed_state is not None:
            args.distributed_state.wait_for_everyone()
        return PopulationTarget(PopulationTable.load(path), args.population_share)
    return Drop() if args.protection == "drop" else Soften(args.noise_support)


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
    for batch in tqdm(loader, desc="Counting private spans", disable=args.disable_tqdm):
        positions = objective.tokens(batch).private()
        if positions is not None:
            builder.count(positions)
    for batch in tqdm(loader, desc="Averaging private tokens", disable=args.disable_tqdm):
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
