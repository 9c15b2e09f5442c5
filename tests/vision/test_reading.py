"""Images of a stream, a loader or torch's own data sets are those of a data set, in memory and mapped from a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture
from torch.utils.data import DataLoader, TensorDataset
from transformers import ViTImageProcessor

from swingkd.vision import ClassifierArguments, ClassifierTraining, Images
from tests.harness import small

RNG = np.random.default_rng(0)
ARRAYS = [RNG.integers(0, 256, (6, 5, 3), np.uint8) for _ in range(7)]
LABELS = [0, 1, 1, 0, 2, 2, 1]
PIXELS = torch.from_numpy(np.stack(ARRAYS).transpose(0, 3, 1, 2).copy())


def dataset(labels=LABELS, feature=None) -> Dataset:
    features = Features({"image": Image(), "label": feature or Value("int64")})
    return Dataset.from_dict({"image": ARRAYS, "label": labels}, features=features)


def check(images: Images) -> None:
    assert torch.equal(images.pixels, PIXELS)
    assert images.labels.tolist() == LABELS
    assert images.classes == 3


class Pictures(torch.utils.data.Dataset):
    """As torchvision's data sets are: a picture of Pillow's and a number."""

    def __len__(self) -> int:
        return len(ARRAYS)

    def __getitem__(self, number: int):
        if number >= len(self):
            raise IndexError
        return Picture.fromarray(ARRAYS[number]), LABELS[number]


@pytest.mark.parametrize("keep", [False, True])
def test_wherever_images_come_from_they_are_the_same(tmp_path, keep):
    rows = dataset()

    def unknown():
        yield from (
            {"image": Picture.fromarray(array), "label": label} for array, label in zip(ARRAYS, LABELS, strict=True)
        )

    bytes_, shares = (TensorDataset(values, torch.tensor(LABELS)) for values in (PIXELS, PIXELS / 255))
    named = [{"pixel_values": PIXELS[:4], "labels": LABELS[:4]}, {"img": PIXELS[4:], "label": LABELS[4:]}]
    sources = {
        "data set": (Images.from_dataset, rows),
        "stream": (Images.from_dataset, rows.to_iterable_dataset(num_shards=2)),
        "stream that nothing is known of": (Images.from_dataset, IterableDataset.from_generator(unknown)),
        "loader of shares": (Images.from_batches, DataLoader(shares, batch_size=3)),
        "loader of bytes": (Images.from_batches, DataLoader(bytes_, batch_size=4)),
        "dicts": (Images.from_batches, named),
        "pictures": (Images.from_batches, Pictures()),
        "single tensors": (Images.from_batches, bytes_),
    }
    for number, (read, source) in enumerate(sources.values()):
        path = tmp_path / f"{number}.bytes" if keep else None
        check(read(source, keep=path))
        if keep:
            assert path.stat().st_size == PIXELS.numel()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_batches_of_any_size_are_read_in_order(sizes):
    total = sum(sizes)
    pixels = torch.arange(total * 12, dtype=torch.int64).remainder(256).to(torch.uint8).view(total, 3, 2, 2)
    batches = zip(pixels.split(sizes), torch.arange(total).split(sizes), strict=True)
    images = Images.from_batches(batches)
    assert torch.equal(images.pixels, pixels)
    assert images.labels.tolist() == list(range(total))


def test_a_file_of_bytes_is_trained_on_as_memory_is(tmp_path):
    """It is mapped: what is trained, and what a checkpoint knows of the images, is the same."""

    def trained(keep):
        images = Images.from_dataset(dataset(), keep=keep, size=8, crop=1)
        args = ClassifierArguments(output_dir=str(tmp_path / "out"), epochs=1, batch_size=4, progress=False)
        run = ClassifierTraining(small(), images, args=args)
        run.train()
        return run.logits(run.model, images), images.digest

    (one, digest), (other, mapped) = trained(None), trained(tmp_path / "images.bytes")
    assert torch.equal(one, other)
    assert digest == mapped


def test_parts_of_a_mapped_file_are_mapped_where_they_are_kept(tmp_path, monkeypatch):
    """Written piece by piece, into the file that they come from even."""
    monkeypatch.setattr("swingkd.vision.data._PIECE", 2)
    whole = Images.from_dataset(dataset(), keep=tmp_path / "images.bytes", flip=True)
    paths = (tmp_path / "first.bytes", tmp_path / "images.bytes")
    in_memory, in_files = whole.split(0.7, seed=3), whole.split(0.7, seed=3, keep=paths)
    for part, same, path in zip(in_memory, in_files, paths, strict=True):
        assert same.digest == part.digest
        assert same.flip
        assert path.stat().st_size == part.pixels.numel()
        assert path.stat().st_mode & 0o077 == 0
    check(whole)
    assert len(whole.select(torch.arange(0), keep=tmp_path / "none.bytes")) == 0


def test_classes_may_be_more_than_a_part_of_the_data_shows():
    part = dataset().select([0, 1, 2])
    assert Images.from_dataset(part).classes == 2
    images = Images.from_dataset(part, classes=5)
    assert (images.classes, images.counts) == (5, [1, 2, 0, 0, 0])
    named = Images.from_dataset(part, classes=["cat", "dog", "owl"])
    assert (named.classes, named.names) == (3, ("cat", "dog", "owl"))
    labels = ClassLabel(names=["a", "b", "c"])
    assert tuple(Images.from_dataset(dataset(feature=labels).select([0])).names) == ("a", "b", "c")
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        Images(PIXELS, torch.tensor(LABELS), 3, names=("a", "b"))


def test_a_processor_says_how_images_are_shown():
    processor = ViTImageProcessor(
        size={"height": 4, "width": 8}, resample=0, image_mean=[0.1, 0.2, 0.3], image_std=[1.0, 2.0, 4.0]
    )
    images = Images.from_dataset(dataset(), processor=processor)
    assert images.pixels.shape == (7, 3, 4, 8)
    pictures = [Picture.fromarray(array) for array in ARRAYS]
    shown = torch.as_tensor(processor(pictures, return_tensors="pt")["pixel_values"])
    torch.testing.assert_close(images.inputs(torch.arange(7)), shown, atol=1e-5, rtol=0)
    assert Images.from_dataset(dataset(), processor=processor, size=6).pixels.shape == (7, 3, 6, 6)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([(PIXELS.float(), LABELS)], r"Image 0 holds float32 from \d.* to 2\d\d: bytes are needed, or shares"),
        ([(PIXELS[0, 0], 0)], r"Image 0 has shape \(6, 5\)"),
        ([(PIXELS[:, :2], LABELS)], r"Image 0 has shape \(2, 6, 5\): \[1 or 3 channels"),
        ([(PIXELS, LABELS[:3])], r"Image 0 begins a batch of 7, which has other labels: \[0, 1, 1\]"),
        ([PIXELS], "Image 0 comes as Tensor: a pair of images and labels is needed"),
        ([{"pixels": PIXELS, "label": 0}], "Image 0 comes as pixels, label: a pair"),
        ([(PIXELS[0], 0), (PIXELS[0], None)], "Image 1 has no label"),
        ([(PIXELS[0], "cat")], "Image 0 has the label 'cat'; a class number is needed"),
        ([(PIXELS[0], 0), (PIXELS[0, :, :4], 0)], "Image 1 has 5x4 pixels of 3 channels, the first 5x6"),
        ([(PIXELS[0], 0), (PIXELS[0, :1], 0)], "Image 1 has 5x6 pixels of 1 channels, the first 5x6 pixels of 3"),
        ([], "The data set is empty"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_named(batches, message, tmp_path):
    for keep in (None, tmp_path / "images.bytes"):
        with pytest.raises(ValueError, match=message):
            Images.from_batches(batches, keep=keep)
    assert not list(tmp_path.iterdir())


def test_a_stream_without_a_column_or_a_label_is_refused():
    with pytest.raises(ValueError, match="There is no column 'picture' among image, label"):
        Images.from_dataset(dataset().to_iterable_dataset(), image_column="picture")
    with pytest.raises(ValueError, match="Image 3 has no label"):
        Images.from_dataset(dataset([0, 1, 1, None, 2, 2, 1]).to_iterable_dataset())


def test_a_data_set_names_its_classes_itself():
    """Those of torchvision do; a saved student then answers with names."""
    pictures = Pictures()
    pictures.classes = [f"kind {number}" for number in range(max(LABELS) + 1)]
    assert Images.from_batches(pictures).names == tuple(pictures.classes)
    assert Images.from_batches(DataLoader(pictures, batch_size=None)).names == tuple(pictures.classes)
    assert Images.from_batches(pictures, classes=9).names is None
    # Folders "1", "10", "2" that are numbered by what they are called (ImageNetV2).
    backwards = {name: len(pictures.classes) - 1 - number for number, name in enumerate(pictures.classes)}
    pictures.class_to_idx = backwards
    assert Images.from_batches(pictures).names == tuple(reversed(pictures.classes))
    pictures.class_to_idx = dict.fromkeys(pictures.classes, 3)
    assert Images.from_batches(pictures).names is None
    del pictures.class_to_idx
    pictures.target_transform = lambda label: label
    assert Images.from_batches(pictures).names is None
    del pictures.target_transform
    pictures.classes = len(pictures.classes)
    assert Images.from_batches(pictures).names is None


def test_an_image_that_is_missing_is_named_whatever_brings_it():
    with pytest.raises(ValueError, match="Image 2 is missing"):
        Images.from_batches([(PIXELS[0], 0), (PIXELS[1], 1), (None, 3)])
