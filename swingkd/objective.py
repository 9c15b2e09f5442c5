"""What a step of distillation computes: three models' forward passes and the loss, on the fast path or the plain one.

On the fast path no model makes logits: their hidden states are caught before the output heads, and
`losses.fused_token_losses` makes the logits of a few tokens at a time.  The student's part of that runs within the
student's own forward, so that DistributedDataParallel and fully sharded training see it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from swingkd.config import PrivateDistillationConfig
from swingkd.losses import TokenLosses, fused_token_losses, hint_losses, token_losses
from swingkd.targets import LiveTeacher, PrivatePositions, ProtectedTargets, Protection, population
from swingkd.targets.head import Head, at_least_float32, captured_hidden, check_readable, compute_dtype
from swingkd.targets.temperature import TokenTemperatures
from swingkd.tokens import PredictedTokens, predicted_tokens


class StepLosses(NamedTuple):
    """A batch's losses: `total`, summed over tokens, carries the gradient; the parts and `per_token` [N] do not."""

    total: torch.Tensor
    parts: TokenLosses
    per_token: torch.Tensor
    tokens: PredictedTokens


@dataclass
class Objective:
    """The loss of a batch.

    Args:
        args: the settings.
        teacher: the frozen teacher.
        public: a frozen public model, or `None`.
        vocabulary: length of the tokenizer: heads padded beyond it are cut.
        end: id that ends a record.
        autocast: makes the context in which frozen models and heads multiply.
        fused: whether the student's head is read; else its logits are.
    """

    args: PrivateDistillationConfig
    teacher: PreTrainedModel
    public: PreTrainedModel | None
    vocabulary: int
    end: int | None
    autocast: Callable[[], AbstractContextManager] = nullcontext
    fused: bool = False

    def __post_init__(self) -> None:
        self._readable = {
            id(model): readable_head(role, model, self.vocabulary)
            for role, model in (("teacher", self.teacher), ("public", self.public))
            if model is not None
        }

    def losses(
        self, model: nn.Module, student: PreTrainedModel, inputs: dict, protection: Callable[[], Protection]
    ) -> StepLosses:
        """Run the models and return the loss.

        Args:
            model: the student as it is called, perhaps wrapped for data-parallel training.
            student: the student itself.
            inputs: a batch of `DistillationCollator`.
            protection: returns what rewrites the targets at private tokens; asked only where there are some.
        """
        tokens = self.tokens(inputs)
        hints = self.args.hidden_weight > 0
        public_logits = None
        with torch.no_grad(), self.autocast():
            teacher_logits, teacher_hidden = self.frozen(self.teacher, inputs, tokens.at, hidden=hints)
            if self.public is not None and bool((tokens.likelihood > 0).any()):
                public_logits, _ = self.frozen(self.public, inputs, tokens.private_at())

        def finish(hidden: torch.Tensor | None, logits: torch.Tensor) -> dict[str, torch.Tensor]:
            exact = at_least_float32(logits).dtype
            known = tokens._replace(likelihood=tokens.likelihood.to(exact))
            temperatures = self.args.temperature_settings.for_tokens(known.likelihood)
            positions = known.private(temperatures.teacher)
            targets = ProtectedTargets(
                LiveTeacher(teacher_logits, temperatures.teacher),
                known.likelihood,
                positions,
                protection() if positions is not None else None,
                public_logits,
            )
            chosen = hidden[:, :-1][tokens.at] if hidden is not None else None
            total, parts = self._student_losses(student, chosen, logits, targets, known, temperatures)
            per_token = parts.total(self.args.alpha).detach()
            if chosen is not None and teacher_hidden is not None:
                far = self._hint_losses(student, chosen, teacher_hidden, known.likelihood)
                total, per_token = total + far.sum(), per_token + far.detach()
            return {"loss": total, "per_token": per_token, **parts._asdict()}

        call = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
        if self.fused or hints:
            with (
                captured_hidden(student, skip_logits=self.fused) as captured,
                finishing(student, lambda outputs: finish(captured.hidden, outputs["logits"])),
            ):
                out = model(**call)
        else:
            out = finish(None, model(**call)["logits"])
        parts = TokenLosses(*(out[name] for name in TokenLosses._fields))
        return StepLosses(out["loss"], parts, out["per_token"], tokens)

    def _student_losses(
        self,
        student: PreTrainedModel,
        hidden: torch.Tensor | None,
        logits: torch.Tensor,
        targets: ProtectedTargets,
        tokens: PredictedTokens,
        temperatures: TokenTemperatures,
    ) -> tuple[torch.Tensor, TokenLosses]:
        known = (targets, tokens.labels, targets.likelihood, temperatures)
        with self.autocast():
            if self.fused and hidden is not None:
                head, memory = Head.of(student, self.vocabulary), self.args.loss_memory * 2**20
                return fused_token_losses(
                    hidden, head, *known, alpha=self.args.alpha, beta=self.args.beta, memory=memory
                )
            chosen = at_least_float32(logits[:, :-1, : self.vocabulary][tokens.at])
            parts = token_losses(chosen, *known, beta=self.args.beta)
            return parts.total(self.args.alpha).sum(), parts

    def _hint_losses(
        self, student: PreTrainedModel, hidden: torch.Tensor, teacher_hidden: torch.Tensor, likelihood: torch.Tensor
    ) -> torch.Tensor:
        projection = student.hint_projection
        projected = projection(hidden.to(projection.weight.dtype))
        return self.args.hidden_weight * hint_losses(projected, teacher_hidden.to(hidden.device), likelihood)

    def tokens(self, inputs: dict[str, torch.Tensor]) -> PredictedTokens:
        """Find what a batch asks the student to predict."""
        return predicted_tokens(inputs, max(self.args.noise_context, population.CONTEXT), self.end)

    def teacher_log_probs(self, inputs: dict[str, torch.Tensor]) -> Iterator[tuple[torch.Tensor, PrivatePositions]]:
        """Yield the teacher's log-probabilities at private positions, a few at a time, with what is known of them."""
        tokens = self.tokens(inputs)
        positions = tokens.private()
        if positions is None:
            return
        with torch.no_grad(), self.autocast():
            logits, _ = self.frozen(self.teacher, inputs, tokens.private_at())
            places = torch.arange(len(positions.likelihood), device=positions.likelihood.device)
            for part in places.split(max(self.args.loss_memory * 2**18 // self.vocabulary, 1)):
                yield logits(part).log_softmax(-1), positions.take(part)

    def frozen(
        self, model: PreTrainedModel, inputs: dict[str, torch.Tensor], at: torch.Tensor, *, hidden: bool = False
    ) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor | None]:
        """Run a frozen model; return a function from rows [c] to logits [c, V], and hidden states [N, D] where asked.

        Args:
            model: the teacher or the public model.
            inputs: the batch.
            at: [B, T - 1] bool, the N positions that are wanted.
            hidden: return the last hidden states as well.
        """
        readable, device = self._readable[id(model)], inputs["input_ids"].device
        call = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
        if not readable and not hidden:
            whole = self._chosen(model(**call).logits, at, device)
            return whole.__getitem__, None
        with captured_hidden(model, skip_logits=readable) as captured:
            outputs = model(**call)
        states = captured.hidden[:, :-1][at]
        if not readable:
            whole = self._chosen(outputs.logits, at, device)
            return whole.__getitem__, states
        head = Head.of(model, self.vocabulary).cast(compute_dtype(device))
        # A model spread over devices makes its logits where its head is.
        return lambda rows: head.logits(states[rows.to(states.device)]).to(device), states if hidden else None

    def _chosen(self, logits: torch.Tensor, at: torch.Tensor, device: torch.device) -> torch.Tensor:
        return at_least_float32(logits[:, :-1, : self.vocabulary][at]).to(device)


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
