"""Small networks: sizes that papers state, weights that others trained, and how any classifier is asked."""

from __future__ import annotations

import pytest
import torch
from datasets import load_dataset
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from swingkd.models.logits import logits_of
from swingkd.vision import CifarResNet, ImageGenerator, Images, RonaNet, SlimResNet
from swingkd.vision.models import head_name, listening


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_sizes_are_those_that_the_papers_state():
    assert count(RonaNet()) == 3_119_754
    assert count(RonaNet.student()) == 152_138
    smaller = count(RonaNet(width=0.59))
    assert smaller == 1_089_198
    assert 1 - smaller / count(RonaNet()) == pytest.approx(0.651, abs=5e-4)
    # He et al. 2016, table 6: 0.27 M, 0.46 M, 0.85 M.
    assert [round(count(CifarResNet(depth)) / 1e6, 2) for depth in (20, 32, 56)] == [0.27, 0.46, 0.85]


def test_the_student_of_the_committed_run_has_at_least_65_percent_fewer_parameters_than_its_teacher():
    assert 1 - count(SlimResNet()) / count(CifarResNet(56)) >= 0.65


def test_weights_that_others_trained_are_read_and_classify(data_dir):
    model = CifarResNet(20)
    model.load_state_dict(load_file(data_dir / "models" / "cifar10_resnet" / "resnet20.safetensors"), strict=True)
    rows = load_dataset("parquet", data_files=str(data_dir / "cifar10" / "test*"), split="train[:500]")
    images = Images.from_dataset(rows, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with torch.no_grad():
        found = logits_of(model.eval(), images.inputs(torch.arange(500))).argmax(1)
    # 91.8 % on all of the test set; 500 images are within four deviations of that.
    assert float((found == images.labels).double().mean()) > 0.87


def test_a_block_is_the_papers():
    count_of = 3
    model = CifarResNet(8, width=4).eval().double()
    images = torch.randn(count_of, 3, 8, 8, dtype=torch.float64)
    found = F.relu(model.bn1(model.conv1(images)))
    for stage in (model.layer1, model.layer2, model.layer3):
        block = stage[0]
        inner = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(found)))))
        shortcut = found
        if inner.shape[1] != found.shape[1]:
            # Option A: every second pixel, and zeros for the new channels, half of them on each side.
            zeros = torch.zeros(count_of, found.shape[1] // 2, *inner.shape[2:], dtype=torch.float64)
            shortcut = torch.cat([zeros, found[:, :, ::2, ::2], zeros], 1)
        found = F.relu(inner + shortcut)
    torch.testing.assert_close(model(images), model.linear(found.mean((2, 3))))


@pytest.mark.parametrize(
    "model",
    [
        ViTForImageClassification(
            ViTConfig(
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                intermediate_size=8,
                image_size=8,
                patch_size=4,
                num_labels=3,
            )
        ),
        ResNetForImageClassification(
            ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=3)
        ),
        SlimResNet((4, 8), classes=3),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 3)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_any_classifier_can_be_asked(model):
    assert logits_of(model.eval(), torch.randn(2, 3, 8, 8)).shape == (2, 3)
    with listening(model, [head_name(model)], inputs=True) as heard:
        logits_of(model, torch.randn(2, 3, 8, 8))
    assert heard[head_name(model)].shape[0] == 2


def test_what_is_no_classifier_says_so():
    with pytest.raises(ValueError, match="Conv2d returned Tensor, no logits"):
        logits_of(nn.Conv2d(3, 3, 1), torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match="no linear layer"):
        head_name(nn.Conv2d(3, 3, 1))
    with (
        pytest.raises(ValueError, match=r"SlimResNet has no part 'middle'\. Its parts: stem"),
        listening(SlimResNet(), ["middle"]),
    ):
        pass


def test_a_listener_leaves_nothing_behind():
    model = SlimResNet((4, 8))
    with listening(model, ["stem"]):
        pass
    assert not model.stem._forward_hooks


def test_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="depth=21 is not 6 n"):
        CifarResNet(21)
    with pytest.raises(ValueError, match="size=30 is no multiple of 4: pad the images to 32"):
        ImageGenerator(30)


def test_generated_images_are_normalised_as_a_batch():
    torch.manual_seed(0)
    images = ImageGenerator(8, channels=1, width=8, latent=5)(torch.randn(64, 5))
    assert images.shape == (64, 1, 8, 8)
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("model", [SlimResNet((4, 8), norm="group"), CifarResNet(8, width=4), RonaNet(((4,), (4, 4)))])
def test_models_are_saved_as_safetensors_and_read_again(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    again = type(model).from_pretrained(tmp_path)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(again.eval()(images), model.eval()(images))
