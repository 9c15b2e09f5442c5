"""The protected distillation loss as one function, for a training loop of one's own.

`PrivateDistillationTrainer` does more: it never makes all logits at once, keeps the protection over a restart, counts
what was released, and trains with differential privacy.  Whoever has a loop already needs two things: batches that say
how private each token is (`prepare_rows` and `collator_of`), and this function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.data import PII_COLUMNS, DataSettings
from swingkd.guards import check_finite
from swingkd.losses import token_losses
from swingkd.models.head import at_least_float32
from swingkd.tagging import THRESHOLD, Tagger
from swingkd.targets import LiveTeacher, ProtectedTargets, Protection, TemperatureSettings, population
from swingkd.tasks import Reading, Task, task_of


def distillation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    batch: dict[str, torch.Tensor],
    *,
    protection: Protection | None = None,
    temperatures: TemperatureSettings | None = None,
    alpha: float = 0.5,
    beta: float = 0.0,
    public_logits: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | int | None = None,
    end: int | None = None,
    task: str = "text-generation",
    private_threshold: float = THRESHOLD,
) -> torch.Tensor:
    """Return the protected distillation loss of a batch, a mean over its tokens (or examples).

    Args:
        student_logits, teacher_logits: [B, T, V] as the models return them, not shifted; [B, C] of classifiers of
            whole examples.  Heads of different length are cut to the shorter one.
        batch: of the task's collator: `labels`, `pii_likelihood`, ...
        protection: what rewrites the targets at private tokens: one object for the whole run, such as
            `NoisedTarget(NoiseKey.load_or_create(path))`.  Not needed where nothing is private.
        temperatures: how likelihood becomes temperature; default: `TemperatureSettings()`.
        alpha: weight of the soft loss; the rest is hard labels.
        beta: 0 forward KL, 1 reverse KL, between them generalised JSD.
        public_logits: as teacher_logits, of a public model: for `MollifiedTarget`.
        num_items_in_batch: divide by this instead: the tokens of a whole step of several batches.
        end: id that ends a record, for packed rows.
        task: as the Hub names it.
        private_threshold: from which likelihood on a token is private.

    Raises:
        ValueError: a token is private and there is no protection; the logits do not fit the labels; alpha or beta is
            no share; the likelihood does not lie in [0, 1]; the loss is no finite number.
    """
    for name, share in (("alpha", alpha), ("beta", beta)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} must lie in [0, 1].")
    likelihood = batch.get("pii_likelihood")
    if likelihood is not None and not bool(((likelihood >= 0) & (likelihood <= 1)).all()):
        raise ValueError("pii_likelihood must lie in [0, 1] everywhere: a column of 0 to 255 is divided by 255 first.")
    if num_items_in_batch is not None:
        check_finite("num_items_in_batch", float(num_items_in_batch))
    kind: Task = task_of("", task)
    width = max(getattr(protection, "context", 0), population.CONTEXT)
    tokens = kind.predicted(batch, width, end).decided(private_threshold)
    of_each = (temperatures or TemperatureSettings()).for_tokens(tokens.likelihood)
    size = min(student_logits.size(-1), teacher_logits.size(-1))
    if student_logits.shape[:-1] != tokens.at.shape:
        raise ValueError(
            f"The logits have the shape {tuple(student_logits.shape)}, the labels are {tuple(tokens.at.shape)}. Pass "
            f"logits and batch of one forward pass, and the task that they are for (task={task!r})."
        )
    positions = kind.at(kind.of_teacher(batch))
    if teacher_logits.shape[:-1] != positions.shape:
        raise ValueError(
            f"The teacher's logits have the shape {tuple(teacher_logits.shape)}; in this batch it reads "
            f"{tuple(positions.shape)} positions. Make them with swingkd.teacher_logits(teacher, batch, task)."
        )
    teacher_rows = at_least_float32(teacher_logits[..., :size][positions]).detach()
    public = at_least_float32(public_logits[..., :size][tokens.private_at()]) if public_logits is not None else None
    targets = ProtectedTargets(
        # Cloned by indexing: a teacher's logits are softened in place.
        LiveTeacher(lambda rows: teacher_rows[rows], of_each.teacher),
        tokens.likelihood,
        tokens.private(of_each.teacher),
        protection,
        (lambda places: public[places]) if public is not None else None,
    )
    logits = at_least_float32(student_logits[..., :size][tokens.at])
    parts = token_losses(logits, targets, tokens.labels, of_each, beta=beta)
    total = parts.total(alpha).sum()
    count = max(len(tokens.labels), 1) if num_items_in_batch is None else num_items_in_batch
    if not bool(total.isfinite()):
        raise ValueError(f"The loss is {float(total.detach())}: look for NaN and infinity in the logits.")
    return total / torch.as_tensor(count, device=total.device).clamp(min=1)


@torch.no_grad()
def teacher_logits(teacher: PreTrainedModel, batch: dict[str, torch.Tensor], task: str = "text-generation"):
    """Return what a frozen teacher says of a batch, [B, T, V] or [B, C].

    Args:
        teacher: in evaluation mode, on the batch's device.
        batch: of the task's collator.
        task: as the Hub names it.
    """
    kind = task_of("", task)
    return teacher(**kind.call(kind.of_teacher(batch), teacher)).logits


def prepare_rows(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    tagger: Tagger | None,
    model: PreTrainedModel,
    task: str = "text-generation",
    settings: DataSettings | None = None,
) -> Dataset:
    """Return tokenised rows that say how private each token, or each example, is; `collator_of` makes batches of them.

    Args:
        dataset: as `PrivateDistillationTrainer` takes it.
        tokenizer: a fast tokenizer, of student and teacher.
        tagger: what rates the text; `None`: nothing is private.
        model: the student, which knows its classes.
        task: as the Hub names it.
        settings: which column holds the text, how long rows may be, ...
    """
    return task_of("", task).prepare(dataset, Reading(tokenizer, tagger, settings or DataSettings(), model))


def collator_of(tokenizer: PreTrainedTokenizerBase, task: str = "text-generation") -> Callable:
    """Return what makes batches of `prepare_rows`, for a DataLoader's `collate_fn`."""
    return task_of("", task).collator(tokenizer)


