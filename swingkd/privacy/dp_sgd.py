"""DP-SGD on any torch module: each unit's gradient clipped, their sum noised (Abadi et al. 2016, arXiv 1607.00133).

Opacus computes gradients per row in hooks; the model is not wrapped, so saving, generating and adapters stay as they
are.  What makes the guarantee hold is here: the loss is a sum over each row's own tokens, never a mean over a batch; a
unit's rows are added up before they are clipped; the noise comes from a secret generator; an empty draw is a step of
noise alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
from opacus.optimizers import DistributedDPOptimizer, DPOptimizer, DPOptimizerFastGradientClipping
from opacus.optimizers.ddpoptimizer_fast_gradient_clipping import DistributedDPOptimizerFastGradientClipping
from torch import nn

from swingkd.privacy.plan import PrivacyPlan
from swingkd.privacy.randomness import secret_generator

# Where Opacus keeps the gradients per row of a parameter.
_ROWS = "grad_sample"
_ADAPTER = "Train an adapter instead: peft_config=LoraConfig(...)."


class DPSGD:
    """Clip and noise what an optimizer sees of a model.

        for batch in batches:                      # of `PoissonBatches`
            dp.zero_grad()
            for part in batch.split(8):            # any size: it changes memory and time, nothing else
                dp.accumulate(losses(model, part)) # one loss a row, summed over the row
            dp.finish()
            dp.optimizer.step()

    Args:
        model: what is trained, in training mode, with float32 (or float64) weights.
        optimizer: updates its trainable parameters.
        plan: noise and clip.
        units: how many units there are in all processes together; gradients are divided by the expected batch.
        ghost: compute the norms without the gradients of each row (ghost clipping, Lee and Kifer 2021, arXiv
            2009.03106): less memory for two backward passes.  Each row must be a unit.
        generator: of the noise; default: a secret one.  One that can be replayed undoes the guarantee; for tests only.

    Raises:
        ValueError: the model cannot be trained with DP-SGD, and what to do instead.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: PrivacyPlan,
        units: int,
        *,
        ghost: bool = False,
        generator: torch.Generator | None = None,
    ):
        check_modules(model, ghost=ghost)
        self.model, self.plan, self.ghost = model, plan, ghost
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        kinds = (DPOptimizerFastGradientClipping, DistributedDPOptimizerFastGradientClipping)
        kind = (kinds if ghost else (DPOptimizer, DistributedDPOptimizer))[several]
        processes = dist.get_world_size() if several else 1
        device = next(iter(self._named.values())).device
        self.optimizer = kind(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip_norm,
            expected_batch_size=plan.sampling_rate * units / processes,
            generator=generator or secret_generator(device),
        )
        self._hooks: GradSampleHooks | None = None
        self.attach()

    def attach(self) -> None:
        """Let the model's backward passes make gradients per row.

        Raises:
            ValueError: a trained module has no gradients per row.
        """
        if self._hooks is not None:
            return
        # Buffers are no obstacle by themselves: `check_modules` refuses those that mix rows.
        kind: Any = GradSampleHooks
        if self.ghost:
            kind = partial(GradSampleHooksFastGradientClipping, max_grad_norm=self.plan.clip_norm)
        try:
            self._hooks = kind(self.model, loss_reduction="sum", strict=False)
        except NotImplementedError as error:
            raise ValueError(f"Gradients per row cannot be made for this model ({error}). {_ADAPTER}") from error

    def detach(self) -> None:
        """Make the model an ordinary one again, without what its gradients left there."""
        # The sum before the noise, above all.
        self.zero_grad()
        if self._hooks is not None:
            self._hooks.cleanup()
            self._hooks = None

    def zero_grad(self) -> None:
        """Forget the last batch."""
        self.optimizer.zero_grad(set_to_none=True)

    def accumulate(self, losses: torch.Tensor, units: torch.Tensor | None = None) -> None:
        """Run the backward pass of a part of a batch; clip each unit's gradient and add it.

        Args:
            losses: [rows], each row's loss summed over its own tokens; without `ghost`, their sum will do.
            units: [rows] which unit each row belongs to; the part must hold all their rows of the batch.  `None`: each
                row is a unit.

        Raises:
            ValueError: a parameter has no gradient per row; or ghost clipping is asked for units of several rows, or
                meets a row without a finite gradient.
        """
        if self.ghost:
            self._accumulate_ghost(losses, units)
            return
        _backward(losses.sum())
        group = torch.unique(units, return_inverse=True)[1] if units is not None else None
        gradients = [_sum_by(rows, group) if group is not None else rows for rows in self._per_row()]
        _silence_infinite(gradients)
        for parameter, rows in zip(self._named.values(), gradients, strict=True):
            setattr(parameter, _ROWS, rows)
        self.optimizer.clip_and_accumulate()
        self._forget()

    def _accumulate_ghost(self, losses: torch.Tensor, units: torch.Tensor | None) -> None:
        assert isinstance(self._hooks, GradSampleHooksFastGradientClipping)
        if units is not None:
            raise ValueError("Ghost clipping knows the norm of each row, not of a unit's rows together: ghost=False.")
        _backward(losses.sum(), retain_graph=True)
        factors = self._hooks.get_clipping_coef()
        if not bool((factors.isfinite() & losses.detach().isfinite().to(factors.device)).all()):
            raise ValueError("A row's gradient is not finite. Ghost clipping cannot omit it: ghost_clipping=False.")
        self.optimizer.original_optimizer.zero_grad(set_to_none=True)
        self._hooks.disable_hooks()
        _backward((factors.detach().to(losses) * losses).sum())
        self._hooks.enable_hooks()
        self.optimizer.accumulate()
        self._forget()

    def finish(self) -> None:
        """End a batch, which may have been empty: the optimizer's next step adds the noise."""
        for parameter in self._named.values():
            if self.ghost:
                parameter.grad = torch.zeros_like(parameter)
            else:
                setattr(parameter, _ROWS, parameter.new_zeros(0, *parameter.shape))

    def beside(self, loss: Callable[[], torch.Tensor], weight: float) -> None:
        """Let the next step follow a loss of public examples as well, which is neither clipped nor noised.

        Args:
            loss: runs the model and returns the loss, a number.
            weight: of the noised gradient beside it.
        """
        assert self._hooks is not None
        self._hooks.disable_hooks()
        try:
            with _quiet():
                gradients = torch.autograd.grad(loss(), list(self._named.values()), allow_unused=True)
        finally:
            self._hooks.enable_hooks()

        def add(optimizer: DPOptimizer) -> None:
            optimizer.step_hook = None
            for parameter, gradient in zip(self._named.values(), gradients, strict=True):
                assert parameter.grad is not None
                parameter.grad.mul_(weight)
                if gradient is not None:
                    parameter.grad.add_(gradient)

        self.optimizer.attach_step_hook(add)

    def check(self, losses: Callable[[], torch.Tensor]) -> None:
        """Compare the gradients per row with the plain gradient of the same backward pass; nothing is kept.

        Args:
            losses: runs the model on at least two rows and returns their losses [rows], or the sum of them.

        Raises:
            ValueError: they differ, with the parameters and what to do.
        """
        try:
            row_losses = losses()
            if self.ghost:
                self._check_norms(row_losses)
                return
            _backward(row_losses.sum())
        except NotImplementedError as error:
            raise ValueError(f"Ghost clipping cannot train this model: {error}. Set ghost_clipping=False.") from error
        except (RuntimeError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"Gradients per row cannot be made for this model ({error}). {_ADAPTER}") from error
        padding = {
            id(module.weight): module.padding_idx
            for module in self.model.modules()
            if isinstance(module, nn.Embedding) and module.padding_idx is not None
        }
        half = (torch.bfloat16, torch.float16)
        loose = any(getattr(_left(p), "dtype", torch.float32) in half for p in self._named.values())
        whole = torch.stack([p.grad.norm() for p in self._named.values() if p.grad is not None] or [torch.zeros(())])
        for (name, parameter), rows in zip(self._named.items(), self._per_row(), strict=True):
            if id(parameter) in padding and parameter.grad is not None:
                # Autograd leaves the padding token's row out, Opacus clips and noises it with the others.
                rows[:, padding[id(parameter)]] = 0
                parameter.grad[padding[id(parameter)]] = 0
            self._compare(name, rows.sum(0), parameter.grad, loose, float(whole.norm()))
        self._forget()

    def _check_norms(self, losses: torch.Tensor) -> None:
        assert isinstance(self._hooks, GradSampleHooksFastGradientClipping)
        _backward(losses.sum(), retain_graph=True)
        squares = torch.zeros(len(losses), device=losses.device, dtype=losses.dtype)
        norms = self._hooks.get_norm_sample()
        self._hooks.disable_hooks()
        for row, loss in enumerate(losses):
            for gradient in torch.autograd.grad(
                loss, list(self._named.values()), retain_graph=True, allow_unused=True
            ):
                squares[row] += gradient.square().sum().to(losses) if gradient is not None else 0
        self._hooks.enable_hooks()
        self._compare("all", norms, squares.sqrt(), False, 0.0)
        self._forget()

    def _compare(
        self, name: str, gradient: torch.Tensor, expected: torch.Tensor | None, loose: bool, whole: float
    ) -> None:
        expected = torch.zeros_like(gradient) if expected is None else expected.to(gradient)
        allowed = 0.1 if loose else 1e-3
        # Some gradients are zero but for rounding (the bias of an attention's keys): beside the `whole` they are.
        error = (gradient - expected).norm() / expected.norm().clamp_min(max(allowed * whole, 1e-12))
        if error > allowed:
            self._forget()
            raise ValueError(
                f"The gradients per row of {name} do not add up to its gradient (off by {float(error):.0%}): it is "
                f"used in a way that Opacus' hooks do not see (tied weights that a loss reads, say). {_ADAPTER}"
            )

    def _per_row(self) -> list[torch.Tensor]:
        """Return the gradients per row that the hooks left, [rows, ...] each."""
        gradients: dict[str, torch.Tensor] = {}
        for name, parameter in self._named.items():
            rows = _left(parameter)
            if rows is None:
                raise ValueError(
                    f"{name} got no gradient per row: the loss does not use it (freeze it: requires_grad_(False)), "
                    "reads it past its module, or gradient checkpointing hides it (use_reentrant=True is needed)."
                )
            if isinstance(rows, list):
                raise ValueError(f"{name} saw two forward passes: call accumulate once for each.")
            gradients[name] = rows
        batch = max(len(rows) for rows in gradients.values())
        for name, rows in gradients.items():
            if len(rows) != batch:
                raise ValueError(
                    f"{name} has gradients for {len(rows)} rows where others have {batch}: the whole batch shares it. "
                    "For position embeddings, pass position_ids of shape [batch, length] to the model."
                )
        # Mixed precision: rounded gradients are clipped, and the clipped ones are never rounded again.
        return [rows.to(torch.promote_types(rows.dtype, torch.float32)) for rows in gradients.values()]

    def _forget(self) -> None:
        """Drop the gradients of a part: those per row, and the plain one, which is exact and not private."""
        for parameter in self._named.values():
            parameter.grad = None
            setattr(parameter, _ROWS, None)


