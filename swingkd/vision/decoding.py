"""One image of a data set as bytes, whatever it was kept as."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import Dataset, Image

MODES = {1: "L", 3: "RGB"}
# What black and white are where nobody says it, by the first letter of Pillow's mode: of whole numbers, and of others.
_WHOLE_RANGE = {"I": (0.0, 65535.0), "F": (0.0, 1.0)}


def decoded(
    dataset: Dataset, column: str, channels: int, size: int | None, scale: tuple[float, float] | None
) -> Iterator[np.ndarray]:
    """Yield the images of a column as bytes, [height, width] or [height, width, 3].

    Args:
        dataset: with the column.
        column: of images.
        channels: 1 for grey, 3 for colour.
        size: height and width that all are brought to; `None`: as they are.
        scale: the values that become black and white; those beyond are black and white as well.

    Raises:
        ValueError: names the first image that is missing, cannot be read, or has values beyond black and white.
    """
    kind = Image()
    kept = dataset.select_columns([column]).cast_column(column, Image(decode=False))
    for number, row in enumerate(kept):
        if row[column] is None:
            raise ValueError(f"Image {number} is missing. Drop such rows: dataset.filter(...).")
        try:
            image = kind.decode_example(row[column])
        except Exception as error:  # Pillow's readers raise whatever they meet
            raise ValueError(
                f"Image {number} cannot be read ({type(error).__name__}). Drop it, or mend it."
            ) from error
        image = _eight_bits(image, number, scale).convert(MODES[channels])
        yield np.asarray(image.resize((size, size)) if size and image.size != (size, size) else image)


def _eight_bits(image: Any, number: int, scale: tuple[float, float] | None) -> Any:
    """Bring grey values of more than 8 bits to bytes: Pillow alone would cut them off, and an X-ray would be white."""
    from PIL import Image as Picture

    whole = _WHOLE_RANGE.get(image.mode[0])
    if whole is None:
        return image
    values = np.asarray(image).astype(np.float64)
    low, high = scale or whole
    least, most = float(values.min()), float(values.max())
    if not np.isfinite(values).all():
        raise ValueError(f"Image {number} holds values that are not finite.")
    if scale is None and not low <= least <= most <= high:
        raise ValueError(
            f"Image {number} has values from {least:g} to {most:g}, and black and white are {low:g} and {high:g}. Say "
            f"which values they are: scale=({least:g}, {most:g}), say, for all images alike."
        )
    bytes_ = ((values - low) / (high - low)).clip(0, 1) * 255
    return Picture.fromarray(bytes_.round().astype(np.uint8))
