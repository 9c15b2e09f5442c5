"""How clients learn."""

from __future__ import annotations

from dataclasses import dataclass

from swingkd.guards import check_not_negative, check_numbers, check_positive, check_share

_NUMBERS = (
    "learning_rate",
    "weight_decay",
    "rho",
    "temperature",
    "max_temperature",
    "target_epsilon",
    "target_delta",
    "clip_norm",
)


@dataclass(frozen=True, kw_only=True)
class ClientArguments:
    """How clients learn.

    Args:
        rounds: of the whole run; an epsilon is planned for all of them.
        steps_per_round: of learning, with or without a target: methods are compared at equal work.
        batch_size: own examples a step; with `target_epsilon`, on average.
        reference_batch_size: reference examples a step.
        learning_rate, weight_decay: of AdamW.
        rho: weight of what the others say, in [0, 1]; what its own labels say weighs 1 - rho.
        temperature: of the distillation loss, both sides; the loss is multiplied by its square.
        max_temperature: swing: what it says of a reference example that is surely private is softened to this
            temperature, and an own example that likely is has no weight; 1: not at all.
        top_k: of each soft label, it says the likeliest so many classes, and of the others together how likely they
            are; `None`: all.
        share_weights: let weights leave the client; without, it answers with messengers alone.
        learn_reference_labels: where nobody says anything, learn the labels of the reference examples in its place.
        target_epsilon: learn the own examples by DP-SGD, with this epsilon for all rounds together.
        target_delta: of it; `None`: a tenth of one over the examples.
        clip_norm: of an example's gradient.
        micro_batch_size: examples whose gradients are in memory at a time.
        seed: of batches and dropout; never of a guarantee's noise.

    Raises:
        ValueError: a number is out of range.
    """

    rounds: int = 10
    steps_per_round: int = 20
    batch_size: int = 32
    reference_batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    rho: float = 0.5
    temperature: float = 1.0
    max_temperature: float = 1.0
    top_k: int | None = None
    share_weights: bool = False
    learn_reference_labels: bool = False
    target_epsilon: float | None = None
    target_delta: float | None = None
    clip_norm: float = 1.0
    micro_batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            try:
                # YAML takes 1e-3 for a word.
                object.__setattr__(self, name, float(value) if value is not None else None)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}={value!r} is no number.") from error
        check_numbers(self)
        check_positive(
            self,
            "rounds",
            "steps_per_round",
            "batch_size",
            "reference_batch_size",
            "learning_rate",
            "temperature",
            "target_epsilon",
            "target_delta",
            "clip_norm",
            "micro_batch_size",
            "top_k",
        )
        check_not_negative(self, "weight_decay")
        check_share(self, "rho")
        if self.max_temperature < 1:
            raise ValueError(f"max_temperature={self.max_temperature} would sharpen: 1 or more is needed.")
