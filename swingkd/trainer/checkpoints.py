"""Checkpoints of the Trainer: which one was written to its end, and weights that it would not find in one."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from swingkd.files import SEAL_FILE


def last_complete_checkpoint(folder: str) -> str | None:
    """Return the last checkpoint that was written to its end; `None` where there is none."""
    checkpoints = {steps_of(str(path)): str(path) for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    last = max(checkpoints, default=-1)
    return checkpoints[last] if last >= 0 else None


def steps_of(checkpoint: str) -> int:
    """Return how many steps a checkpoint has behind it; -1 where it was not written to its end."""
    try:
        if not (Path(checkpoint) / SEAL_FILE).exists():
            return -1
        return json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text())["global_step"]
    except (OSError, ValueError, KeyError):
        return -1


def load_renamed(model: nn.Module, checkpoint: str) -> None:
    """Load weights that `save_pretrained` wrote under other names than the model's own.

    transformers 5 keeps the names of older versions on disk (ViT's layers, for one) and translates them in
    `from_pretrained`, but not where the Trainer resumes: it would go on from the weights it began with.
    """
    path = Path(checkpoint) / SAFE_WEIGHTS_NAME
    if not isinstance(model, PreTrainedModel) or not path.exists():
        return
    with safe_open(path, "pt") as file:
        renamed = set(file.keys()) - model.state_dict().keys()
    if renamed:
        model.load_state_dict(type(model).from_pretrained(checkpoint, dtype=model.dtype).state_dict())
