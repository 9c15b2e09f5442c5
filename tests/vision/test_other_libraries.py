"""Models of timm and torchvision, and torchvision's transforms, where they are installed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from swingkd.vision import (
    ClassifierArguments,
    ClassifierTraining,
    DynamicSampleSelection,
    Images,
    SampleSelectionArguments,
    Teacher,
)
from tests.harness import coloured

timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")
v2 = pytest.importorskip("torchvision.transforms.v2")


def larger(images: Images) -> Images:
    return replace(images, pixels=images.pixels.repeat_interleave(4, 2).repeat_interleave(4, 3), crop=0, flip=False)


def distilled():
    """In training it says two things."""
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, img_size=32, patch_size=8)
    model.set_distilled_training(True)
    return model


MODELS = {
    "timm's tuple": distilled,
    "timm": lambda: timm.create_model("resnet10t", num_classes=3),
    "torchvision's tuple": lambda: models.googlenet(num_classes=3, aux_logits=True, init_weights=False),
    "torchvision": lambda: models.resnet18(num_classes=3),
}


@pytest.mark.parametrize("name", MODELS)
def test_their_models_are_trained_with_their_transforms(name, tmp_path):
    torch.manual_seed(0)
    transform = v2.Compose([v2.RandAugment(num_ops=1, magnitude=2), v2.RandomHorizontalFlip()])
    images = replace(larger(coloured(64, seed=0)), transform=transform)
    args = ClassifierArguments(output_dir=str(tmp_path), epochs=1, progress=False, mixed_precision="no")
    run = ClassifierTraining(MODELS[name](), images, args=args, mix=v2.MixUp(num_classes=3))
    run.train()
    assert run.history[0]["loss"] > 0
    assert 0 <= run.evaluate(larger(coloured(30, seed=1))) <= 1
    assert "RandAugment" in run.settings()["images"]["transform"]
    assert "MixUp" in run.settings()["mix"]


def test_one_library_teaches_the_other(tmp_path):
    images = larger(coloured(64, seed=0))
    pairs = [("layer1", "layer1"), ("layer2", "layer2")]
    args = SampleSelectionArguments(
        output_dir=str(tmp_path), hint_epochs=1, hint_layers=pairs, shares=[0.5], self_learning_epochs=1,
        distillation_epochs=1, progress=False, mixed_precision="no",
    )  # fmt: skip
    run = DynamicSampleSelection(MODELS["timm"](), Teacher(MODELS["torchvision"](), ""), images, args=args)
    run.train()
    assert [entry["stage"] for entry in run.history] == ["labels", "distillation"]


def test_pictures_of_a_loader():
    images = coloured(12, seed=0)
    pairs = [(v2.functional.to_pil_image(p), int(k)) for p, k in zip(images.pixels, images.labels, strict=True)]
    read = Images.from_batches(torch.utils.data.DataLoader(pairs, batch_size=None))
    assert torch.equal(read.pixels, images.pixels)
