"""Checkpoints of the Trainer: which one was written to its end, and weights that it would not find in one."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from swingkd.files import SEAL_FILE, UNFINISHED

log = logging.getLogger(__name__)


def last_complete_checkpoint(folder: str) -> str | None:
    """Return the last checkpoint that was written to its end; `None` where there is none.

    Raises:
        ValueError: there are checkpoints, none of which is of this library, or all are older than its seals.
    """
    paths = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    checkpoints = {steps_of(str(path)): str(path) for path in paths}
    last = max(checkpoints, default=-1)
    strange = [path for path in paths if not (path / SEAL_FILE).exists() and not _unfinished(path)]
    if last < 0 and strange:
        raise ValueError(
            f"{strange[0]} has no {SEAL_FILE}, so nobody can tell whether it is whole. Delete it, or choose another "
            "output folder."
        )
    return checkpoints[last] if last >= 0 else None


def begin_checkpoint(folder: str) -> None:
    """Mark a checkpoint as unfinished; of one that is written over, the seal goes: half of it is another one's."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / UNFINISHED).touch()
    (Path(folder) / SEAL_FILE).unlink(missing_ok=True)


def later_checkpoints(folder: str, steps: int) -> list[str]:
    """Return the checkpoints in a folder after so many steps, whole or not."""
    paths = Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    numbers = {str(path): path.name.rpartition("-")[2] for path in paths if path.is_dir()}
    return [path for path, number in numbers.items() if number.isdecimal() and int(number) > steps]


def forget_unfinished(paths: list[str]) -> None:
    """Remove checkpoints that a crash left half written.

    Their steps are taken again.  Under differential privacy nobody counts what the first ones released, so their
    weights must not stay.
    """
    for path in paths:
        if _unfinished(Path(path)) and not (Path(path) / SEAL_FILE).exists():
            log.warning("%s was never finished: it is removed, and its steps are taken again.", path)
            _remove(Path(path))


def _unfinished(checkpoint: Path) -> bool:
    # An empty folder: killed before the mark was in it, or after it was taken out.
    return (checkpoint / UNFINISHED).exists() or not any(checkpoint.iterdir())


def _remove(checkpoint: Path) -> None:
    """Remove a folder, its mark last: killed on the way, what is left still says that it was never finished."""
    for path in [path for path in checkpoint.iterdir() if path.name != UNFINISHED]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(checkpoint)


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
