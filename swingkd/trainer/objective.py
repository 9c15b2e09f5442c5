"""What a step of distillation computes: three models' forward passes and the loss, on the fast path or the plain one.

On the fast path no model makes logits: their hidden states are caught before the output heads, and
`losses.fused_token_losses` makes the logits of a few tokens at a time.  The student's part of that runs within the
student's own forward, so that DistributedDataParallel and fully sharded training see it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from swingkd.data import PII_COLUMNS
from swingkd.data.columns import FOLD
from swingkd.losses import TokenLosses, fused_token_losses, hint_losses, token_losses
from swingkd.models.experts import balance_loss
from swingkd.models.head import Head, at_least_float32, captured_hidden, check_readable, compute_dtype
from swingkd.models.shared_vocabulary import SharedVocabulary
from swingkd.targets import CachedTeacher, LiveTeacher, PrivatePositions, ProtectedTargets, Protection, population
from swingkd.targets.teacher import Teacher
from swingkd.targets.temperature import TokenTemperatures
from swingkd.targets.translated import TranslatedTeacher
from swingkd.tasks import CausalLM, PredictedTokens, Task
from swingkd.tasks.base import labelled
from swingkd.tasks.language import aligned_tokens
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.on_policy import ON_POLICY
from swingkd.trainer.out_of_fold import OutOfFoldTeacher


class StepLosses(NamedTuple):
    """A batch's losses: `total`, summed over tokens, carries the gradient; the parts do not.  `per_token` [N] does
    too, except where the fast path trains the output head.  `logits` are the student's, where they were made."""

    total: torch.Tensor
    parts: TokenLosses
    per_token: torch.Tensor
    tokens: PredictedTokens
    logits: torch.Tensor | None = None


