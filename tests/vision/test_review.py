"""What a reviewer found in the rooms of images, each tried here."""

from __future__ import annotations

import functools
import stat

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image as Picture
from transformers import ViTImageProcessor

from swingkd.privacy import TRANSFER_SET
from swingkd.vision import (
    ClassifierTraining,
    DataFreeArguments,
    DataFreeDistillation,
    DynamicSampleSelection,
    ExactTeacher,
    GeneratorLoss,
    ImageGenerator,
    Images,
    PublishedNoise,
    RandomizedTeacher,
    SampleSelectionArguments,
    Teacher,
)
from swingkd.vision.data import said
from tests.harness import small
from tests.vision.test_training_settings import make


def data_free(folder, labeller, generator=None, critic=None, **fields) -> DataFreeDistillation:
    defaults = {"rounds": 1, "images_per_round": 16, "generator_epochs": 1, "generator_updates": 2}
    defaults |= {"generator_batch_size": 8, "epochs_per_round": 1, "progress": False, "mixed_precision": "no"}
    args = DataFreeArguments(output_dir=str(folder), **(defaults | fields))
    generator = generator or ImageGenerator(8, width=8, latent=4)
    return DataFreeDistillation(small(), generator, labeller, critic=critic, classes=3, args=args)


def test_answers_of_another_labeller_are_never_taken_up(tmp_path):
    """Exact labels that lay there were learnt under the guarantee of random ones."""
    data_free(tmp_path, ExactTeacher(small(9), "private"), checkpoint_every=0).train()
    other = data_free(tmp_path, RandomizedTeacher(small(9), epsilon=0.1), checkpoint_every=0)
    with pytest.raises(ValueError, match="made with other settings, labels or teachers"):
        other.train(resume_from_checkpoint=True)
    again = data_free(tmp_path, ExactTeacher(small(9), "private"), checkpoint_every=0)
    again.train(resume_from_checkpoint=True)
    assert len(again.answers) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_images_that_are_kept_as_numbers_keep_their_greys(stream):
    arrays = [np.full((6, 6), 200, np.uint8)] * 3
    rows = Dataset.from_dict({"image": arrays, "label": [0, 1, 2]})
    read = Images.from_dataset(rows.to_iterable_dataset() if stream else rows, channels=1)
    assert read.pixels.unique().tolist() == [200]
    wide = Dataset.from_dict({"image": [np.full((6, 6), 4000, np.uint16)] * 3, "label": [0, 1, 2]})
    with pytest.raises(ValueError, match="values from 4000 to 4000, and black and white are 0 and 255"):
        Images.from_dataset(wide, channels=1)
    assert Images.from_dataset(wide, channels=1, scale=(0, 8000)).pixels.unique().tolist() == [128]


