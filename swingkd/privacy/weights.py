"""Which weights a ledger speaks of: digests of the files they lie in."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_KINDS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack")
# Written beside the weights by the Trainer, and no weights.
_OTHERS = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth")


def weight_digests(folder: str | os.PathLike) -> dict[str, str]:
    """Return the SHA-256 of each file of weights in a folder."""
    files = [
        path
        for path in sorted(Path(folder).iterdir())
        if path.suffix in _KINDS and path.name not in _OTHERS and not path.name.startswith("rng_state")
    ]
    return {path.name: _digest(path) for path in files}


def module_digest(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights in memory: their names, shapes, types and values."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor!r}".encode())  # of a module with a state of its own
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def has_weights(model: str | os.PathLike, digests: dict[str, str]) -> bool:
    """Tell whether a model's files of weights, in a folder or on the Hub, are those with these digests."""
    if not digests:
        return False
    if Path(model).is_dir():
        return weight_digests(model) == digests
    paths = {name: file_of(model, name) for name in digests}
    return all(path is not None and _digest(Path(path)) == digests[name] for name, path in paths.items())


def file_of(model: str | os.PathLike, name: str) -> str | None:
    """Return where a model's file lies, in its folder or in the Hub's cache; `None` where it has none."""
    from transformers.utils import cached_file

    try:
        return cached_file(
            str(model),
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
