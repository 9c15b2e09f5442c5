"""What differential privacy does not go with: settings that would break its guarantee."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from swingkd.guards import check_positive
from swingkd.targets import ProtectionName

if TYPE_CHECKING:
    from swingkd.trainer.config import PrivateDistillationConfig

#: Protections that average over the training rows.
AVERAGING: tuple[ProtectionName, ...] = ("population",)
#: Newer versions of transformers call it activation checkpointing and keep the old name in step.
CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")


def check_private_training(args: TrainingArguments, fits: str) -> None:
    """Refuse settings of any Trainer that DP-SGD cannot be combined with.

    Args:
        args: of a run with differential privacy.
        fits: what has to fit the memory.

    Raises:
        ValueError: a setting would break the guarantee, and what to do instead.
    """
    # The trainer's own clip would cut the noised gradient; each unit's is cut by clip_norm.
    if args.max_grad_norm not in (0.0, 1.0):
        raise ValueError(
            f"max_grad_norm={args.max_grad_norm} would clip the noised gradient. "
            "Leave it alone, and set clip_norm, which clips each unit's."
        )
    parallel = "shards or replicates the model in a way that gradients per row do not survive; use DDP"
    wrong = {
        "gradient_accumulation_steps": (
            args.gradient_accumulation_steps != 1,
            f"per_device_train_batch_size is what a batch holds on average, {fits} what fits the memory",
        ),
        "fp16": (args.fp16, "its loss scaling rounds clipped gradients; use bf16"),
        "train_sampling_strategy": (args.train_sampling_strategy != "random", "batches are Poisson samples"),
        "auto_find_batch_size": (
            args.auto_find_batch_size,
            f"steps that are tried again are steps that count, and {fits} is what has to fit the memory",
        ),
        "optim": (
            any(word in str(args.optim).lower() for word in ("layerwise", "lomo")),
            "it updates weights while gradients are made, before they are clipped and noised",
        ),
        "parallelism_config": (args.parallelism_config is not None, parallel),
        "deepspeed": (bool(args.deepspeed), parallel),
        "fsdp": (bool(args.fsdp), parallel),
    }
    refuse(args, wrong)
    if os.environ.get("WANDB_WATCH", "false") in ("gradients", "all") and "wandb" in args.report_to:
        raise ValueError(
            "WANDB_WATCH sends histograms of gradients before they are clipped and noised: the records' own. Unset it."
        )


def refuse(args: TrainingArguments, wrong: dict[str, tuple[bool, str]]) -> None:
    """Refuse the first setting that is wrong.

    Args:
        args: the settings.
        wrong: for each name, whether its value is wrong, and why.

    Raises:
        ValueError: names the value, and says why.
    """
    for name, (refused, why) in wrong.items():
        if refused:
            raise ValueError(f"{name}={getattr(args, name)!r} and differential privacy do not go together: {why}.")


def settle_private_training(args: Any) -> None:
    """Set what DP-SGD needs of the Trainer's own settings, in a copy that is ours.

    Args:
        args: the copy.
    """
    args.max_grad_norm = 0.0
    # A resumed run draws new batches; how many tokens a batch held depends on who was in it.
    args.ignore_data_skip = True
    args.include_num_input_tokens_seen = "no"


def check_private_settings(args: PrivateDistillationConfig) -> None:
    """Refuse settings that DP-SGD cannot be combined with where gradients are made row by row in hooks.

    Args:
        args: with `target_epsilon` or `noise_multiplier`.

    Raises:
        ValueError: a setting would break the guarantee, and what to do instead.
    """
    _ = args.privacy
    check_positive(args, "micro_batch_size")
    check_private_training(args, "micro_batch_size")
    for name in CHECKPOINTING:
        options = (getattr(args, f"{name}_kwargs", None) or {}) if getattr(args, name, False) else {}
        if not options.get("use_reentrant", True):
            raise ValueError(
                f"Gradients per row are lost under {name} with use_reentrant=False. Leave {name}_kwargs alone, or "
                "set use_reentrant=True."
            )
    wrong = {
        "torch_compile": (args.torch_compile, "compiled models do not call the hooks that gradients per row need"),
        "use_liger_kernel": (args.use_liger_kernel, "its kernels hide gradients per row"),
        "packing": (args.packing, "a packed block holds parts of several records, and none is a unit"),
        "protection": (
            args.protection in AVERAGING,
            "its averages read the whole training set without noise; use 'mollify', 'noise', 'drop' or 'none'",
        ),
        "value_epsilon": (
            args.value_epsilon is not None,
            "the table reads all records, and DP-SGD would not count it; public lists cost nothing",
        ),
        "hidden_weight": (args.hidden_weight > 0, "hint matching has no gradients per row"),
        "ghost_clipping": (
            args.ghost_clipping and args.bf16,
            "its second pass rounds clipped gradients to bf16; turn one of them off",
        ),
        "gradient_checkpointing": (
            args.ghost_clipping and bool(args.gradient_checkpointing),
            "ghost clipping needs the activations twice; turn one of them off",
        ),
        "privacy_unit": (
            args.ghost_clipping and args.privacy_unit != "record",
            "ghost clipping knows the norm of each row, not of a user's rows together; turn ghost_clipping off",
        ),
    }
    refuse(args, wrong)
