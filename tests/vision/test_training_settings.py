"""Settings that every training on images has: optimizers, running means, mixes, transforms, trackers, and files."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from PIL import Image as Picture
from torch import nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification, pipeline

from swingkd.vision import (
    ClassifierArguments,
    ClassifierTraining,
    DataFreeArguments,
    DataFreeDistillation,
    DynamicSampleSelection,
    ExactTeacher,
    ImageGenerator,
    Labels,
    SampleSelectionArguments,
    Teacher,
)
from swingkd.vision.staged_training import running_mean
from tests.harness import crash_after, flat, small


def make(folder, images, student=None, mix=None, **fields) -> ClassifierTraining:
    defaults = {"epochs": 2, "batch_size": 32, "progress": False, "mixed_precision": "no", "channels_last": False}
    args = ClassifierArguments(output_dir=str(folder), **(defaults | fields))
    return ClassifierTraining(
        student or small(norm="group" if args.target_epsilon else "batch"), images, args=args, mix=mix
    )


def test_any_optimizer_of_torch_steps_as_it_does_alone(public, tmp_path):
    images, more = replace(public, crop=0, flip=False), {"momentum": 0.9, "nesterov": True}
    trained = make(
        tmp_path,
        images,
        epochs=3,
        batch_size=96,
        optimizer="SGD",
        optimizer_args=more,
        learning_rate=0.1,
        weight_decay=0.01,
    )
    trained.train()
    model = small()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=0.01, **more)
    for _ in range(3):
        F.cross_entropy(model(images.inputs(torch.arange(96))), images.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(flat(trained.model), flat(model), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "Sgd"}, "optimizer='Sgd' is none of torch.optim: 'AdamW' and 'SGD' are two"),
        ({"optimizer": "lr_scheduler"}, "optimizer='lr_scheduler' is none"),
        ({"optimizer": "Optimizer"}, "optimizer='Optimizer' is none"),
        ({"optimizer": "LBFGS"}, "optimizer='LBFGS' and .* make no step together: .*closure"),
        ({"optimizer": "SparseAdam"}, "make no step together: SparseAdam does not support dense"),
        ({"optimizer": "Muon"}, "Muon does not take these settings: Muon only supports 2D"),
        ({"lr_scheduler": "reduce_lr_on_plateau"}, "make no step together: .*metrics"),
        ({"optimizer": "Rprop", "weight_decay": 0.1}, "Rprop does not take these settings: .*weight_decay"),
        ({"lr_scheduler": "zigzag"}, "lr_scheduler='zigzag' make no step"),
        ({"lr_scheduler": "cosine_with_min_lr"}, "lr_scheduler='cosine_with_min_lr' make no step"),
        ({"log_with": "paper"}, "log_with='paper' is no tracker. There are aim, "),
        ({"log_with": ["dvclive"]}, "log_with='dvclive': it is not installed"),
        ({"log_with": LoggerType.WANDB}, "log_with='wandb': it is not installed"),
        ({"optimizer_args": {"momentum": 0.9}}, "AdamW does not take these settings: .*momentum"),
        ({"optimizer": "SGD", "optimizer_args": {"nesterov": True}}, "SGD does not take these settings: Nesterov"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 must lie below 1"),
        ({"label_smoothing": 1.5}, "label_smoothing=1.5 must lie below 1"),
        ({"ema_decay": -0.1}, "ema_decay"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_trained(fields, message, tmp_path, monkeypatch):
    monkeypatch.setattr("swingkd.vision.arguments.get_available_trackers", list)
    with pytest.raises(ValueError, match=message):
        ClassifierArguments(output_dir=str(tmp_path), **fields)


@pytest.mark.parametrize("epsilon", [None, 50.0])
def test_the_model_is_the_running_mean_of_its_weights(public, tmp_path, epsilon):
    """Against each step's weights in float64."""
    trained, steps = make(tmp_path, public, ema_decay=0.8, learning_rate=0.02, target_epsilon=epsilon), []
    real = trained.update

    def update():
        real()
        steps.append({name: value.detach().clone() for name, value in trained.model.state_dict().items()})

    trained.update = update
    trained.train()
    assert len(steps) == 6
    for name, found in trained.model.state_dict().items():
        mean = steps[0][name].double()
        for number, step in enumerate(steps[1:], 1):
            decay = min(0.8, (1 + number) / (10 + number)) if step[name].is_floating_point() else 0.0
            mean = decay * mean + (1 - decay) * step[name].double()
        torch.testing.assert_close(found.double(), mean, atol=1e-6, rtol=1e-5)
        if found.is_floating_point():
            assert not torch.equal(found, steps[-1][name])