def distilling(trainer: type, teacher: PreTrainedModel, protection: Protection | None = None, **settings: Any) -> type:
    """Return a class of trainer whose loss is the protected distillation loss: of `Trainer`, or of TRL's SFTTrainer.

        rows, collator = prepare_rows(texts, tokenizer, RuleTagger(), model), collator_of(tokenizer)
        distilling(SFTTrainer, teacher, Drop())(model, args, data_collator=collator, train_dataset=rows)

    Args:
        trainer: a subclass of `transformers.Trainer`.
        teacher: it is frozen, and moved to the trainer's device.
        protection: see `distillation_loss`.
        **settings: of `distillation_loss`: temperatures, alpha, beta, end, task.
    """
    kind = task_of("", settings.get("task", "text-generation"))

    class Distilling(trainer):
        """The trainer, with a teacher."""

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.model_accepts_loss_kwargs = True
            teacher.eval().requires_grad_(False).to(self.args.device)

        def _set_signature_columns_if_needed(self) -> None:
            # After `self._signature_columns = list(signature.parameters.keys())`: the loss reads more than the model.
            super()._set_signature_columns_if_needed()
            own = (*PII_COLUMNS, *kind.columns, "labels")
            self._signature_columns += [name for name in own if name not in self._signature_columns]

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            student = self.accelerator.unwrap_model(model)
            outputs = model(**kind.call(inputs, student))
            answers = teacher_logits(teacher, inputs, kind.name)
            counted = {"num_items_in_batch": num_items_in_batch, "protection": protection}
            loss = distillation_loss(outputs.logits, answers, inputs, **counted, **settings)
            if num_items_in_batch is not None and self.args.average_tokens_across_devices:
                # The count is of all processes, and data-parallel training averages the gradients.
                loss = loss * self.accelerator.num_processes
            return (loss, outputs) if return_outputs else loss

    return Distilling