def _silence_infinite(rows: list[torch.Tensor]) -> None:
    """Let units whose gradient has no finite norm add nothing: infinity cannot be clipped, and no noise hides it."""
    norms = torch.stack([torch.linalg.vector_norm(some.flatten(1), dim=1) for some in rows])
    infinite = ~norms.isfinite().all(0)
    if bool(infinite.any()):
        for some in rows:
            some[infinite] = 0


def _left(parameter: nn.Parameter) -> Any:
    """Return what Opacus' hooks left at a parameter."""
    return getattr(parameter, _ROWS, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide a warning of layers that read token ids, which have no gradient."""
    with warnings.catch_warnings():
        # https://github.com/pytorch/pytorch/pull/155339
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        yield


def _backward(loss: torch.Tensor, **options: Any) -> None:
    with _quiet():
        loss.backward(**options)


def _sum_by(rows: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    groups = rows.new_zeros(int(group.max()) + 1, *rows.shape[1:])
    return groups.index_add_(0, group, rows)


def check_modules(model: nn.Module, *, ghost: bool = False) -> None:
    """Refuse modules that DP-SGD cannot train.

    Args:
        model: with its trainable parameters marked.
        ghost: for ghost clipping.

    Raises:
        ValueError: what is in the way, and what to do instead.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("The model has no trainable parameter.")
    half = sorted({str(p.dtype) for p in trained if p.dtype not in (torch.float32, torch.float64)})
    if half:
        raise ValueError(
            f"Trainable weights are {', '.join(half)}; noise and clipped gradients need float32. Load the model with "
            "dtype=torch.float32; bf16=True still multiplies in half precision."
        )
    batch_norm = [
        name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    if batch_norm:
        raise ValueError(
            f"{batch_norm[0]} is a batch norm: it mixes the rows of a batch, so no row has a gradient of its own. Use "
            "group norm (opacus.validators.ModuleValidator.fix replaces it)."
        )
    watching = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    ]
    if watching:
        raise ValueError(
            f"{watching[0]} keeps running averages of what it sees, which no noise covers. Set "
            "track_running_stats=False, or use group norm."
        )
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if ghost and parameter.requires_grad and id(parameter) in names:
            raise ValueError(
                f"{names[id(parameter)]} and {name} are one matrix, and ghost clipping is wrong for tied weights. Set "
                "ghost_clipping=False, tie_word_embeddings=False, or train an adapter."
            )
        names.setdefault(id(parameter), name)
    if any("lora_magnitude_vector" in name for name, _ in model.named_parameters()):
        raise ValueError("DoRA adapters have no gradients per row: use LoraConfig(use_dora=False).")
