"""What went wrong for users of other image libraries, tried here."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Picture
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from swingkd.vision import (
    ClassifierArguments,
    ClassifierTraining,
    DynamicSampleSelection,
    Images,
    SampleSelectionArguments,
    Teacher,
)
from tests.harness import small

pytestmark = pytest.mark.reported


def encoded(picture: Picture.Image, kind: str, **options) -> Dataset:
    """Return a data set of one file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    features = Features({"image": Image(), "label": Value("int64")})
    return Dataset.from_dict({"image": [{"bytes": file.getvalue(), "path": None}], "label": [0]}, features=features)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_greys_of_16_bits_keep_their_levels_in_either_byte_order(mode):
    """unsloth #10094, Pillow #5991: big-endian TIFFs became white, or raised."""
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    kinds = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}
    picture = Picture.frombytes(mode, (16, 16), values.astype(kinds[mode]).tobytes())
    images = Images.from_dataset(encoded(picture, "TIFF"), channels=1)
    assert len(images.pixels.unique()) == 256
    np.testing.assert_array_equal(images.pixels[0, 0].numpy(), np.round(values / 65535 * 255))


def test_photographs_stand_upright():
    """datasets #6252: a telephone writes down how it was held, and readers ignored it."""
    picture = Picture.fromarray(np.tile(np.arange(8, dtype=np.uint8)[:, None] * 30, (1, 4)))
    exif = Picture.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    images = Images.from_dataset(encoded(picture, "PNG", exif=exif), channels=1)
    assert images.pixels.shape == (1, 1, 4, 8)
    assert images.pixels[0, 0, 0].tolist() == [30 * i for i in range(7, -1, -1)]


class Counting(nn.Module):
    """Keeps a mean of what it sees in a buffer of its own, and counts."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("times", torch.tensor(0))

    def forward(self, images):
        means = images.mean((2, 3))
        if self.training:
            self.seen.lerp_(means.detach().mean(0), 0.5)
            self.times += 1
        return self.head(means - self.seen)


def test_running_means_of_weights_bring_the_buffers_along(public, tmp_path):
    """pytorch #84053, sesemi #36: buffers of the mean stayed as they were at the start."""
    args = ClassifierArguments(output_dir=str(tmp_path), epochs=3, batch_size=32, ema_decay=0.9, progress=False)
    trained = ClassifierTraining(Counting(), replace(public, crop=0, flip=False), args=args)
    trained.train()
    assert int(trained.model.times) == 9
    expected = public.normalise(public.pixels).mean((0, 2, 3))
    assert torch.allclose(trained.model.seen, expected, atol=0.2)


def test_the_first_steps_of_a_running_mean_are_not_those_of_the_first_weights(public, unseen, tmp_path):
    """timm #245: for many epochs, the mean of a short run was still the untrained model."""
    args = ClassifierArguments(
        output_dir=str(tmp_path), epochs=12, batch_size=32, learning_rate=1e-2, ema_decay=0.9999, progress=False
    )

    trained = ClassifierTraining(small(), public, args=args)
    trained.train()
    assert trained.evaluate(unseen) > 0.8


def test_a_teacher_that_orders_the_classes_otherwise_is_refused(public, tmp_path):
    """timm #1817, transformers #3093: classes are numbers, and nobody looked at their names."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    # A file may name them in any order.
    names = {1: "cat", 0: "dog", 2: "bird"}
    teacher = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, id2label=names))
    teacher.config.id2label = names
    args = SampleSelectionArguments(output_dir=str(tmp_path), progress=False)

    def selection(*named):
        return DynamicSampleSelection(
            small(), Teacher(copy.deepcopy(teacher), "private"), replace(public, names=named), args=args
        )

    with pytest.raises(ValueError, match="The teacher calls class 0 'dog', the images call it 'cat'"):
        selection("cat", "dog", "bird")
    selection("dog", "cat", "bird")
    selection("rose", "tulip", "lily")
    # A student learns the images' order, whatever its own was.
    ClassifierTraining(
        teacher, replace(public, names=("cat", "dog", "bird")), args=ClassifierArguments(output_dir="x")
    )