@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_columns_of_paths_and_of_bytes_are_images(kind, tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(files):
        Picture.fromarray(np.full((6, 6, 3), 40 * number, np.uint8)).save(path)
    column = [str(path) if kind == "path" else path.read_bytes() for path in files]
    rows = Dataset.from_dict({"image": column, "label": [0, 1, 2]})
    for source in (rows, rows.to_iterable_dataset()):
        assert Images.from_dataset(source).pixels.amax((1, 2, 3)).tolist() == [0, 40, 80]


def test_a_layer_that_begins_anew_is_trained(tmp_path):
    teacher = small(1)
    run = data_free(tmp_path, ExactTeacher(teacher, ""), critic=teacher, renew_generator=True, rounds=2)
    assert [unit.stage for unit in run.units()].count("generator") == 2
    with pytest.raises(ValueError, match="would leave the new layer untrained"):
        data_free(tmp_path, ExactTeacher(teacher, ""), critic=teacher, renew_generator=True, generator_epochs=0)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_mean_of_private_weights_keeps_their_guarantee(public, tmp_path, decay):
    run = make(tmp_path, public, target_epsilon=8.0, ema_decay=decay)
    run.train()
    later = ClassifierTraining(run.model, public, args=run.args.__class__(output_dir=str(tmp_path)), public=True)
    assert any(entry.holds for entry in later.ledger.entries if TRANSFER_SET in entry.scope)


def test_a_card_tells_no_digest_and_no_number_of_private_images(public, tmp_path):
    run = make(tmp_path / "out", public, target_epsilon=8.0)
    run.train()
    run.save_model(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert public.digest not in card
    assert '"count"' not in card
    assert "'count'" not in card


def test_files_of_private_images_are_their_owners(public, tmp_path):
    pairs = [(image, int(label)) for image, label in zip(public.pixels, public.labels, strict=True)]
    Images.from_batches(pairs, keep=tmp_path / "images.bytes")
    assert stat.S_IMODE((tmp_path / "images.bytes").stat().st_mode) == 0o600
    run = data_free(tmp_path / "out", ExactTeacher(small(9), "private"))
    run.train()
    assert stat.S_IMODE((tmp_path / "out" / "_private").stat().st_mode) == 0o700
    assert stat.S_IMODE(run.folder.stat().st_mode) == 0o700


def test_each_pair_of_hints_is_a_query(public, tmp_path):
    def queries(pairs):
        args = SampleSelectionArguments(
            output_dir=str(tmp_path), shares=[], hint_epochs=1, hint_layers=pairs, progress=False, mixed_precision="no"
        )
        guidance = PublishedNoise(Teacher(small(3), ""), Teacher(small(4), ""), noise_multiplier=10.0)
        run = DynamicSampleSelection(small(), guidance, public, args=args)
        run.train()
        assert run.queries == args.hint_steps(len(public))
        return run.queries

    one, two = queries([("stem", "stem")]), queries([("stem", "stem"), ("stages.0", "stages.0")])
    assert two == 2 * one


def test_settings_without_an_effect_are_refused(tmp_path):
    with pytest.raises(ValueError, match="label_smoothing is of given labels"):
        DataFreeArguments(output_dir=str(tmp_path), label_smoothing=0.1)
    with pytest.raises(ValueError, match="disagreement is that of the student with a critic"):
        data_free(tmp_path, ExactTeacher(small(1), ""), loss=GeneratorLoss(disagreement=1.0))
    with pytest.raises(ValueError, match="told of 5 classes, and there are 3"):
        data_free(tmp_path, ExactTeacher(small(1), ""), ImageGenerator(8, width=8, latent=4, classes=5))


class Turned:
    def __call__(self, image):
        return image.flip(2)


def test_functions_are_said_alike_in_every_process():
    assert said(functools.partial(torch.flip, dims=(2,))).endswith("flip with () {'dims': (2,)}")
    assert "0x" not in said(Turned())
    assert "Turned" in said(Turned())
    assert said(test_settings_without_an_effect_are_refused) == "test_settings_without_an_effect_are_refused"


def test_fewer_images_than_a_row_of_the_picture_are_kept(tmp_path):
    run = data_free(tmp_path, RandomizedTeacher(small(1), epsilon=1.0), images_per_round=4)
    run.train()
    assert (run.folder / "round-1.png").exists()


@pytest.mark.parametrize("classes", ["cat", ["a", "a", "b"]])
def test_classes_that_are_none_are_refused(classes):
    with pytest.raises(ValueError, match="a number is needed, or names of which no two are alike"):
        Images.from_batches([(torch.zeros(3, 4, 4, dtype=torch.uint8), 0)], classes=classes)


def test_what_cannot_be_is_refused_before_everything_is_read(tmp_path):
    read = []

    def pairs():
        for number in range(5):
            read.append(number)
            yield torch.zeros(3, 4, 4, dtype=torch.uint8), number

    with pytest.raises(TypeError, match="fliip"):
        Images.from_batches(pairs(), fliip=True)
    assert not read
    with pytest.raises(ValueError, match="Image 2 has the label 2, which is none of 2 classes"):
        Images.from_batches(pairs(), classes=2, keep=tmp_path / "images.bytes")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"has the label 0\.5; a class number"):
        Images.from_batches([(torch.zeros(3, 4, 4, dtype=torch.uint8), 0.5)])
    names = {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}
    assert Images.from_batches(pairs(), classes=names).names == tuple("abcde")
    assert Images.from_batches(pairs(), classes=np.int64(7)).classes == 7


def test_a_processor_of_other_numbers_is_refused():
    for fields in ({"do_rescale": False}, {"rescale_factor": 1 / 127.5}):
        with pytest.raises(ValueError, match="does not bring bytes to shares"):
            Images.from_batches([], processor=ViTImageProcessor(**fields))


def test_trackers_are_finished_after_an_error(public, tmp_path):
    from tests.vision.test_training_settings import Heard

    heard = Heard()
    trained = make(tmp_path, public, log_with=heard)
    trained.learn_labels = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trained.train()
    assert heard.over
