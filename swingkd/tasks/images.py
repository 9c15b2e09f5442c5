"""Image classifiers: an image is private as far as its row says so, in the column `pii_likelihood` (0..255)."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, Image, IterableDataset
from PIL.Image import Image as Picture
from transformers import AutoImageProcessor, AutoModelForImageClassification

from swingkd.data import PII_COLUMNS, column_names, has_transform
from swingkd.data.columns import IGNORE, fold_of, likelihoods
from swingkd.models.class_labels import check_class_names
from swingkd.targets import ProtectionName
from swingkd.tasks.classification_metrics import example_metrics, mean_loss
from swingkd.tasks.examples import by_number, known_labels, label_field
from swingkd.tasks.labels import LabelTask

_NO_IMAGE = (
    "The rows hold pixel_values, or a transform that makes them for the student; the teacher reads images in its own "
    "way (teacher_processing_class). Pass the images themselves, in a column of images and without a transform."
)


class ImageClassification(LabelTask):
    """Say which class an image is of.  Rows have an image, or `pixel_values`, and `label`."""

    name = "image-classification"
    auto_model = AutoModelForImageClassification
    default_protection: ClassVar[ProtectionName] = "drop"
    auto_processor = AutoImageProcessor
    endings = ("ForImageClassification",)
    columns = ("pixel_values", "image", "teacher_pixel_values")

    def prepare(self, dataset, reading, *, description="train", keep=()):
        if reading.tagger is not None:
            raise ValueError(
                "A tagger reads text, and these rows are images. Say in a column pii_likelihood (uint8, 0 to 255) how "
                "private each image is, and pass tagger=None."
            )
        transformed = has_transform(dataset)
        dataset = dataset if transformed else dataset.with_format(None)
        columns = column_names(dataset)
        field = known_labels(dataset, label_field(columns, reading.settings, reading.labelled), reading.labelled)
        config = reading.model.config
        if field is not None:
            check_class_names(dataset.features, field, config)
        features = dataset.features or {}
        stream = isinstance(dataset, IterableDataset)
        # A generator tells no types: its first row shows them.
        shown = next(iter(dataset), {}) if stream and not features else {}
        image = next(
            (
                name
                for name in columns
                if isinstance(features.get(name), Image) or isinstance(shown.get(name), Picture)
            ),
            None,
        )
        if image is None and "pixel_values" not in columns:
            raise ValueError(f"The dataset has the columns {columns}; an image, or 'pixel_values', is needed.")
        if reading.teacher_processing_class is not None and (image is None or transformed):
            raise ValueError(_NO_IMAGE)
        names = ({field: "labels"} if field is not None else {}) | ({image: "image"} if image is not None else {})
        for old, new in names.items():
            dataset = dataset.rename_column(old, new) if old != new else dataset
        if image is not None and not transformed:
            # Grey, transparent or with a palette: as many channels as the model reads.
            mode = "L" if getattr(config, "num_channels", 3) == 1 else "RGB"
            if stream:
                dataset = dataset.map(_in_mode, fn_kwargs={"mode": mode})
            else:
                _check_eight_bits(dataset[0]["image"] if len(dataset) else None)
                dataset = dataset.cast_column("image", Image(mode=mode))
        dataset = by_number(dataset, config) if field is not None else dataset
        if transformed and len(dataset):
            _check_transform(dataset)
        return dataset

    def collator(self, processing_class, teacher_processing_class=None, cache=None):
        return ImageCollator(processing_class, teacher_processing_class)

    def call(self, inputs, model):
        return {"pixel_values": inputs["pixel_values"]}

    def of_teacher(self, inputs):
        if "teacher_pixel_values" not in inputs:
            return inputs
        return {"labels": inputs["labels"], "pixel_values": inputs["teacher_pixel_values"]}

    def metrics(self, sums, answers, model):
        return mean_loss(sums) | example_metrics(answers)


class ImageCollator:
    """Make batches of images.

    Args:
        processor: what makes `pixel_values` of images.
        teacher_processor: what makes the teacher's, where it reads them in another size or normalisation.
    """

    def __init__(self, processor: Any, teacher_processor: Any = None):
        self.processor, self.teacher_processor = processor, teacher_processor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `pixel_values` [rows, channels, height, width], the teacher's where it has its own, `labels` and what
        is known of privacy, [rows].

        Raises:
            ValueError: the rows hold the student's pixels alone, and the teacher reads others.
        """
        if self.teacher_processor is not None and "image" not in rows[0]:
            raise ValueError(_NO_IMAGE)
        if "pixel_values" in rows[0]:
            pixels = torch.stack([torch.as_tensor(np.asarray(row["pixel_values"], np.float32)) for row in rows])
        else:
            pixels = self.processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
        if "labels" not in rows[0]:
            # Rows that are only predicted.
            return {"pixel_values": pixels}
        own = {"labels": IGNORE, **dict.fromkeys(PII_COLUMNS, 0)}
        batch = {name: torch.tensor([row.get(name, own[name]) for row in rows]) for name in own}
        batch["pii_span"] = torch.tensor([_image_hash(row) for row in rows])
        batch["pii_group"] = (batch["pii_likelihood"] > 0).long()
        batch["pii_likelihood"] = likelihoods(batch["pii_likelihood"])
        if self.teacher_processor is not None:
            shown = self.teacher_processor([row["image"] for row in rows], return_tensors="pt")
            batch["teacher_pixel_values"] = shown["pixel_values"]
        return batch | {"pixel_values": pixels} | fold_of(rows)


def _in_mode(row: dict[str, Any], mode: str) -> dict[str, Any]:
    _check_eight_bits(row["image"])
    return {"image": row["image"].convert(mode)}


def _check_eight_bits(image: Any) -> None:
    """Refuse images of more than eight bits a channel: converted, nearly all of them would be white."""
    mode = image.mode if image is not None else "RGB"
    if mode.startswith(("I", "F")):
        raise ValueError(
            f"The images have the mode {mode!r}, with more than eight bits a channel. Scale them to 0..255 first, and "
            "store them as 'L' or 'RGB'."
        )


def _check_transform(dataset: Dataset) -> None:
    """Refuse a transform that does not hand on the labels, or how private an image is.

    Raises:
        ValueError: names what it leaves out, changes, or reads under another name.
    """
    stored = dataset.with_format(None).select_columns(
        [c for c in dataset.column_names if c in ("labels", *PII_COLUMNS)]
    )
    try:
        seen = dataset[0]
    except KeyError as error:
        raise ValueError(
            f"The transform (with_transform) reads a column {error} that is not there. When it runs, images are in "
            "'image' and their classes in 'labels': read these."
        ) from error
    lost = [name for name, value in stored[0].items() if name not in seen or seen[name] != value]
    if lost:
        raise ValueError(
            f"The transform (with_transform) does not return {', '.join(lost)} as stored, so an image would not be "
            "known for private, or not for what it shows. Return it too, such as batch | {'pixel_values': ...}."
        )


def _image_hash(row: dict[str, Any]) -> int:
    """Hash an image as it is stored: copies share the draws of replayed noise."""
    stored = row["image"] if "image" in row else row["pixel_values"]
    digest = hashlib.blake2b(np.ascontiguousarray(stored).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
