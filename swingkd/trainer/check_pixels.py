"""Does a model see an image as it was trained to?  Both processors are shown one image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, PreTrainedModel

# Of normalised pixels, on average: two versions of one resizing differ by less, and no two settings do.
_ALIKE = 0.02


def check_pixels(role: str, model: PreTrainedModel, processor: Any) -> None:
    """Refuse to show a model the student's pixels where it was trained on others: of another size, scale or order.

    Args:
        role: what the model is called: "teacher" or "public".
        model: an image classifier.
        processor: the student's image processor.

    Raises:
        ValueError: says what differs.
    """
    remedy = (
        "Pass teacher_processing_class=AutoImageProcessor.from_pretrained(<the teacher>)."
        if role == "teacher"
        else "Choose one that was trained like the student."
    )
    name = getattr(model.config, "_name_or_path", "")
    try:
        trained_with = AutoImageProcessor.from_pretrained(name) if name else None
    except (OSError, ValueError, KeyError):
        trained_with = None  # Saved without one: the size of its input is all there is to compare.
    channels = getattr(model.config, "num_channels", 3)
    ours = _shown(processor, channels)
    if trained_with is not None:
        theirs = _shown(trained_with, channels)
        if ours.shape != theirs.shape or float((ours - theirs).abs().mean()) > _ALIKE:
            raise ValueError(
                f"The {role} model sees an image in another way than the student: "
                f"{_difference(processor, trained_with, ours, theirs)}. {remedy}"
            )
    size = getattr(model.config, "image_size", None)
    if trained_with is None and isinstance(size, int) and size != ours.shape[-2]:
        raise ValueError(
            f"The {role} model reads images of {size} pixels, the student's are {ours.shape[-2]}. {remedy}"
        )


def _shown(processor: Any, channels: int) -> torch.Tensor:
    """Return what a processor makes of an image that no setting leaves as it is: not square, and no channel alike."""
    height, width = 61, 97
    y, x = np.mgrid[0:height, 0:width]
    wave = 127 + 100 * np.sin(x / 5) * np.cos(y / 3)
    planes = [wave, 255 * x / width, 255 * y / height]
    pixels = np.stack(planes[: 1 if channels == 1 else 3], axis=-1).astype(np.uint8)
    image = Image.fromarray(pixels[..., 0], "L") if channels == 1 else Image.fromarray(pixels, "RGB")
    return torch.as_tensor(processor([image], return_tensors="pt")["pixel_values"]).float()


def _difference(ours: Any, theirs: Any, shown: torch.Tensor, meant: torch.Tensor) -> str:
    if shown.shape != meant.shape:
        return f"{tuple(meant.shape[1:])}, not {tuple(shown.shape[1:])} (channels, height, width)"
    one, two = ours.to_dict(), theirs.to_dict()
    for key in sorted(one.keys() | two.keys()):
        if not key.endswith("processor_type") and str(one.get(key)) != str(two.get(key)):
            return f"{key}={two.get(key)}, not {one.get(key)}"
    return f"{type(theirs).__name__} against {type(ours).__name__}"
