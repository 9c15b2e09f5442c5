"""Does a model see an image as it was trained to?  Both processors are shown one image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from PIL import Image
from transformers import AutoImageProcessor, PreTrainedModel

from swingkd.data.columns import in_parts

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


def check_one_size(rows: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Refuse `pixel_values` that are missing, or of unlike sizes, which no batch can hold; a stream as it flows.

    Raises:
        ValueError: names the row.
    """
    if isinstance(rows, IterableDataset):
        return rows.map(_of_one_size, batched=True, with_indices=True, fn_kwargs={"first": []})
    begun, sizes = 0, None
    for part in in_parts(rows, "pixel_values", 1000):
        column = part.combine_chunks()
        if column.null_count:
            _refuse(begun + pc.index(column.is_null(), True).as_py(), "has no value", "Drop such rows")
        if isinstance(column, pa.ExtensionArray):
            column = column.storage  # of one shape, by its type
        row_of, levels = np.arange(len(column)), list[int]()
        while pa.types.is_nested(column.type) and len(column):
            lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
            wanted = sizes[len(levels)] if sizes is not None and len(levels) < len(sizes) else lengths[0]
            if (lengths != wanted).any():
                row = begun + int(row_of[np.argmax(lengths != wanted)])
                _refuse(row, "has another size than the first", "Bring all to one")
            levels.append(wanted)
            row_of = row_of[pc.list_parent_indices(column).to_numpy()]
            column = pc.list_flatten(column)
        sizes, begun = sizes or levels, begun + len(part)
    return rows


def _of_one_size(batch: dict[str, list], indices: list[int], first: list) -> dict[str, list]:
    for row, pixels in zip(indices, batch["pixel_values"], strict=True):
        if pixels is None:
            _refuse(row, "has no value", "Drop such rows")
        first.append(np.shape(pixels)) if not first else None
        if np.shape(pixels) != first[0]:
            _refuse(row, "has another size than the first", "Bring all to one")
    return {}


def _refuse(row: int, what: str, remedy: str) -> None:
    raise ValueError(f"pixel_values {what} in row {row}. {remedy}.")
