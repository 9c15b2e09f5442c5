"""Images in memory: decoded exactly, cropped and mirrored as a plain loop would, dealt out in like batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset
from hypothesis import given
from hypothesis import strategies as st

from swingkd.vision import Images
from swingkd.vision.data import augment, shuffled_batches


def dataset(arrays, labels, feature=None) -> Dataset:
    features = Features({"image": Image(), "label": feature or Value("int64")})
    return Dataset.from_dict({"image": arrays, "label": labels}, features=features)


def test_pixels_are_decoded_exactly():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (6, 5, 3), np.uint8) for _ in range(4)]
    images = Images.from_dataset(dataset(arrays, [0, 1, 1, 0], ClassLabel(names=["a", "b", "c"])))
    assert images.classes == 3
    for pixels, array in zip(images.pixels, arrays, strict=True):
        np.testing.assert_array_equal(pixels.numpy().transpose(1, 2, 0), array)


def test_real_images_are_read(data_dir):
    rows = load_dataset("parquet", data_files=str(data_dir / "mnist" / "test*"), split="train[:20]")
    images = Images.from_dataset(rows, channels=1)
    assert images.pixels.shape == (20, 1, 28, 28)
    np.testing.assert_array_equal(images.pixels[7, 0].numpy(), np.asarray(rows[7]["image"]))
    assert images.labels.tolist() == rows["label"][:]


def test_all_images_can_be_brought_to_one_size():
    arrays = [np.zeros((4, 4, 3), np.uint8), np.zeros((6, 4, 3), np.uint8)]
    with pytest.raises(ValueError, match=r"Image 1 has 4x6 pixels of 3 channels, the first 4x4 .*Give size"):
        Images.from_dataset(dataset(arrays, [0, 1]))
    assert Images.from_dataset(dataset(arrays, [0, 1]), size=8, channels=1).pixels.shape == (2, 1, 8, 8)


def test_an_x_ray_keeps_its_greys():
    """16 bits became white in silence: Pillow cuts them off."""
    values = np.linspace(0, 65535, 20, dtype=np.uint16).reshape(4, 5)
    for channels in (1, 3):
        pixels = Images.from_dataset(dataset([values], [0]), channels=channels).pixels[0]
        for channel in pixels:
            np.testing.assert_array_equal(channel.numpy(), np.round(values / 65535 * 255))
    # Twelve bits in sixteen: black and white are said, what lies beyond is black or white.
    twelve = np.array([[0, 100, 2095, 4095, 4200]], np.uint16)
    pixels = Images.from_dataset(dataset([twelve], [0]), channels=1, scale=(100, 4095)).pixels[0, 0]
    np.testing.assert_array_equal(pixels[0].numpy(), [0, 0, round(1995 / 3995 * 255), 255, 255])
    shares = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    pixels = Images.from_dataset(dataset([shares], [0]), channels=1).pixels[0, 0]
    np.testing.assert_array_equal(pixels.numpy(), np.round(shares.astype(np.float64) * 255))


def test_an_image_that_is_none_is_named():
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"Image 1 is missing\. Drop such rows"):
        Images.from_dataset(dataset([good, None], [0, 1]))
    broken = dataset([good, {"bytes": b"no image", "path": None}], [0, 1])
    with pytest.raises(ValueError, match=r"Image 1 cannot be read \(UnidentifiedImageError\)"):
        Images.from_dataset(broken)
    floats = np.array([[-3.0, 7.0]], np.float32)
    with pytest.raises(ValueError, match=r"Image 0 has values from -3 to 7.*are 0 and 1.*scale=\(-3, 7\)"):
        Images.from_dataset(dataset([floats], [0]))
    with pytest.raises(ValueError, match="Image 0 holds values that are not finite"):
        Images.from_dataset(dataset([np.array([[np.nan, 0.5]], np.float32)], [0]), scale=(0, 1))
    with pytest.raises(ValueError, match="must be below"):
        Images.from_dataset(dataset([floats], [0]), scale=(1, 0))


def test_splits_and_transforms_are_not_read_in_silence():
    rows = dataset([np.full((4, 4, 3), 9, np.uint8)] * 2, [0, 1])
    with pytest.raises(ValueError, match=r"has the splits train, test: choose one, dataset\['train'\]"):
        Images.from_dataset(DatasetDict(train=rows, test=rows))
    with pytest.raises(ValueError, match=r"list is no data set of datasets: use Images\.from_batches"):
        Images.from_dataset([1, 2])
    with pytest.raises(ValueError, match=r"with_transform.*transform=\.\.\. here"):
        Images.from_dataset(rows.with_transform(lambda batch: batch))
    # A format is how rows are given, not what they are.
    for kind in ("torch", "numpy"):
        images = Images.from_dataset(rows.with_format(kind))
        assert images.labels.tolist() == [0, 1]
        assert (images.pixels == 9).all()


def test_bad_data_says_what_is_wrong():
    arrays = [np.zeros((4, 4, 3), np.uint8)] * 2
    with pytest.raises(ValueError, match="no column 'img' among image, label"):
        Images.from_dataset(dataset(arrays, [0, 1]), image_column="img")
    with pytest.raises(ValueError, match="1 of 2 images have no label"):
        Images.from_dataset(dataset(arrays, [0, None]))
    with pytest.raises(ValueError, match=r"'label' holds string; class numbers are needed"):
        Images.from_dataset(dataset(arrays, ["a", "b"], Value("string")))
    with pytest.raises(ValueError, match="channels=4"):
        Images.from_dataset(dataset(arrays, [0, 1]), channels=4)
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="none of the 2 classes"):
        Images(pixels, torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match="2 images and 1 labels"):
        Images(pixels, torch.tensor([0]), 2)
    with pytest.raises(ValueError, match="uint8"):
        Images(pixels.float(), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="mean="):
        Images(pixels, torch.tensor([0, 1]), 2, mean=(0.1, 0.2))
    with pytest.raises(ValueError, match="leaves one part empty"):
        Images(pixels, torch.tensor([0, 1]), 2).split(1.0, seed=0)


def test_a_model_sees_the_usual_scale(public):
    images = Images(public.pixels, public.labels, 3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (public.pixels[:5].double() / 255 - torch.tensor([0.1, 0.2, 0.3]).double().view(3, 1, 1)) / (
        torch.tensor([0.5, 0.6, 0.7]).double().view(3, 1, 1)
    )
    torch.testing.assert_close(images.inputs(torch.arange(5)).double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("kind", "around"), [(torch.uint8, "constant"), (torch.float32, "replicate")])
def test_augmented_images_are_crops_and_mirrors(public, kind, around):
    images = public.pixels[:20].to(kind)
    found = augment(images, 1, True, torch.Generator().manual_seed(3), 20, torch.arange(20))
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode=around)
    mirrored = 0
    for image, frame in zip(found, padded, strict=True):
        crops = [frame[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
        plain, flipped = (any(torch.equal(image, c) for c in side) for side in (crops, [c.flip(2) for c in crops]))
        assert plain or flipped
        mirrored += flipped
    assert 2 < mirrored < 18


def test_a_part_of_a_batch_is_what_it_is_in_the_whole(public):
    part = torch.tensor([1, 4, 5])
    whole, own = (public.inputs(torch.arange(9), torch.Generator().manual_seed(1), p) for p in (None, part))
    assert torch.equal(whole[part], own)


def test_augmentation_follows_from_the_generator(public):
    draws = [public.inputs(torch.arange(9), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@given(st.integers(1, 200), st.integers(1, 60))
def test_batches_hold_each_image_once_and_are_alike(count, size):
    batches = shuffled_batches(torch.arange(count), size, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(batches).tolist()) == list(range(count))
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == -(-count // size)
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_a_split_is_one(public):
    first, rest = public.split(0.25, seed=1)
    assert (len(first), len(rest)) == (24, 72)
    together = torch.cat([first.pixels, rest.pixels]).flatten(1)
    assert len(torch.unique(together, dim=0)) == 96
