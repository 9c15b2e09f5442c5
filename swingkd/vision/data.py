"""Images in memory as bytes: decoded once, cropped and flipped a batch at a time.

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
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset

from swingkd.vision.decoding import MODES, decoded


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

    Raises:
        ValueError: the pixels are no images, or a label is no class.
    """

    pixels: torch.Tensor = field(repr=False)
    labels: torch.Tensor = field(repr=False)
    classes: int
    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.5,)
    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != torch.uint8:
            raise ValueError(
                f"pixels of shape {tuple(self.pixels.shape)} and type {self.pixels.dtype}: uint8 "
                "[n, channels, height, width] is needed."
            )
        if len(self.labels) != len(self.pixels):
            raise ValueError(f"{len(self.pixels)} images and {len(self.labels)} labels.")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.classes:
            raise ValueError(f"A label is none of the {self.classes} classes.")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.pixels.shape[1]):
                raise ValueError(f"{name}={getattr(self, name)} for images of {self.pixels.shape[1]} channels.")

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        *,
        image_column: str = "image",
        label_column: str = "label",
        size: int | None = None,
        channels: int = 3,
        scale: tuple[float, float] | None = None,
        **others,
    ) -> Images:
        """Decode a data set.

        Args:
            dataset: with a column of images and one of class numbers.
            image_column, label_column: their names.
            size: height and width that all images are brought to; default: they are of one size.
            channels: 3 for colour, 1 for grey.
            scale: of grey images with more than 8 bits, the values that become black and white, such as (0, 4095);
                default: 0 and 65535 of whole numbers, 0 and 1 of others.
            **others: mean, std, crop, flip.  An image processor of Hugging Face knows the first two as `image_mean`
                and `image_std`.

        Raises:
            ValueError: a column is missing, a label too; the images differ in size; one is missing, cannot be read,
                or has values beyond black and white.
        """
        for name in (image_column, label_column):
            if name not in dataset.column_names:
                raise ValueError(f"There is no column {name!r} among {', '.join(dataset.column_names)}.")
        if channels not in MODES:
            raise ValueError(f"channels={channels}: choose 3 for colour or 1 for grey.")
        labels = dataset.with_format("arrow")[label_column].combine_chunks()
        if labels.null_count:
            raise ValueError(f"{labels.null_count} of {len(dataset)} images have no {label_column}. Drop them.")
        feature = dataset.features[label_column]
        if not pa.types.is_integer(labels.type):
            raise ValueError(
                f"{label_column!r} holds {labels.type}; class numbers are needed. Use "
                f"dataset.class_encode_column({label_column!r})."
            )
        known = torch.from_numpy(labels.to_numpy(zero_copy_only=False).astype(np.int64))
        classes = feature.num_classes if isinstance(feature, ClassLabel) else int(known.max()) + 1
        if scale is not None and not scale[0] < scale[1]:
            raise ValueError(f"scale={scale}: the value that becomes black must be below the one that becomes white.")
        pixels: torch.Tensor | None = None
        for number, array in enumerate(decoded(dataset, image_column, channels, size, scale)):
            if pixels is None:
                pixels = torch.empty(len(dataset), channels, *array.shape[:2], dtype=torch.uint8)
            if array.shape[:2] != tuple(pixels.shape[2:]):
                raise ValueError(
                    f"Image {number} has {array.shape[1]}x{array.shape[0]} pixels, the first "
                    f"{pixels.shape[3]}x{pixels.shape[2]}. Give size=... to bring them to one size."
                )
            pixels[number] = torch.from_numpy(array.copy()).reshape(*array.shape[:2], channels).permute(2, 0, 1)
        if pixels is None:
            raise ValueError("The data set is empty.")
        return cls(pixels, known, classes, **others)

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
            "content": self.digest,
        }

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all pixels and labels, in their order."""
        digest = hashlib.sha256()
        for tensor in (self.pixels, self.labels):
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def select(self, indices: torch.Tensor) -> Images:
        """Return some of the images."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def split(self, share: float, seed: int) -> tuple[Images, Images]:
        """Deal the images out at random: a share of them, and the rest.

        Raises:
            ValueError: one of the two would be empty.
        """
        count = round(share * len(self))
        if not 0 < count < len(self):
            raise ValueError(f"share={share} of {len(self)} images leaves one part empty: choose one between 0 and 1.")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.select(order[:count].sort().values), self.select(order[count:].sort().values)

    def inputs(
        self, indices: torch.Tensor, generator: torch.Generator | None = None, part: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what a model sees of some images, [n, channels, height, width] float32.

        Args:
            indices: [n].
            generator: crop and mirror them at random; `None`: as they are.
            part: [m] places among the indices, if only those are wanted; the others are drawn for all the same.
        """
        part = torch.arange(len(indices)) if part is None else part
        pixels = self.pixels[indices[part]]
        if generator is not None:
            pixels = augment(pixels, self.crop, self.flip, generator, len(indices), part)
        return self.normalise(pixels)

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
