"""An image is shown to each model as that model was trained to see it."""

import numpy as np
import pytest
import torch
from datasets import Array3D, ClassLabel, Dataset, Features, Image, IterableDataset, Value
from PIL import Image as Picture
from transformers import MobileViTImageProcessor, ViTForImageClassification, ViTImageProcessor

from swingkd import PrivateDistillationTrainer, teacher_logits
from swingkd.trainer.check_pixels import check_pixels
from tests.harness import pictures, processor, vit

CLASSES = ("calm", "angry", "sad")


@pytest.mark.parametrize(("size", "mean"), [(16, 0.5), (8, 0.25)])
def test_a_teacher_that_reads_other_pixels_needs_its_own_processor(tmp_path, config, size, mean):
    teacher, own = vit(size, 1), processor(size, mean)
    teacher.save_pretrained(tmp_path / "teacher")
    own.save_pretrained(tmp_path / "teacher")
    given = {"model": vit(), "teacher_model": str(tmp_path / "teacher"), "args": config(protection="none")}
    given |= {"train_dataset": pictures()}
    with pytest.raises(ValueError, match=r"teacher model sees an image in another way .*teacher_processing_class"):
        PrivateDistillationTrainer(**given, processing_class=processor(8))
    trainer = PrivateDistillationTrainer(**given, processing_class=processor(8), teacher_processing_class=own)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(12)])
    found = teacher_logits(trainer.teacher_model, batch, "image-classification")
    with torch.no_grad():
        expected = vit(size, 1).eval()(**own(pictures()["image"][:], return_tensors="pt")).logits
    torch.testing.assert_close(found, expected)
    trainer.train()
    trainer.evaluate(pictures())


def test_sizes_are_compared_where_the_teacher_has_no_name(config):
    with pytest.raises(ValueError, match="teacher model reads images of 16 pixels, the student's are 8"):
        PrivateDistillationTrainer(
            vit(), config(), teacher_model=vit(16), train_dataset=pictures(), processing_class=processor(8)
        )


def test_pixels_made_for_the_student_are_not_shown_to_such_a_teacher(config):
    def shown(batch):
        return batch | {"pixel_values": processor(8)(batch["image"], return_tensors="np")["pixel_values"]}

    for data in (pictures().with_transform(shown), pictures().map(shown, batched=True, remove_columns="image")):
        with pytest.raises(ValueError, match="Pass the images themselves"):
            PrivateDistillationTrainer(
                vit(),
                config(protection="none"),
                teacher_model=vit(16),
                train_dataset=data,
                processing_class=processor(8),
                teacher_processing_class=processor(16),
            )


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        ({}, {"crop_size": 5}, True),  # not cropped
        ({"do_normalize": False}, {"do_normalize": None, "image_mean": [0.3] * 3}, True),
        ({}, {"rescale_factor": 1 / 127.5}, False),
        ({}, {"do_rescale": False}, False),
        ({"image_mean": [0.5, 0.4, 0.3]}, {"image_mean": [0.3, 0.4, 0.5]}, False),
    ],
)
def test_what_counts_is_what_a_processor_makes_of_an_image(tmp_path, ours, theirs, fits):
    shape = {"size": {"height": 8, "width": 8}}
    student_reads, own = (ViTImageProcessor(**(shape | fields)) for fields in (ours, theirs))
    vit(8, 1).save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    teacher = ViTForImageClassification.from_pretrained(tmp_path)
    if fits:
        check_pixels("teacher", teacher, student_reads)
        return
    with pytest.raises(ValueError, match="sees an image in another way than the student"):
        check_pixels("teacher", teacher, student_reads)