def test_numbers_that_are_counted_are_no_mean():
    means, new = [torch.tensor(5)], [torch.tensor(9)]
    running_mean(0.5, means, new, 3)
    assert means[0] == 9


def test_a_killed_run_goes_on_to_the_same_mean(public, tmp_path):
    fields = {"ema_decay": 0.9, "epochs": 3, "optimizer": "SGD", "optimizer_args": {"momentum": 0.9}}
    whole = make(tmp_path / "whole", public, **fields)
    whole.train()
    broken = make(tmp_path / "broken", public, **fields)
    crash_after(broken, 2)
    again = make(tmp_path / "broken", public, student=small(7), **fields)
    again.train(resume_from_checkpoint=True)
    torch.testing.assert_close(flat(again.model), flat(whole.model), atol=0, rtol=0)


@pytest.mark.parametrize("epsilon", [None, 8.0])
def test_smoothed_labels(public, tmp_path, epsilon):
    trained = make(tmp_path, public, label_smoothing=0.3, target_epsilon=epsilon)
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 1, 0])
    expected = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = math.log(sum(math.exp(x) for x in row))
        shares = [0.1 + 0.7 * (k == label) for k in range(3)]
        expected.append(-sum(share * (x - total) for share, x in zip(shares, row, strict=True)))
    torch.testing.assert_close(trained.label_losses(logits, labels), torch.tensor(expected, dtype=torch.float64))


