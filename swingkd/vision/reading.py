"""Images from a data set, a stream or a loader, one after the other: into memory, or into a file that is mapped."""

from __future__ import annotations

import io
import operator
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import IO, Any

import numpy as np
import torch
from datasets import Array2D, Array3D, Dataset, Image, IterableDataset, LargeList, List

from swingkd.files import written_whole
from swingkd.vision.decoding import Look, decoded, is_picture

# How such pairs are called where they are columns.
_IMAGE, _LABEL = ("pixel_values", "image", "img"), ("labels", "label")


def stored(
    pairs: Iterable[tuple[np.ndarray, int]], keep: str | PathLike | None, classes: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bytes of images [n, channels, height, width] and their labels [n], read once.

    Args:
        pairs: an image's bytes [channels, height, width] and its label.
        keep: a file that the bytes go into, for its owner only, and are mapped from; default: memory.
        classes: how many there are, where that is known.

    Raises:
        ValueError: there is none, two differ in size, or a label is no class.
    """
    if keep is None:
        sink = io.BytesIO()
        shape, labels = _written(pairs, sink, classes)
        return torch.frombuffer(sink.getbuffer(), dtype=torch.uint8).view(shape), labels
    with written_whole(keep, owner_only=True) as part, open(part, "wb") as file:
        shape, labels = _written(pairs, file, classes)
    return _mapped(keep, shape), labels


def kept(pieces: Iterable[torch.Tensor], path: str | PathLike) -> torch.Tensor:
    """Return images [n, channels, height, width], mapped from a file for its owner only that they are written to.

    Args:
        pieces: bytes of one shape, some at a time; there is at least one.
        path: of the file.
    """
    count, shape = 0, tuple[int, ...]()
    with written_whole(path, owner_only=True) as part, open(part, "wb") as file:
        for piece in pieces:
            file.write(piece.contiguous().numpy().data)
            count, shape = count + len(piece), tuple(piece.shape[1:])
    return _mapped(path, (count, *shape))


def _mapped(path: str | PathLike, shape: Sequence[int]) -> torch.Tensor:
    return torch.from_file(str(path), size=int(np.prod(shape)), dtype=torch.uint8).view(*shape)


def _written(
    pairs: Iterable[tuple[np.ndarray, int]], sink: IO[bytes], classes: int | None
) -> tuple[tuple[int, ...], torch.Tensor]:
    shape, labels = None, []
    for number, (array, label) in enumerate(pairs):
        shape = shape or array.shape
        if array.shape != shape:
            told, first = (f"{width}x{height} pixels of {n} channels" for n, height, width in (array.shape, shape))
            raise ValueError(f"Image {number} has {told}, the first {first}. Give size=... to bring them to one size.")
        if label < 0 or (classes is not None and label >= classes):
            raise ValueError(f"Image {number} has the label {label}, which is none of {classes or 'the'} classes.")
        sink.write(np.ascontiguousarray(array).data)
        labels.append(label)
    if shape is None:
        raise ValueError("The data set is empty.")
    return (len(labels), *shape), torch.tensor(labels, dtype=torch.int64)


def of_dataset(
    dataset: Dataset | IterableDataset, image_column: str, label_column: str, look: Look
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the images of a data set or a stream, and their labels.

    Raises:
        ValueError: names the row without an image, a label or a column.
    """
    if dataset.features:
        check_columns(dataset.features, image_column, label_column)
        kept = dataset.select_columns([image_column, label_column])
        # What is kept as numbers stays as it is: of those, Pillow would not know which are black and white.
        numbers = isinstance(dataset.features[image_column], List | LargeList | Array2D | Array3D)
        dataset = kept if numbers else kept.cast_column(image_column, Image(decode=False))
    for number, row in enumerate(dataset):
        check_columns(row, image_column, label_column)
        yield _channels_first(decoded(row[image_column], number, look)), _label(row[label_column], number)


def check_columns(known: Iterable[str], *wanted: str) -> None:
    """Refuse data without a column.

    Raises:
        ValueError: names it and those that there are.
    """
    for name in wanted:
        if name not in known:
            raise ValueError(f"There is no column {name!r} among {', '.join(known)}.")


def of_batches(batches: Iterable[Any], look: Look) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the images of a loader's batches, or a data set's pairs, and their labels.

    Raises:
        ValueError: names the first that is no pair of images and labels.
    """
    number = 0
    for item in batches:
        images, labels = _pair(item, number)
        if images is None:
            raise ValueError(f"Image {number} is missing. Leave it out of the data set.")
        if is_picture(images):
            images, labels = [images], [labels]
        elif isinstance(images, torch.Tensor | np.ndarray) and images.ndim != 4:
            images, labels = images[None], [labels]
        if not hasattr(labels, "__len__") or len(labels) != len(images):
            raise ValueError(f"Image {number} begins a batch of {len(images)}, which has other labels: {labels!r}.")
        for image, label in zip(images, labels, strict=True):
            yield _as_bytes(image, number, look), _label(label, number)
            number += 1


def names_of(dataset: Any) -> list[str] | None:
    """Return the class names that a data set gives itself, as those of torchvision do; `None` without any.

    Which number a name has, says `class_to_idx`: some number their folders otherwise than in the order of the names.
    """
    names, numbers = getattr(dataset, "classes", None), getattr(dataset, "class_to_idx", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    if getattr(dataset, "target_transform", None) is not None:
        return None  # its labels are others
    if not isinstance(numbers, dict):
        return list(names)
    by_number = {number: name for name, number in numbers.items() if name in names}
    return [by_number[i] for i in range(len(names))] if by_number.keys() == set(range(len(names))) else None


def _pair(item: Any, number: int) -> tuple[Any, Any]:
    if isinstance(item, dict):
        names = [next((name for name in known if name in item), None) for known in (_IMAGE, _LABEL)]
        if None not in names:
            return item[names[0]], item[names[1]]
    elif isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    told = ", ".join(item) if isinstance(item, dict) else type(item).__name__
    raise ValueError(
        f"Image {number} comes as {told}: a pair of images and labels is needed, or a dict with one of "
        f"{', '.join(_IMAGE)} and one of {', '.join(_LABEL)}."
    )


def _as_bytes(image: Any, number: int, look: Look) -> np.ndarray:
    """Return an image's bytes, [channels, height, width]."""
    if is_picture(image):
        return _channels_first(decoded(image, number, look))
    values = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise ValueError(
            f"Image {number} has shape {tuple(values.shape)}: [1 or 3 channels, height, width] is needed."
        )
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating) or not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"Image {number} holds {values.dtype} from {values.min():g} to {values.max():g}: bytes are needed, or "
            "shares from 0 to 1. Leave the normalisation out of the transforms: mean=... and std=... come later."
        )
    return np.round(values * 255).astype(np.uint8)


def _label(label: Any, number: int) -> int:
    if label is None:
        raise ValueError(f"Image {number} has no label. Drop such rows.")
    try:
        plain: Any = label.item() if isinstance(label, torch.Tensor | np.generic) else label
        return operator.index(plain)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Image {number} has the label {label!r}; a class number is needed.") from error


def _channels_first(array: np.ndarray) -> np.ndarray:
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
