"""Half precision: whether a device multiplies in bf16, or has to convert each product first."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def multiplies_in_bf16(device: torch.device | None = None) -> bool:
    """Tell whether a device has instructions for bf16; processors without them are several times faster in float32.

    Args:
        device: default: the accelerator where there is one, else the processor.
    """
    kind = device.type if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return True
    return any(known and name.endswith("bf16") for name, known in torch.cpu.get_capabilities().items())


def check_half(bf16: bool, device: torch.device) -> None:
    """Warn where half precision is slower than float32.

    Args:
        bf16: whether it is asked for.
        device: that computes.
    """
    if bf16 and not multiplies_in_bf16(device):
        log.warning(
            "Half precision (bf16) is asked for, and this %s has no instructions for it: it converts each number, and "
            "float32 is several times faster here. Leave bf16 out.",
            "processor" if device.type == "cpu" else "device",
        )