def test_the_order_of_channels_and_the_way_of_resizing_are_seen(tmp_path):
    bit = {"size": {"shortest_edge": 8}, "do_center_crop": True, "crop_size": {"height": 8, "width": 8}}
    own = MobileViTImageProcessor(**bit, do_flip_channel_order=True)
    vit(8, 1).save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    teacher = ViTForImageClassification.from_pretrained(tmp_path)
    for change in ({"do_flip_channel_order": False}, {"resample": 0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            check_pixels(
                "teacher", teacher, MobileViTImageProcessor(**({"do_flip_channel_order": True} | bit | change))
            )
    check_pixels("teacher", teacher, MobileViTImageProcessor(**bit, do_flip_channel_order=True))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_any_mode_train(config, mode):
    shown = [image.convert(mode) for image in pictures()["image"][:]]
    kinds = Features(image=Image(), label=ClassLabel(names=list(CLASSES)))
    data = Dataset.from_dict({"image": shown, "label": [i % 3 for i in range(12)]}, features=kinds)
    trainer = PrivateDistillationTrainer(
        vit(), config(protection="none"), teacher_model=vit(8, 1), train_dataset=data, processing_class=processor(8)
    )
    trainer.train()
    assert np.isfinite(trainer.evaluate(data)["eval_loss"])


def test_pixels_that_are_missing_or_of_two_sizes_are_refused(config):
    for wrong, says in (
        (None, "pixel_values has no value in row 3"),
        ((3, 4, 8), "has another size than the first in row 3"),
    ):
        rows = [np.zeros((3, 8, 8)).tolist() for _ in range(6)]
        rows[3] = None if wrong is None else np.zeros(wrong).tolist()
        data = Dataset.from_dict({"pixel_values": rows, "label": [0, 1, 2] * 2})
        with pytest.raises(ValueError, match=says):
            PrivateDistillationTrainer(
                vit(),
                config(protection="none"),
                teacher_model=vit(8, 1),
                train_dataset=data,
                processing_class=processor(8),
            )


def test_pixels_are_read_however_they_are_kept(config):
    """As lists, as arrays of one shape, and in streams as numpy or torch have them."""
    pixels = np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32)
    labels = [0, 1, 2] * 2
    kept = Features(pixel_values=Array3D((3, 8, 8), "float32"), label=Value("int64"))

    def rows(make):
        for values, label in zip(pixels, labels, strict=True):
            yield {"pixel_values": make(values), "label": label}

    streams = [
        IterableDataset.from_generator(rows, gen_kwargs={"make": make}) for make in (np.asarray, torch.as_tensor)
    ]
    maps = [
        Dataset.from_dict({"pixel_values": pixels.tolist(), "label": labels}),
        Dataset.from_dict({"pixel_values": pixels, "label": labels}, features=kept),
    ]
    for data in (*maps, *streams):
        args = config(protection="none", max_steps=2)
        PrivateDistillationTrainer(
            vit(), args, teacher_model=vit(8, 1), train_dataset=data, processing_class=processor(8)
        ).train()
    wrong = IterableDataset.from_generator(rows, gen_kwargs={"make": lambda v: v[:, : 4 + 4 * (v[0, 0, 0] > 0)]})
    with pytest.raises(ValueError, match="has another size than the first"):
        PrivateDistillationTrainer(
            vit(),
            config(protection="none", max_steps=2),
            teacher_model=vit(8, 1),
            train_dataset=wrong,
            processing_class=processor(8),
        ).train()


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_images_of_many_bits_are_not_cut_to_white(config, mode):
    shown = [Picture.fromarray(np.full((8, 8), 40_000, np.uint16)).convert("I").convert(mode) for _ in range(6)]
    kinds = Features(image=Image(), label=ClassLabel(names=list(CLASSES)))
    try:
        data = Dataset.from_dict({"image": shown, "label": [0, 1, 2] * 2}, features=kinds)
    except (OSError, ValueError):
        pytest.skip(f"datasets stores no {mode} images")
    with pytest.raises(ValueError, match="more than eight bits"):
        PrivateDistillationTrainer(
            vit(),
            config(protection="none"),
            teacher_model=vit(8, 1),
            train_dataset=data,
            processing_class=processor(8),
        )
