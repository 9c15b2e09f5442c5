"""One image of a data set as bytes, whatever it was kept as."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from datasets import Image

_KIND = Image()
MODES = {1: "L", 3: "RGB"}
# What black and white are where nobody says it, by the first letter of Pillow's mode: of whole numbers, and of others.
_WHOLE_RANGE = {"I": (0.0, 65535.0), "F": (0.0, 1.0)}


class Look(NamedTuple):
    """How images are brought to bytes.

    Args:
        channels: 1 for grey, 3 for colour.
        size: height and width that all are brought to; `None`: as they are.
        scale: of grey images with more than 8 bits, the values that become black and white; those beyond are black and
            white as well.
        resample: Pillow's number of how they are resized; 3 is bicubic.
    """

    channels: int = 3
    size: tuple[int, int] | None = None
    scale: tuple[float, float] | None = None
    resample: int = 3


def is_picture(image: Any) -> bool:
    """Tell whether an image is one of Pillow's."""
    return hasattr(image, "resize") and hasattr(image, "convert")


def decoded(image: Any, number: int, look: Look) -> np.ndarray:
    """Return one image as bytes, [height, width] or [height, width, 3].

    Args:
        image: Pillow's, or as a column holds it that is not decoded: bytes, or a path.
        number: of its row, for errors.
        look: what is wanted.

    Raises:
        ValueError: it is missing, cannot be read, or has values beyond black and white.
    """
    if image is None:
        raise ValueError(f"Image {number} is missing. Drop such rows: dataset.filter(...).")
    if isinstance(image, list | np.ndarray):
        picture = _of_numbers(np.asarray(image), number, look.scale)
    else:
        picture = _eight_bits(_read(image, number), number, look.scale)
    picture = picture.convert(MODES[look.channels])
    wanted = look.size and (look.size[1], look.size[0])
    return np.asarray(picture.resize(wanted, look.resample) if wanted and picture.size != wanted else picture)


def _read(image: Any, number: int) -> Any:
    try:
        return image if is_picture(image) else _KIND.decode_example(image)
    except Exception as error:  # Pillow's readers raise whatever they meet
        raise ValueError(f"Image {number} cannot be read ({type(error).__name__}). Drop it, or mend it.") from error


def _of_numbers(values: np.ndarray, number: int, scale: tuple[float, float] | None) -> Any:
    """Return Pillow's image of numbers [height, width] or [height, width, 3]: whole ones are bytes, others shares."""
    from PIL import Image as Picture

    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.dtype.kind not in "uif" or values.ndim not in (2, 3) or values.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"Image {number} holds {values.dtype} of shape {values.shape}: numbers [height, width] or "
            "[height, width, 3] are needed."
        )
    whole = (0.0, 255.0) if values.dtype.kind in "ui" else (0.0, 1.0)
    return Picture.fromarray(_bytes(values.astype(np.float64), number, scale, whole))


def _eight_bits(image: Any, number: int, scale: tuple[float, float] | None) -> Any:
    """Bring grey values of more than 8 bits to bytes: Pillow alone would cut them off, and an X-ray would be white."""
    from PIL import Image as Picture

    whole = _WHOLE_RANGE.get(image.mode[0])
    if whole is None:
        return image
    return Picture.fromarray(_bytes(np.asarray(image).astype(np.float64), number, scale, whole))


def _bytes(
    values: np.ndarray, number: int, scale: tuple[float, float] | None, whole: tuple[float, float]
) -> np.ndarray:
    """Bring values to bytes; where no scale is given, none may lie beyond what is black and white."""
    low, high = scale or whole
    least, most = float(values.min()), float(values.max())
    if not np.isfinite(values).all():
        raise ValueError(f"Image {number} holds values that are not finite.")
    if scale is None and not low <= least <= most <= high:
        raise ValueError(
            f"Image {number} has values from {least:g} to {most:g}, and black and white are {low:g} and {high:g}. Say "
            f"which values they are: scale=({least:g}, {most:g}), say, for all images alike."
        )
    return (((values - low) / (high - low)).clip(0, 1) * 255).round().astype(np.uint8)
