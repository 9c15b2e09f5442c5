"""DP-SGD on any torch module: each unit's gradient clipped, their sum noised (Abadi et al. 2016, arXiv 1607.00133).

Opacus computes gradients per row in hooks; the model is not wrapped, so saving, generating and adapters stay as they
are.  What makes the guarantee hold is here: the loss is a sum over each row's own tokens, never a mean over a batch;
what is clipped is a row's gradient and not a token's (`check_gradients`); a unit's rows are added up before they are
clipped; the noise comes from a secret generator; an empty draw is a step of noise alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
from opacus.optimizers import DistributedDPOptimizer, DPOptimizer, DPOptimizerFastGradientClipping
from opacus.optimizers.ddpoptimizer_fast_gradient_clipping import DistributedDPOptimizerFastGradientClipping
from torch import nn

from swingkd.guards import check_finite
from swingkd.privacy.check_gradients import ADAPTER, check_gradient, check_left, check_modules
from swingkd.privacy.check_rows_apart import check_rows_apart
from swingkd.privacy.plan import PrivacyPlan
from swingkd.privacy.randomness import secret_generator

# Where Opacus keeps the gradients per row of a parameter, or the norms of them.
_ROWS, _NORMS = "grad_sample", "_norm_sample"


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
        ValueError: the model cannot be trained with DP-SGD, and what to do instead; or there are no units.
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
        if isinstance(units, bool) or not units >= 1 or units % 1:
            raise ValueError(f"units={units!r} must be a whole number of at least 1.")
        self.model, self.plan, self.ghost = model, plan, ghost
        self._check_model()
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
        #: How many parts there were.
        self._parts = 0
        self.attach()

    def _check_model(self) -> None:
        check_modules(self.model, ghost=self.ghost)

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
            raise ValueError(f"Gradients per row cannot be made for this model ({error}). {ADAPTER}") from error

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
            losses: [rows], each row's loss summed over its own tokens.
            units: [rows] which unit each row belongs to; the part must hold all their rows of the batch.  `None`: each
                row is a unit.

        Raises:
            ValueError: a layer's gradients are not those of the rows; or ghost clipping is asked for units of several
                rows, or meets a row without a finite gradient.
        """
        rows = _count(losses)
        if units is not None and (units.shape != losses.shape or units.is_floating_point() or units.is_complex()):
            raise ValueError(
                f"units must be whole numbers, one for each of the {rows} rows, not {units.dtype} of shape "
                f"{list(units.shape)}."
            )
        self._parts += 1
        # Rarely, and more rarely with time: a layer whose input depends on the data may change its mind.
        looked_at = sorted({0, rows - 1}) if self._parts.bit_count() == 1 else []
        try:
            if self.ghost:
                self._accumulate_ghost(losses, units, looked_at)
            else:
                self._accumulate_rows(losses, units, looked_at)
        finally:
            self._forget()

    def _accumulate_rows(self, losses: torch.Tensor, units: torch.Tensor | None, looked_at: list[int]) -> None:
        _backward(losses.sum(), retain_graph=bool(looked_at))
        found = self._per_row(len(losses))
        self._compare_rows(losses, found, looked_at)
        group = torch.unique(units, return_inverse=True)[1] if units is not None else None
        # Mixed precision: rounded gradients are clipped, and the clipped ones are never rounded again.
        self._clip([_sum_by(own, group) if group is not None else own for own in map(_exact, found)])

    def _clip(self, gradients: list[torch.Tensor]) -> None:
        """Clip units' gradients, [units, ...] of each parameter, and add them to the sum."""
        _silence_infinite(gradients)
        for parameter, own in zip(self._named.values(), gradients, strict=True):
            setattr(parameter, _ROWS, own)
        self.optimizer.clip_and_accumulate()

    def _accumulate_ghost(self, losses: torch.Tensor, units: torch.Tensor | None, looked_at: list[int]) -> None:
        assert isinstance(self._hooks, GradSampleHooksFastGradientClipping)
        if units is not None:
            raise ValueError("Ghost clipping knows the norm of each row, not of a unit's rows together: ghost=False.")
        _backward(losses.sum(), retain_graph=True)
        self._compare_rows(losses, self._norms(len(losses)), looked_at)
        factors = self._hooks.get_clipping_coef()
        if not bool((factors.isfinite() & losses.detach().isfinite().to(factors.device)).all()):
            raise ValueError("A row's gradient is not finite. Ghost clipping cannot omit it: ghost_clipping=False.")
        self.optimizer.original_optimizer.zero_grad(set_to_none=True)
        with self._without_hooks():
            _backward((factors.detach().to(losses) * losses).sum())
        self.optimizer.accumulate()

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

        Raises:
            ValueError: the weight, or the loss, is no finite number.
        """
        check_finite("weight", weight)
        with self._without_hooks(), _quiet():
            value = loss()
            check_finite("loss", float(value.detach()))
            gradients = torch.autograd.grad(value, list(self._named.values()), allow_unused=True)

        def add(optimizer: DPOptimizer) -> None:
            optimizer.step_hook = None
            for parameter, gradient in zip(self._named.values(), gradients, strict=True):
                assert parameter.grad is not None
                parameter.grad.mul_(weight)
                if gradient is not None:
                    parameter.grad.add_(gradient)

        self.optimizer.attach_step_hook(add)

    def check(self, losses: Callable[[torch.Tensor], torch.Tensor], rows: int = 2) -> None:
        """Compare two rows' gradients with the rows' own backward passes, and rows alone with rows in a batch.

        Nothing is kept.

        Args:
            losses: runs the model on the rows with these numbers, [n], and returns their losses, [n].
            rows: how many there are to try, 2 at least; more show more.

        Raises:
            ValueError: they differ, with the parameter and what to do.
        """
        try:
            row_losses = losses(torch.arange(2))
            count = _count(row_losses)
            _backward(row_losses.sum(), retain_graph=True)
            found = self._norms(count) if self.ghost else self._per_row(count)
            self._compare_rows(row_losses, found, range(count))
            loose = _in_half(found) or _in_half(self.model.parameters()) or not _multiplies_exactly()
            self._forget()
            with self._without_hooks():
                check_rows_apart(self.model, losses, rows, loose=loose)
        except NotImplementedError as error:
            raise ValueError(f"Ghost clipping cannot train this model: {error}. Set ghost_clipping=False.") from error
        except (RuntimeError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"Gradients per row cannot be made for this model ({error}). {ADAPTER}") from error
        finally:
            self._forget()

    def _compare_rows(self, losses: torch.Tensor, found: list[torch.Tensor], rows: Iterable[int]) -> None:
        """Compare what the hooks found of some rows with the gradient of each row's own backward pass."""
        padding = {id(m.weight): m.padding_idx for m in self.model.modules() if isinstance(m, nn.Embedding)}
        # Where some layers multiply in half precision, what reaches the others is as rough.
        loose = _in_half(found)
        for row in rows:
            self.optimizer.original_optimizer.zero_grad(set_to_none=True)
            with self._without_hooks():
                _backward(losses[row], retain_graph=True)
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._named.values()]
            whole = torch.stack([gradient.norm() for gradient in gradients]).norm()
            if not whole.isfinite():
                continue  # It will add nothing.
            for (name, parameter), ours, expected in zip(self._named.items(), found, gradients, strict=True):
                own, blank = _exact(ours[row]), padding.get(id(parameter))
                if blank is not None:
                    if self.ghost:
                        continue
                    # Autograd leaves the padding token's row out, Opacus clips and noises it with the others.
                    at = torch.tensor(blank, device=own.device)
                    own, expected = own.index_fill(0, at, 0), expected.index_fill(0, at, 0)
                expected = (expected.norm() if self.ghost else expected).to(own)
                check_gradient(name, own, expected, loose=loose, whole=float(whole))
        self.optimizer.original_optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def _without_hooks(self) -> Iterator[None]:
        """Run backward passes whose gradients per row nobody wants."""
        assert self._hooks is not None
        self._hooks.disable_hooks()
        try:
            yield
        finally:
            self._hooks.enable_hooks()

    def _per_row(self, rows: int) -> list[torch.Tensor]:
        """Return the gradients per row that the hooks left, [rows, ...] each."""
        return [check_left(name, _left(p), rows) for name, p in self._named.items()]

    def _norms(self, rows: int) -> list[torch.Tensor]:
        """Return the norms per row that the hooks of ghost clipping left, [rows] each."""
        return [check_left(name, getattr(p, _NORMS, None), rows) for name, p in self._named.items()]

    def _forget(self) -> None:
        """Drop the gradients of a part: those per row, and the plain one, which is exact and not private."""
        for parameter in self._named.values():
            parameter.grad = None
            setattr(parameter, _ROWS, None)
            if self.ghost:
                setattr(parameter, _NORMS, None)


def _in_half(tensors: Iterable[torch.Tensor]) -> bool:
    return any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in tensors)


def _multiplies_exactly() -> bool:
    """Tell whether products of float32 are computed in float32, and not in TF32."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:
        return False  # It was set in the new way, one kind of product at a time.


def _count(losses: torch.Tensor) -> int:
    """Return how many rows the losses are of."""
    if losses.ndim != 1 or not len(losses):
        raise ValueError(f"DP-SGD needs one loss a row, [rows], and was given a tensor of shape {list(losses.shape)}.")
    return len(losses)


def _exact(rows: torch.Tensor) -> torch.Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


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
