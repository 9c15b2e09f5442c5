"""Images as bytes, in memory or mapped from a file: decoded once, cropped and flipped a batch at a time.

>>> import numpy as np
>>> from datasets import Image
>>> data = Dataset.from_dict({"image": [np.full((8, 8, 3), i, np.uint8) for i in range(6)], "label": [0, 1] * 3})
>>> images = Images.from_dataset(data.cast_column("image", Image()))
>>> images.pixels.shape, images.classes
(torch.Size([6, 3, 8, 8]), 2)
>>> [len(part) for part in images.split(0.5, seed=0)]
[3, 3]
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from swingkd.vision.decoding import MODES, Look
from swingkd.vision.reading import check_columns, kept, names_of, of_batches, of_dataset, stored

# Images that are copied at a time.
_PIECE = 1024


def said(function: Any) -> str:
    """Return what a checkpoint says of a function or an object that is called: the same in every process."""
    if isinstance(function, partial):
        return f"{said(function.func)} with {function.args} {function.keywords}"
    return getattr(function, "__qualname__", None) or re.sub(r" at 0x[0-9a-f]+", "", repr(function))


def looks(
    size: int | tuple[int, int] | None, channels: int, scale: tuple[float, float] | None, processor: Any
) -> tuple[Look, dict[str, Any]]:
    """Return how images are brought to bytes, and what else a processor says of them.

    Raises:
        ValueError: what is asked for cannot be.
    """
    if channels not in MODES:
        raise ValueError(f"channels={channels}: choose 3 for colour or 1 for grey.")
    if scale is not None and not scale[0] < scale[1]:
        raise ValueError(f"scale={scale}: the value that becomes black must be below the one that becomes white.")
    known: dict[str, Any] = {}
    resample = 3
    if processor is not None:
        factor = getattr(processor, "rescale_factor", 1 / 255) if getattr(processor, "do_rescale", True) else 1.0
        if not math.isclose(factor, 1 / 255, rel_tol=1e-6):
            raise ValueError("processor does not bring bytes to shares from 0 to 1, which models here are shown.")
        normalises = getattr(processor, "do_normalize", False)
        known["mean"] = tuple(processor.image_mean) if normalises else (0.0,)
        known["std"] = tuple(processor.image_std) if normalises else (1.0,)
        cut = (getattr(processor, "do_center_crop", False) and processor.crop_size) or processor.size or {}
        sides: list[Any] = [cut.get(name, cut.get("shortest_edge")) for name in ("height", "width")]
        if size is None:
            if None in sides:
                raise ValueError(f"processor names no height and width ({dict(cut)}): give size=...")
            size = (int(sides[0]), int(sides[1]))
        resample = int(getattr(processor, "resample", None) or 0)
        known["resample"] = resample
    return Look(channels, (size, size) if isinstance(size, int) else size, scale, resample), known


def _plain(dataset: Any) -> Dataset | IterableDataset:
    """Return a data set or a stream that gives its rows as they are kept.

    Raises:
        ValueError: it is neither; or a transform of it would change the images.
    """
    if isinstance(dataset, DatasetDict | IterableDatasetDict):
        raise ValueError(f"The data set has the splits {', '.join(dataset)}: choose one, dataset['train'] say.")
    if not isinstance(dataset, Dataset | IterableDataset):
        raise ValueError(f"{type(dataset).__name__} is no data set of datasets: use Images.from_batches.")
    if isinstance(dataset, Dataset) and dataset.format["type"] == "custom":
        raise ValueError(
            "The data set has a transform (with_transform), which would change the images before they are read. Take "
            "it off, dataset.with_format(None), and give transform=... here."
        )
    return dataset.with_format(None)


def _check_labels(dataset: Dataset, image_column: str, label_column: str) -> None:
    """Refuse a data set without images and class numbers, before the first image is decoded."""
    check_columns(dataset.column_names, image_column, label_column)
    labels = dataset.with_format("arrow")[label_column].combine_chunks()
    if labels.null_count:
        raise ValueError(f"{labels.null_count} of {len(dataset)} images have no {label_column}. Drop them.")
    if not pa.types.is_integer(labels.type):
        raise ValueError(
            f"{label_column!r} holds {labels.type}; class numbers are needed. Use "
            f"dataset.class_encode_column({label_column!r})."
        )


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images of one size.

    Args:
        pixels: [n, channels, height, width] uint8; 50,000 colour images of 32x32 take 150 MB.
        labels: [n] class of each.
        classes: how many there are.
        mean, std: of each channel, as the models were trained with, in units of the full scale.
        crop: pixels of black that a random crop may take in on each side, when images are augmented.
        flip: whether an image may be mirrored then.
        transform: what is done to each image's bytes [channels, height, width] after that, such as
            `torchvision.transforms.v2.RandAugment()`; it draws from torch's own generator, and returns bytes.
        names: of the classes; students are saved with them.
        resample: Pillow's number of how they were resized, which students are saved with; 3 is bicubic.

    Raises:
        ValueError: the pixels are no images, a label is no class, or there are more or fewer names than classes.
    """

    pixels: torch.Tensor = field(repr=False)
    labels: torch.Tensor = field(repr=False)
    classes: int
    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.5,)
    crop: int = 0
    flip: bool = False
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None
    names: Sequence[str] | None = None
    resample: int = 3

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != torch.uint8:
            raise ValueError(
                f"pixels of shape {tuple(self.pixels.shape)} and type {self.pixels.dtype}: uint8 "
                "[n, channels, height, width] is needed."
            )
        if len(self.labels) != len(self.pixels):
            raise ValueError(f"{len(self.pixels)} images and {len(self.labels)} labels.")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.classes:
            raise ValueError(
                f"A label is none of the {self.classes} classes: they go from {int(self.labels.min())} to "
                f"{int(self.labels.max())}."
            )
        if self.names is not None and len(self.names) != self.classes:
            raise ValueError(f"{len(self.names)} names for {self.classes} classes.")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.pixels.shape[1]):
                raise ValueError(f"{name}={getattr(self, name)} for images of {self.pixels.shape[1]} channels.")

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset | IterableDataset,
        *,
        image_column: str = "image",
        label_column: str = "label",
        classes: int | Sequence[str] | None = None,
        size: int | tuple[int, int] | None = None,
        channels: int = 3,
        scale: tuple[float, float] | None = None,
        processor: Any = None,
        keep: str | PathLike | None = None,
        **others,
    ) -> Images:
        """Decode a data set, or read a stream to its end.

        Args:
            dataset: with a column of images and one of class numbers.
            image_column, label_column: their names.
            classes: how many there are, or their names; default: as the data set says, or as many as are there.
            size: height and width that all images are brought to; default: they are of one size.
            channels: 3 for colour, 1 for grey.
            scale: of grey images with more than 8 bits, the values that become black and white, such as (0, 4095);
                default: 0 and 65535 of whole numbers, 0 and 1 of others.
            processor: an image processor of Hugging Face, of which size, mean and std are taken; images are brought to
                that size whole, where it may cut them.
            keep: a file that the bytes are written to and mapped from, where they are too many for the memory.
            **others: mean, std, crop, flip, transform.

        Raises:
            ValueError: a column or a label is missing; the images differ in size; one is missing, cannot be read,
                or has values beyond black and white.
        """
        dataset = _plain(dataset)
        if isinstance(dataset, Dataset):
            _check_labels(dataset, image_column, label_column)
        feature = (dataset.features or {}).get(label_column)
        if classes is None and isinstance(feature, ClassLabel):
            classes = feature.names
        look, known = looks(size, channels, scale, processor)
        pairs = of_dataset(dataset, image_column, label_column, look)
        return cls._of(pairs, look, classes, keep, {**known, **others})

    @classmethod
    def from_batches(
        cls,
        batches: Iterable[Any],
        *,
        classes: int | Sequence[str] | None = None,
        size: int | tuple[int, int] | None = None,
        channels: int = 3,
        scale: tuple[float, float] | None = None,
        processor: Any = None,
        keep: str | PathLike | None = None,
        **others,
    ) -> Images:
        """Read a `DataLoader`, or a `Dataset` of torch or torchvision, to its end.

        Args:
            batches: pairs (or dicts) of images and class numbers, one by one or in batches; the images are Pillow's,
                bytes [channels, height, width], or shares from 0 to 1 of that shape.
            classes, size, channels, scale, processor, keep, **others: as for `from_dataset`; size and channels of
                Pillow's images.  Classes by default: those that the data set names itself (`classes`), if it does.

        Raises:
            ValueError: names the first image or label that is none.
        """
        look, known = looks(size, channels, scale, processor)
        if classes is None:
            classes = names_of(getattr(batches, "dataset", batches))
        return cls._of(of_batches(batches, look), look, classes, keep, {**known, **others})

    @classmethod
    def _of(cls, pairs: Iterator, look: Look, classes: Any, keep: Any, others: dict[str, Any]) -> Images:
        names = None
        if classes is not None and not isinstance(classes, int | np.integer):
            names = tuple(classes.values() if isinstance(classes, dict) else classes)
            if isinstance(classes, str) or len(set(names)) != len(names):
                raise ValueError(f"classes={classes!r}: a number is needed, or names of which no two are alike.")
        count = len(names) if names is not None else None if classes is None else int(classes)
        # What cannot be is refused before everything is read.
        none = torch.zeros(0, look.channels, 1, 1, dtype=torch.uint8)
        cls(none, torch.zeros(0, dtype=torch.int64), count or 1, **others)
        pixels, labels = stored(pairs, keep, count)
        return cls(pixels, labels, count or int(labels.max()) + 1, names=names, **others)

    @classmethod
    def none(cls, processor: Any, classes: int | Sequence[str]) -> Images:
        """Return no image of the kind that a processor of Hugging Face makes.

        Raises:
            ValueError: it does not say of which size.
        """
        # One that does not normalise may name no means: of colours then, as all pipelines are.
        channels = len(getattr(processor, "image_mean", None) or "rgb")
        look, known = looks(None, channels, None, processor)
        assert look.size is not None
        pixels, labels = torch.zeros(0, channels, *look.size, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
        if isinstance(classes, int):
            return cls(pixels, labels, classes, **known)
        return cls(pixels, labels, len(classes), names=tuple(classes), **known)

    @property
    def counts(self) -> list[int]:
        """How many images each class has."""
        return self.labels.bincount(minlength=self.classes).tolist()

    def __len__(self) -> int:
        return len(self.pixels)

    def described(self) -> dict[str, Any]:
        """Return how many there are, and how a model must be shown such images, as plain types."""
        channels, height, width = self.pixels.shape[1:]
        return {
            "count": len(self),
            "classes": self.classes,
            "channels": channels,
            "height": height,
            "width": width,
            "mean": list(self.mean),
            "std": list(self.std),
            "crop": self.crop,
            "flip": self.flip,
            **({} if self.transform is None else {"transform": said(self.transform)}),
            "content": self.digest,
        }

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all pixels and labels, in their order."""
        digest = hashlib.sha256()
        for tensor in (self.pixels, self.labels):
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def select(self, indices: torch.Tensor, *, keep: str | PathLike | None = None) -> Images:
        """Return some of the images: a copy of them in memory, or in a file to `keep`, which is mapped."""
        labels = self.labels[indices]
        if keep is None or not len(indices):
            return replace(self, pixels=self.pixels[indices], labels=labels)
        pixels = kept((self.pixels[part] for part in indices.split(_PIECE)), keep)
        return replace(self, pixels=pixels, labels=labels)

    def split(
        self, share: float, seed: int, *, keep: tuple[str | PathLike, str | PathLike] | None = None
    ) -> tuple[Images, Images]:
        """Deal the images out at random: a share of them, and the rest.

        Args:
            share: of the images in the first part.
            seed: of the draw.
            keep: files that the two are written to and mapped from, where they are too many for the memory.

        Raises:
            ValueError: one of the two would be empty.
        """
        count = round(share * len(self))
        if not 0 < count < len(self):
            raise ValueError(f"share={share} of {len(self)} images leaves one part empty: choose one between 0 and 1.")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        first, second = keep or (None, None)
        return (
            self.select(order[:count].sort().values, keep=first),
            self.select(order[count:].sort().values, keep=second),
        )

    def inputs(
        self, indices: torch.Tensor, generator: torch.Generator | None = None, part: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what a model sees of some images, [n, channels, height, width] float32.

        Args:
            indices: [n].
            generator: crop, mirror and transform them at random; `None`: as they are.
            part: [m] places among the indices, if only those are wanted; the others are drawn for all the same.
        """
        part = torch.arange(len(indices)) if part is None else part
        pixels = self.pixels[indices[part]]
        if generator is not None:
            pixels = augment(pixels, self.crop, self.flip, generator, len(indices), part)
            pixels = self._transformed(pixels)
        return self.normalise(pixels)

    def _transformed(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.transform is None or not len(pixels):
            return pixels
        changed = torch.stack([self.transform(image) for image in pixels])
        if changed.dtype != torch.uint8 or changed.shape[:2] != pixels.shape[:2]:
            raise ValueError(
                f"transform made {changed.dtype} of shape {tuple(changed.shape[1:])} of bytes of shape "
                f"{tuple(pixels.shape[1:])}. Leave out what turns bytes into numbers and normalises them: mean and "
                "std are applied afterwards."
            )
        return changed

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Bring bytes to the scale that models know."""
        mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (self.mean, self.std))
        return pixels * (1 / (255 * std)) - mean / std


def augment(
    images: torch.Tensor, crop: int, flip: bool, generator: torch.Generator, count: int, part: torch.Tensor
) -> torch.Tensor:
    """Move and mirror images at random.

    Args:
        images: [n, channels, height, width]; around bytes it is black, around other numbers as at the edge.
        crop: by so many pixels at most.
        flip: mirror half of them.
        generator: draws.
        count: how many are drawn for, in all processes together.
        part: [n] the places of these among them.
    """
    height, width = images.shape[2:]
    if crop:
        y, x = torch.randint(2 * crop + 1, (2, count), generator=generator)[:, part]
        padded = F.pad(images, (crop,) * 4, mode="replicate" if images.is_floating_point() else "constant")
        images = padded.unfold(2, height, 1).unfold(3, width, 1)[torch.arange(len(images)), :, y, x]
    if flip:
        mirrored = torch.rand(count, generator=generator)[part] < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images


def shuffled_batches(indices: torch.Tensor, size: int, generator: torch.Generator | None = None) -> list[torch.Tensor]:
    """Cut indices into the fewest batches of at most `size`, in random order.

    All batches are of like length: a last one of two or three images would be a bad one for batch norm.
    """
    order = torch.randperm(len(indices), generator=generator)
    return [part for part in indices[order].tensor_split(math.ceil(len(indices) / size)) if len(part)]