@dataclass
class Objective:
    """The loss of a batch.

    Args:
        args: the settings.
        teacher: the frozen teacher; `None`: rows carry its cached targets, or are only evaluated.
        public: a frozen public model, or `None`.
        vocabulary: length of the tokenizer: heads padded beyond it are cut; or how many classes there are.
        end: id that ends a record.
        task: where models answer, and how they are called.
        autocast: makes the context in which frozen models and heads multiply.
        fused: whether the student's head is read; else its logits are.
        written_protected: cached targets were protected when they were written down.
        rated: the training rows say what is private, so every batch has to.
        shared: the tokens that teacher and student share, where they have tokenizers of their own.
    """

    args: PrivateDistillationConfig
    teacher: PreTrainedModel | OutOfFoldTeacher | None
    public: PreTrainedModel | None
    vocabulary: int
    end: int | None
    task: Task = field(default_factory=CausalLM)
    autocast: Callable[[], AbstractContextManager] = nullcontext
    fused: bool = False
    written_protected: bool = False
    rated: bool = False
    shared: SharedVocabulary | None = None

    def __post_init__(self) -> None:
        self._readable = {
            id(model): self.args.fused_loss
            and self.task.predicts_tokens
            and readable_head(role, model, self._width(model))
            for role, model in (("teacher", self.teacher), ("public", self.public))
            if model is not None
        }

    def _width(self, model: Any) -> int:
        """Return how many tokens a model's own tokenizer has."""
        return self.shared.other_size if self.shared is not None and model is self.teacher else self.vocabulary

    def losses(
        self, model: nn.Module, student: PreTrainedModel, inputs: dict, protection: Callable[[], Protection | None]
    ) -> StepLosses:
        """Run the models and return the loss.

        Args:
            model: the student as it is called, perhaps wrapped for data-parallel training.
            student: the student itself.
            inputs: a batch of the task's collator.
            protection: returns what rewrites the targets at private tokens; asked only where there are some.
        """
        told = self.tokens(inputs, torch.float64 if student.dtype == torch.float64 else torch.float32)
        # Where the values of a text are made up, its class is no secret of theirs.
        tokens = told.ordinary() if self.labels_alone and not self.task.teaches_values else told
        temperatures = self.args.temperature_settings.for_tokens(tokens.likelihood)
        if self.shared is not None:
            # In the middle of a token of the teacher's it has said nothing.
            asked = aligned_tokens(inputs, tokens.at) > 0
            temperatures = temperatures._replace(weight=temperatures.weight * asked)
        teacher_targets, teacher_hidden = self.targets(inputs, tokens, temperatures.teacher, protection)
        if teacher_targets is None and torch.is_grad_enabled() and self.args.alpha > 0:
            raise ValueError(
                "The batch carries no cached targets and there is no teacher to ask. A data_collator of your own must "
                "hand on the columns teacher_ids, teacher_log_probs and teacher_tails, as DistillationCollator does."
            )
        targets = teacher_targets if teacher_targets is not None else self._nothing(tokens)
        # What the student wrote is no label of anybody's.
        alpha = 0.0 if teacher_targets is None else 1.0 if ON_POLICY in inputs else self.args.alpha

        def finish(hidden: torch.Tensor | None, outputs: Any) -> dict[str, torch.Tensor]:
            chosen = hidden[tokens.at] if hidden is not None else None
            total, per_token, parts = self._student_losses(
                student, chosen, outputs["logits"], targets, tokens, temperatures, alpha
            )
            if torch.is_grad_enabled():
                total = total + len(tokens.labels) * balance_loss(student, outputs)
            if chosen is not None and teacher_hidden is not None:
                far = self._hint_losses(student, chosen, teacher_hidden, tokens.likelihood)
                total, per_token = total + far.sum(), per_token + far
            if teacher_targets is None:
                parts = parts._replace(soft=torch.full_like(parts.soft, torch.nan))
            made = {} if self.task.predicts_tokens else {"logits": outputs["logits"]}
            return {"loss": total, "per_token": per_token, **parts._asdict(), **made}

        if self.fused or self.args.hidden_weight > 0:
            with (
                captured_hidden(student, skip_logits=self.fused) as captured,
                finishing(student, lambda outputs: finish(captured.hidden, outputs)),
            ):
                out = model(**self.task.call(inputs, student), **_positions(inputs))
        else:
            out = finish(None, model(**self.task.call(inputs, student), **_positions(inputs)))
        parts = TokenLosses(*(out[name] for name in TokenLosses._fields))
        return StepLosses(out["loss"], parts, out["per_token"], told, out.get("logits"))

    def _student_losses(
        self,
        student: PreTrainedModel,
        hidden: torch.Tensor | None,
        logits: torch.Tensor,
        targets: ProtectedTargets,
        tokens: PredictedTokens,
        temperatures: TokenTemperatures,
        alpha: float,
    ) -> tuple[torch.Tensor, torch.Tensor, TokenLosses]:
        known = (targets, tokens.labels, temperatures)
        with self.autocast():
            if self.fused and hidden is not None:
                # Of the wider of two vocabularies, so many rows fit.
                memory = self.args.loss_memory * 2**20 * self.vocabulary // self._widest
                head = Head.of(student, self.vocabulary)
                return fused_token_losses(hidden, head, *known, alpha=alpha, beta=self.args.beta, memory=memory)
            chosen = at_least_float32(logits[..., : self.vocabulary][tokens.at])
            parts = token_losses(chosen, *known, beta=self.args.beta)
            per_token = parts.total(alpha)
            return per_token.sum(), per_token, parts

    def _hint_losses(
        self, student: PreTrainedModel, hidden: torch.Tensor, teacher_hidden: torch.Tensor, likelihood: torch.Tensor
    ) -> torch.Tensor:
        projection = student.hint_projection
        projected = projection(hidden.to(projection.weight.dtype))
        return self.args.hidden_weight * hint_losses(projected, teacher_hidden.to(hidden.device), likelihood)

    def tokens(self, inputs: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> PredictedTokens:
        """Find what a batch asks the student to predict; `dtype` of the likelihoods.

        Raises:
            ValueError: the batch does not say what is private though its rows did: nothing would be protected.
        """
        if self.rated and "pii_likelihood" not in inputs and torch.is_grad_enabled():
            raise ValueError(
                "The batch lacks pii_likelihood, which the training rows have: nothing would be protected. Leave "
                f"data_collator out, or let yours hand on the columns {', '.join(PII_COLUMNS)}, padded with 0."
            )
        tokens = self.task.predicted(inputs, max(self.args.noise_context, population.CONTEXT), self.end)
        likelihood = tokens.likelihood.to(dtype)
        if bool(((likelihood < 0) | (likelihood > 1)).any()):
            raise ValueError("pii_likelihood lies beyond [0, 1] in a batch. Whole numbers count from 0 to 255.")
        tokens = tokens._replace(facts=tokens.facts._replace(likelihood=likelihood))
        return tokens if self.args.likelihood_is_dose else tokens.decided(self.args.private_threshold)

    @torch.no_grad()
    def targets(
        self,
        inputs: dict[str, torch.Tensor],
        tokens: PredictedTokens,
        temperature: torch.Tensor,
        protection: Callable[[], Protection | None] | None,
    ) -> tuple[ProtectedTargets | None, torch.Tensor | None]:
        """Ask the teacher about a batch; return its targets and, where hints are learnt, its hidden states [N, D].

        Args:
            inputs: the batch.
            tokens: its predicted tokens.
            temperature: [N] of the teacher.
            protection: returns what rewrites the targets at private tokens; `None`: nothing does.
        """
        teacher: Teacher
        hidden, public_logits = None, None
        if "teacher_ids" in inputs:
            names = ("teacher_ids", "teacher_log_probs", "teacher_tails")
            learnt = labelled(inputs["labels"])
            learnt[:, 0] = False  # predicted by nothing, whatever a collator of one's own says
            ids, log_probs, tails = (inputs[name][learnt] for name in names)
            teacher = self._cached(ids, log_probs, tails, tokens.likelihood)
        elif self.teacher is not None:
            with self.autocast():
                read = self.task.of_teacher(inputs)
                at = tokens.at if read is inputs else self.task.answered(inputs, read)
                logits, hidden = self.frozen(self.teacher, read, at, hidden=self.args.hidden_weight > 0)
            teacher = LiveTeacher(logits, temperature)
            if self.shared is not None:
                teacher = self._translated(logits, aligned_tokens(inputs, tokens.at) > 0, temperature, self.shared)
        else:
            return None, None
        positions = tokens.private(temperature)
        rewrite = protection() if positions is not None and protection is not None else None
        if rewrite is not None and self.public is not None:
            with self.autocast():
                public_logits, _ = self.frozen(self.public, inputs, tokens.private_at())
        # With no protection asked for, nobody may read the private positions' targets.
        written = self.written_protected and "teacher_ids" in inputs
        given = (teacher, tokens.likelihood, positions, rewrite, public_logits, written, self.labels_alone)
        return ProtectedTargets(*given), hidden

    def _translated(
        self, logits: Callable, asked: torch.Tensor, temperature: torch.Tensor, shared: SharedVocabulary
    ) -> TranslatedTeacher:
        places = (asked.cumsum(0) - 1).clamp_min(0)
        own, other = (ids.to(places.device) for ids in (shared.own, shared.other))
        if not bool(asked.any()):
            # Nobody reads it: no token of this batch is one that the teacher predicts.
            nothing = temperature.new_zeros(1, shared.other_size)
            return TranslatedTeacher(nothing.__getitem__, places, temperature, own, other, self.vocabulary)
        return TranslatedTeacher(logits, places, temperature, own, other, self.vocabulary)

    @property
    def labels_alone(self) -> bool:
        """Whether the text's own tokens are learnt at private positions: what stands there is made up."""
        return self.args.protection == "surrogate"

    def _cached(
        self, ids: torch.Tensor, log_probs: torch.Tensor, tails: torch.Tensor, likelihood: torch.Tensor
    ) -> CachedTeacher:
        temperature = torch.where(likelihood > 0, 1.0, self.args.temperature).to(likelihood)
        return CachedTeacher(ids, log_probs, tails, temperature, self.vocabulary)

    def _nothing(self, tokens: PredictedTokens) -> ProtectedTargets:
        """Return targets that know no token: to each student they say what it says itself."""
        none = tokens.likelihood.new_zeros(len(tokens.labels), 0)
        teacher = self._cached(none.long(), none, none.new_zeros(len(none), 2), tokens.likelihood)
        return ProtectedTargets(teacher, tokens.likelihood, written=True, labels_alone=self.labels_alone)

    def teacher_log_probs(self, inputs: dict[str, torch.Tensor]) -> Iterator[tuple[torch.Tensor, PrivatePositions]]:
        """Yield the teacher's log-probabilities at private positions, a few at a time, with what is known of them."""
        tokens = self.tokens(inputs)
        positions = tokens.private()
        if positions is None:
            return
        targets, _ = self.targets(inputs, tokens, torch.ones_like(tokens.likelihood), None)
        if targets is None:
            raise ValueError("The rows carry no cached teacher: pass teacher_model=..., or cache it first.")
        rows = (tokens.likelihood > 0).nonzero()[:, 0]
        for part in torch.arange(len(rows), device=rows.device).split(self.rows_at_once):
            yield targets.teacher.plain(rows[part], None), positions.take(part)

    @property
    def rows_at_once(self) -> int:
        """How many rows of the vocabulary's length, and a few copies of them, fit the memory of the loss."""
        return max(self.args.loss_memory * 2**20 // (16 * self._widest), 1)

    @property
    def _widest(self) -> int:
        return max(self.vocabulary, self.shared.other_size if self.shared is not None else 0)

    def frozen(
        self, model: PreTrainedModel, inputs: dict[str, torch.Tensor], at: torch.Tensor, *, hidden: bool = False
    ) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor | None]:
        """Run a frozen model; return a function from rows [c] to logits [c, V], and hidden states [N, D] where asked.

        Args:
            model: the teacher or the public model.
            inputs: the batch.
            at: bool, the N answers that are wanted.
            hidden: return the last hidden states as well.
        """
        readable, device = self._readable[id(model)], inputs["labels"].device
        call = self.task.call(inputs, model) | _fold(inputs, model)
        if not readable and not hidden:
            whole = self._chosen(model(**call).logits, self._width(model), at, device)
            return whole.__getitem__, None
        with captured_hidden(model, skip_logits=readable) as captured:
            outputs = model(**call)
        states = captured.hidden[at.to(captured.hidden.device)]
        if not readable:
            whole = self._chosen(outputs.logits, self._width(model), at, device)
            return whole.__getitem__, states
        head = Head.of(model, self._width(model)).cast(compute_dtype(device))
        # A model spread over devices makes its logits where its head is.
        return lambda rows: head.logits(states[rows.to(states.device)]).to(device), states if hidden else None

    @staticmethod
    def _chosen(logits: torch.Tensor, width: int, at: torch.Tensor, device: torch.device) -> torch.Tensor:
        return at_least_float32(logits[..., :width][at.to(logits.device)]).to(device)


def frozen_model(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Return the model, which is from now on on this device, evaluated and never trained."""
    model.eval().requires_grad_(False)
    # A model that from_pretrained spread over devices (quantised, device_map) is already where it belongs.
    return model if getattr(model, "hf_device_map", None) is not None else model.to(device)


def _fold(inputs: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what several teachers are told of a batch: the fold of each row.

    Raises:
        ValueError: the batch does not say.
    """
    if not isinstance(model, OutOfFoldTeacher):
        return {}
    if FOLD not in inputs:
        raise ValueError(
            f"The batch lacks {FOLD}, so nobody knows which teacher never saw its rows. Leave data_collator out, or "
            "let yours hand on that column, one number a row."
        )
    return {FOLD: inputs[FOLD]}


def _positions(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the student's positions, one row each, which gradients per row need; a frozen model makes its own."""
    return {"position_ids": inputs["row_positions"]} if "row_positions" in inputs else {}


@contextmanager
def finishing(student: PreTrainedModel, finish: Callable[[Any], Any]) -> Iterator[None]:
    """Let the student's forward return `finish(outputs)`.

    Before every other hook: fully sharded training watches what leaves the forward and frees the weights behind it.
    """
    handle = student.register_forward_hook(lambda module, inputs, outputs: finish(outputs), prepend=True)
    try:
        yield
    finally:
        handle.remove()


def readable_head(role: str, model: PreTrainedModel, vocabulary: int) -> bool:
    """Return whether the fast path can read a model's output head; where not, warn with the reason."""
    if isinstance(model, OutOfFoldTeacher):
        if model.get_output_embeddings() is None:
            return False  # Each has a head of its own, or several answer a row.
        model = model.one
    try:
        check_readable(model, vocabulary)
    except ValueError as reason:
        warnings.warn(
            f"The fast loss cannot read the output head of the {role} model: {reason}. The plain formula is used, "
            "which needs the memory of [tokens, vocabulary] several times over.",
            stacklevel=2,
        )
        return False
    return True