def mixed(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each image with its neighbour, as torchvision's MixUp does."""
    labels = F.one_hot(labels, 3).float()
    return 0.7 * images + 0.3 * images.roll(1, 0), 0.7 * labels + 0.3 * labels.roll(1, 0)


def test_images_and_labels_are_mixed(public, tmp_path):
    images = replace(public, crop=0, flip=False)
    trained = make(tmp_path, images, epochs=1, batch_size=96, mix=mixed)
    trained.train()
    order = torch.randperm(96, generator=torch.Generator().manual_seed(trained.unit_seed(0)))
    model = small()
    inputs, labels = mixed(images.inputs(order), images.labels[order])
    loss = -(labels * model(inputs).log_softmax(-1)).sum(-1).mean()
    assert trained.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    with pytest.raises(ValueError, match="mix shows the model several images in one"):
        make(tmp_path, public, mix=mixed, target_epsilon=8.0)
    args = SampleSelectionArguments(output_dir=str(tmp_path), shares=[0.5], progress=False, mixed_precision="no")
    selection = DynamicSampleSelection(small(), Labels(), public, args=args, mix=mixed)
    selection.train()
    assert "mixed" in selection.settings()["mix"]


def test_a_transform_changes_what_is_learnt_and_nothing_else(public, tmp_path):
    seen = []

    def darker(image):
        assert image.shape == (3, 8, 8)
        seen.append(torch.rand(()).item())
        return image // 2

    images = replace(public, crop=0, flip=False, transform=darker)
    trained = make(tmp_path, images, epochs=1)
    seen.clear()  # it was tried
    trained.train()
    assert len(seen) == 96
    first, again = list(seen), make(tmp_path, images, epochs=1)
    seen.clear()
    again.train()
    assert seen == first  # drawn from the seed of the unit
    trained.evaluate(images)
    assert len(seen) == 96
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(
        images.inputs(torch.arange(4), generator), images.normalise(images.pixels[:4] // 2), rtol=0, atol=0
    )
    assert "darker" in json.dumps(trained.settings())
    with pytest.raises(ValueError, match=r"made torch.float32 of shape \(3, 8, 8\).*Leave out what turns bytes"):
        replace(images, transform=lambda image: image / 255).inputs(torch.arange(2), generator)


def test_transforms_and_mixes_are_tried_before_anything_is_trained(public, tmp_path):
    with pytest.raises(ValueError, match="transform made"):
        make(tmp_path, replace(public, transform=lambda image: image / 255))
    with pytest.raises(ValueError, match=rf"labels \(32, 7\) .*num_classes={public.classes}"):
        make(tmp_path, public, mix=lambda images, labels: (images, F.one_hot(labels, 7).float()))
    with pytest.raises(ValueError, match="mix cannot mix 32 images: division by zero"):
        make(tmp_path, public, mix=lambda images, labels: 1 / 0)
    with pytest.raises(ValueError, match="mix made images"):
        make(tmp_path, public, mix=lambda images, labels: (images[:1], labels))
    # What they draw then is none of the run's numbers.
    student, rolled = small(), replace(public, transform=lambda image: image.roll(int(torch.randint(4, ())), 1))
    before = torch.random.get_rng_state()
    make(tmp_path, rolled, student, mix=lambda images, labels: (images[torch.randperm(len(images))], labels))
    assert torch.equal(torch.random.get_rng_state(), before)


class Halving(torch.optim.SGD):
    """An optimizer of one's own."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.mul_(0.5)


def test_an_optimizer_may_be_a_class_or_a_function(public, tmp_path):
    start = small()
    expected = {name: value / 2 ** (2 * 3) for name, value in start.named_parameters()}
    own = make(tmp_path, public, copy.deepcopy(start), epochs=2, batch_size=32, optimizer=Halving, checkpoint_every=1)
    own.train()
    for name, value in own.model.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-9)
    # Gone on from with the same alone.
    again = make(
        tmp_path, public, copy.deepcopy(start), epochs=2, batch_size=32, optimizer=Halving, checkpoint_every=1
    )
    again.train(resume_from_checkpoint=True)
    assert torch.equal(flat(again.model), flat(own.model))
    with pytest.raises(ValueError, match="was written with optimizer='Halving', now it is 'SGD'"):
        make(tmp_path, public, epochs=2, optimizer="SGD", checkpoint_every=1).train(resume_from_checkpoint=True)
    drawn = lambda parameters, lr: torch.optim.Adam(parameters, lr=2 * lr)  # noqa: E731
    trained = make(tmp_path / "function", public, epochs=1, optimizer=drawn, learning_rate=0.01)
    trained.train()
    with pytest.raises(ValueError, match="made no optimizer of torch, but int"):
        make(tmp_path, public, optimizer=lambda parameters, lr: 3)
    with pytest.raises(ValueError, match="Halving does not take these settings"):
        make(tmp_path, public, optimizer=Halving, optimizer_args={"beta": 1})


def test_optimizers_without_weight_decay_are_optimizers(public, tmp_path):
    make(tmp_path, public, epochs=1, optimizer="Rprop").train()


class Asserting(nn.Module):
    """Asserts the size of what it sees, as patch embeddings do."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, images):
        assert images.shape[-1] == 224, "Input image size does not match"
        return self.head(images.mean((2, 3)))


def test_models_that_assert_the_size_say_what_to_do(public, tmp_path):
    with pytest.raises(ValueError, match=r"Asserting cannot see .*size does not match(.|\n)*size="):
        make(tmp_path, public, Asserting())


class Heard(GeneralTracker):
    name, requires_logging_directory = "heard", False

    def __init__(self):
        super().__init__()
        self.told, self.over = [], False

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        pass

    def log(self, values, step=None, **_):
        self.told.append((values, step))

    def finish(self):
        self.over = True


def test_trackers_are_told_the_losses(public, tmp_path):
    heard = Heard()
    trained = make(tmp_path, public, epochs=3, log_with=heard)
    trained.train()
    assert heard.told == [({"loss/training": entry["loss"]}, entry["unit"]) for entry in trained.history]
    assert len(heard.told) == 3
    assert heard.over
    assert "log_with" not in trained.settings()
    # Losses of private batches are told to nobody.
    silent = Heard()
    make(tmp_path, public, target_epsilon=8.0, log_with=silent).train()
    assert not silent.told


class Wordy(nn.Module):
    """Says more in training than in evaluation, as networks with auxiliary heads do."""

    def __init__(self):
        super().__init__()
        self.own, self.linear = small(), nn.Linear(192, 3)

    def forward(self, images):
        logits = self.own(images)
        return (logits, self.linear(images.flatten(1))) if self.training else logits


def test_logits_first_and_others_behind(public, unseen, tmp_path):
    trained = make(tmp_path, public, student=Wordy(), epochs=12, learning_rate=1e-2)
    trained.train()
    assert trained.evaluate(unseen) > 0.9


def test_several_layers_are_hinted_at(public, tmp_path):
    teacher = small(3)
    pairs = [("stem", "stem"), ("stages.0", "stages.0")]
    fields = {"shares": [], "hint_epochs": 30, "learning_rate": 1e-2, "progress": False, "mixed_precision": "no"}

    def distances(hint_layers):
        args = SampleSelectionArguments(output_dir=str(tmp_path), hint_layers=hint_layers, **fields)
        run = DynamicSampleSelection(small(), Teacher(teacher, "", live=True), public, args=args)
        run.train()
        batch = run.batch(public, torch.arange(48), None)
        run.model.eval()
        return [
            float(run.guidance.hint(run, batch, layer, run.guidance.hidden(run, layer, batch.inputs) * 0).mean())
            for layer, _ in pairs
        ], flat(run.model)

    _, both = distances(pairs)
    _, one = distances(pairs[0])
    assert not torch.equal(both, one)
    with pytest.raises(ValueError, match=r"of \('stem', 'stages.0'\).*Choose layers that give images of the same"):
        distances([pairs[0], ("stem", "stages.0")])


def test_a_saved_student_answers_in_a_pipeline(public, tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    images = replace(public, names=("red", "green", "blue"), mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
    trained = make(tmp_path / "out", images, student=ViTForImageClassification(config), epochs=6, learning_rate=1e-2)
    trained.train()
    trained.save_model(tmp_path / "model")
    answer = pipeline("image-classification", model=str(tmp_path / "model"))
    pictures = [Picture.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in images.pixels[:6]]
    logits = trained.logits(trained.model, images.select(torch.arange(6)))
    for picture, row in zip(pictures, logits, strict=True):
        best = answer(picture)[0]
        assert best["label"] == images.names[int(row.argmax())]
        assert best["score"] == pytest.approx(float(row.softmax(-1).max()), abs=1e-4)


# -- what is not finite -------------------------------------------------------------------------------------------


class Nothing(nn.Module):
    """Says no number, with weights that are fine."""

    def __init__(self):
        super().__init__()
        self.own = small(9)

    def forward(self, images):
        return self.own(images) / 0 - torch.inf


@pytest.mark.parametrize("live", [False, True])
def test_a_teacher_that_says_no_number_ends_the_run(public, tmp_path, live):
    args = SampleSelectionArguments(
        output_dir=str(tmp_path), shares=[0.5], self_learning_epochs=1, progress=False, mixed_precision="no"
    )
    run = DynamicSampleSelection(small(), Teacher(Nothing(), "", live=live), public, args=args)
    with pytest.raises(ValueError, match="The teacher, Nothing, gives no finite logits for a batch"):
        run.train()
    # The checkpoint of the unit before is still there, and so is a student that works.
    assert torch.isfinite(flat(run.model)).all()
    assert (tmp_path / "checkpoint" / "state.json").exists()


def data_free(folder, labeller, **fields) -> DataFreeDistillation:
    fields |= {"rounds": 1, "images_per_round": 16, "generator_batch_size": 8, "progress": False}
    args = DataFreeArguments(output_dir=str(folder), mixed_precision="no", **fields)
    generator = ImageGenerator(8, width=8, latent=4)
    return DataFreeDistillation(small(), generator, labeller, critic=small(4), args=args, classes=3)


def test_a_labeller_that_says_no_number_ends_the_run(tmp_path):
    args = DataFreeArguments(
        output_dir=str(tmp_path),
        rounds=1,
        images_per_round=16,
        generator_epochs=0,
        progress=False,
        mixed_precision="no",
    )
    run = DataFreeDistillation(
        small(),
        ImageGenerator(8, width=8, latent=4),
        ExactTeacher(Nothing(), ""),
        critic=small(4),
        args=args,
        classes=3,
    )
    with pytest.raises(ValueError, match="Nothing gives no finite logits for image 0, and for 16 of 16"):
        run.train()


def test_a_generator_that_diverges_ends_the_run(tmp_path):
    run = data_free(tmp_path, ExactTeacher(small(5), ""), generator_epochs=1, generator_learning_rate=1e30)
    with pytest.raises(ValueError, match="The loss of the generator is nan after 100 steps"):
        run.train()


def test_a_student_that_diverged_is_not_evaluated(public, tmp_path):
    run = make(tmp_path, public)
    with torch.no_grad():
        run.model.linear.weight.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"SlimResNet gives no finite logits for image 0.*look for a training run"):
        run.evaluate(public)


def test_images_that_a_model_cannot_see_are_refused(public, tmp_path):
    grey = replace(public, pixels=public.pixels[:, :1], mean=(0.5,), std=(0.5,))
    with pytest.raises(ValueError, match=r"SlimResNet cannot see images of 1 channels and 8x8 pixels"):
        make(tmp_path, grey)


class Diverging(nn.Module):
    """From its third call on it says what is no number."""

    def __init__(self, value):
        super().__init__()
        self.inner, self.value, self.calls = small(), value, 0

    def forward(self, images):
        self.calls += self.training
        return self.inner(images) * (self.value if self.calls > 2 else 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("stage", ["labels", "selection"])
def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_last_checkpoint(stage, value, public, tmp_path):
    if stage == "labels":
        run = make(tmp_path, public, Diverging(value), epochs=3, batch_size=32, checkpoint_every=1)
    else:
        args = SampleSelectionArguments(
            output_dir=str(tmp_path),
            shares=[1.0],
            batch_size=32,
            self_learning_epochs=0,
            distillation_batch_size=32,
            progress=False,
        )
        run = DynamicSampleSelection(Diverging(value), Teacher(small(), "nothing"), public, args=args)
    with pytest.raises(ValueError, match=r"lower the learning rate|no finite"):
        run.train()
