"""Data-free distillation: rounds, labels that are released once, generators that read no teacher, and crashes."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

from swingkd.privacy import SYNTHETIC_LABELS, TEACHER_DATA, LedgerEntry, PrivacyLedger, ShardAnswers, best_candidates
from swingkd.vision import (
    DataFreeArguments,
    DataFreeDistillation,
    ExactTeacher,
    GeneratorLoss,
    ImageGenerator,
    NoisyDifferences,
    RandomizedTeacher,
    ShardLabels,
    SlimResNet,
)
from tests.harness import CrashError, crash_after, flat, small


def generator(seed=5) -> ImageGenerator:
    torch.manual_seed(seed)
    return ImageGenerator(8, channels=3, width=4, latent=6)


def make(
    folder, labeller, critic=None, student=None, ledger=None, maker=None, processor=None, **fields
) -> DataFreeDistillation:
    defaults = {
        "rounds": 2,
        "images_per_round": 40,
        "epochs_per_round": 2,
        "generator_epochs": 2,
        "generator_updates": 3,
        "generator_batch_size": 16,
        "batch_size": 20,
        "crop": 1,
        "flip": True,
        "progress": False,
        "checkpoint_every": 0,
        "mixed_precision": "no",
        "channels_last": False,
    }
    args = DataFreeArguments(output_dir=str(folder), **(defaults | fields))
    return DataFreeDistillation(
        student or small(), maker or generator(), labeller, critic=critic, critic_ledger=ledger, classes=3, args=args,
        processor=processor,
    )  # fmt: skip


def test_the_stages_come_in_order(tmp_path):
    teacher = small(1)
    names = [unit.stage for unit in make(tmp_path, RandomizedTeacher(teacher, 2.0), critic=teacher).units()]
    assert names == [
        "generator",
        "generator",
        "images 1",
        "student 1",
        "student 1",
        "images 2",
        "student 2",
        "student 2",
    ]
    # A generator that the student judges is trained in every round.
    names = [unit.stage for unit in make(tmp_path, RandomizedTeacher(teacher, 2.0)).units()]
    assert names == [
        "generator",
        "generator",
        "images 1",
        "student 1",
        "student 1",
        "generator",
        "generator",
        "images 2",
        "student 2",
        "student 2",
    ]


def test_the_prior_is_the_students_and_flat_at_first(tmp_path):
    teacher = small(1)
    run = make(tmp_path, RandomizedTeacher(teacher, 1.0), critic=teacher)
    priors = []
    real = run.prior

    def prior(images, number):
        priors.append(real(images, number))
        return priors[-1]

    run.prior = prior
    run.train()
    assert torch.equal(priors[0], torch.full((40, 3), 1 / 3))
    assert not torch.equal(priors[1], priors[0])
    for answers, known in zip(run.answers, priors, strict=True):
        assert torch.equal(answers.candidates, best_candidates(known, 1.0))


def test_rounds_are_of_different_images_and_all_are_learnt(tmp_path):
    run = make(tmp_path, ExactTeacher(small(1), "private"), critic=small(1))
    run.train()
    assert run.images.shape == (80, 3, 8, 8)
    assert len(torch.unique(run.images.flatten(1), dim=0)) == 80
    assert [unit.steps for unit in run.units() if unit.stage.startswith("student")] == [2, 2, 4, 4]
    assert {path.name for path in run.folder.iterdir()} == {
        f"round-{number}.{kind}" for number in (1, 2) for kind in ("png", "safetensors")
    }


def test_the_teacher_is_left_as_it_was(tmp_path):
    teacher = small(1).eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    make(tmp_path, RandomizedTeacher(teacher, 2.0), critic=teacher).train()
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_generator_that_the_student_judges_never_reads_the_teacher(tmp_path):
    images = []
    for seed in (1, 2):
        run = make(tmp_path / str(seed), RandomizedTeacher(small(seed), 1.0), rounds=1)
        run.train()
        assert not run.seen
        images.append(run.images)
    assert torch.equal(*images)
    assert run.ledger.epsilon(TEACHER_DATA) == 40.0
    assert run.ledger.epsilon(SYNTHETIC_LABELS) == 1.0
    # The student's weights can be trained again afterwards.
    assert all(p.requires_grad for p in run.model.parameters())


def test_a_generator_that_a_private_teacher_judges_undoes_the_records_guarantee(tmp_path):
    teacher = small(1)
    run = make(tmp_path, ShardLabels([teacher], ShardAnswers(2.0)), critic=teacher)
    run.train()
    assert run.ledger.epsilon(TEACHER_DATA) is None
    assert "trained by the teacher itself" in str(run.ledger)


def test_a_generator_that_a_dp_teacher_judges_keeps_the_guarantee(tmp_path):
    entry = LedgerEntry("DP-SGD", releases=7, noise_multiplier=2.0, delta=1e-5)
    known = PrivacyLedger([entry], unknown={TEACHER_DATA: "there was no teacher"})
    run = make(tmp_path, ExactTeacher(small(1), known), critic=small(1), ledger=known)
    run.train()
    assert run.ledger.epsilon(TEACHER_DATA) == pytest.approx(entry.epsilon)


def test_labellers_can_change_from_round_to_round(tmp_path):
    teacher = small(1)
    both = [RandomizedTeacher(teacher, 1.0), NoisyDifferences(teacher, 2.0)]
    run = make(tmp_path, both)
    run.train()
    assert [answers.epsilon for answers in run.answers] == [1.0, float("inf")]
    mechanisms = {entry.mechanism for entry in run.ledger.entries}
    assert mechanisms == {"selective randomized response", "noisy differences"}
    with pytest.raises(ValueError, match="2 labellers for 3 rounds"):
        make(tmp_path, both, rounds=3)


def test_a_round_with_a_guarantee_does_not_hide_one_without(tmp_path):
    both = [ExactTeacher(small(1), "private"), ShardLabels([small(2)], ShardAnswers(2.0))]
    run = make(tmp_path, both)
    run.train()
    assert run.ledger.epsilon(TEACHER_DATA) is None
    assert "exact labels: private" in str(run.ledger)


def dp_ledger(**others) -> PrivacyLedger:
    entry = LedgerEntry("DP-SGD", releases=7, delta=1e-5, **({"noise_multiplier": 2.0} | others))
    return PrivacyLedger([entry], unknown={TEACHER_DATA: "there was no teacher"})


def test_what_the_critic_cost_is_added(tmp_path):
    labeller = ShardLabels([small(2)], ShardAnswers(2.0))
    known = dp_ledger(neighbours="replace one")
    run = make(tmp_path, labeller, critic=small(1), ledger=known)
    run.train()
    own = labeller.ledger(80, seen=False).epsilon(TEACHER_DATA)
    assert run.ledger.epsilon(TEACHER_DATA) > max(own, known.epsilon())


def test_a_critic_with_a_weaker_guarantee_undoes_a_records(tmp_path):
    known = dp_ledger(unit="label", noise_multiplier=None, pure_epsilon=1.0)
    run = make(tmp_path, ShardLabels([small(2)], ShardAnswers(2.0)), critic=small(1), ledger=known)
    run.train()
    assert run.ledger.epsilon(TEACHER_DATA) is None
    assert "guarantees of each label and each record do not add up" in str(run.ledger)


def test_models_that_do_not_fit_are_refused_before_anything_is_trained(tmp_path):
    teacher = small(1)
    with pytest.raises(ValueError, match="Student and teacher share weights"):
        make(tmp_path, RandomizedTeacher(teacher, 1.0), student=teacher)
    with pytest.raises(ValueError, match="SlimResNet has 5 classes; classes=3"):
        make(tmp_path, RandomizedTeacher(SlimResNet((4, 8), classes=5), 1.0))
    with pytest.raises(ValueError, match=r"SlimResNet cannot see images of 3 channels and 8x8 pixels"):
        make(tmp_path, RandomizedTeacher(SlimResNet((4, 8), classes=3, channels=1), 1.0))


def test_a_checkpoint_of_other_noise_is_refused(tmp_path):
    make(tmp_path, RandomizedTeacher(small(1), 10.0), checkpoint_every=1).train()
    with pytest.raises(ValueError, match="written with labellers="):
        make(tmp_path, RandomizedTeacher(small(1), 0.5), checkpoint_every=1).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("units", [1, 3, 4, 6, 7])
def test_a_run_that_was_killed_goes_on_and_labels_nothing_twice(units, tmp_path):
    teacher = small(1)

    def build(folder, student=None):
        return make(
            folder,
            ExactTeacher(teacher, "private"),
            critic=teacher,
            student=student,
            checkpoint_every=1,
            lr_scheduler="cosine",
        )

    whole, broken = build(tmp_path / "whole"), build(tmp_path / "broken")
    whole.train()
    crash_after(broken, units)
    again = build(tmp_path / "broken", student=small(9))
    again.train(resume_from_checkpoint=True)
    assert torch.equal(flat(again.model), flat(whole.model))
    assert again.ledger.to_dict() == whole.ledger.to_dict()


def test_random_answers_are_kept_through_a_crash_between_label_and_checkpoint(tmp_path):
    teacher = small(1)

    def build():
        return make(tmp_path, RandomizedTeacher(teacher, 0.5), critic=teacher, checkpoint_every=1)

    broken = build()
    real = broken._read

    def read(number):
        raise CrashError

    broken._read = read
    with pytest.raises(CrashError):
        broken.train()
    with safe_open(broken._path(0), "pt") as file:
        answered = file.get_tensor("targets")
    again = build()
    again.train(resume_from_checkpoint=True)
    assert torch.equal(again.answers[0].targets, answered)
    broken._read = real


def test_a_run_that_begins_afresh_makes_new_images(tmp_path):
    teacher = small(1)
    first = make(tmp_path, RandomizedTeacher(teacher, 0.5), critic=teacher)
    first.train()
    second = make(tmp_path, RandomizedTeacher(teacher, 0.5), critic=teacher)
    second.train()
    assert not torch.equal(first.answers[0].targets, second.answers[0].targets)


def test_normalised_and_noised_gradients_protect_each_label(tmp_path):
    run = make(
        tmp_path,
        ExactTeacher(small(1), "private"),
        student=small(norm="group"),
        rounds=1,
        gradient_epsilon=6.0,
        gradient_batch_size=40,
    )
    run.train()
    assert 5.5 < run.ledger.epsilon(SYNTHETIC_LABELS) <= 6.0
    assert "not covered; exact labels: private" in str(run.ledger)
    with pytest.raises(ValueError, match="rounds=1, not 2"):
        make(tmp_path, ExactTeacher(small(1), "private"), gradient_epsilon=6.0)


def test_a_gradient_is_normalised(tmp_path):
    """Clipping to less than any gradient leaves the direction alone."""
    run = make(
        tmp_path,
        ExactTeacher(small(1), "private"),
        student=small(norm="group"),
        rounds=1,
        gradient_epsilon=6.0,
        gradient_batch_size=40,
    )
    run.prepare(1)
    run._make(0, torch.Generator().manual_seed(0))
    rows = torch.arange(2)
    for row in rows:
        run.dp.zero_grad()
        run.model.train()
        logits = run.model(run.images[row][None].float())
        run.dp.accumulate(run._losses(logits, row[None]))
        total = torch.cat([p.summed_grad.flatten() for p in run.model.parameters()])
        assert total.norm().item() == pytest.approx(1e-3, rel=0.05)
    run.dp.detach()


def test_it_distils(public, unseen, tmp_path):
    from tests.vision.test_classifier_training import make as train_classifier

    taught = train_classifier(tmp_path / "teacher", public, epochs=12, learning_rate=1e-2)
    taught.train()
    teacher = taught.model
    run = make(
        tmp_path,
        ExactTeacher(teacher, "private", soft=True),
        critic=teacher,
        images_per_round=300,
        generator_updates=60,
        batch_size=30,
        epochs_per_round=10,
        learning_rate=1e-2,
        loss=GeneratorLoss(statistics=1.0),
    )
    run.train()
    # Chance is a third.
    assert run.evaluate(unseen) > 0.6


def test_shard_answers_must_survive_a_crash(tmp_path):
    with pytest.raises(ValueError, match="must keep what was released"):
        make(tmp_path, ShardLabels([small(1)], ShardAnswers(2.0)), checkpoint_every=1)


@pytest.mark.parametrize("field", ["rounds", "images_per_round", "epochs_per_round", "generator_batch_size"])
def test_settings_out_of_range(field):
    with pytest.raises(ValueError, match=f"{field}=0 must be positive"):
        DataFreeArguments(output_dir="unused", **{field: 0})


def test_images_cannot_be_moved_by_less_than_nothing():
    with pytest.raises(ValueError, match="crop=-1 must not be negative"):
        DataFreeArguments(output_dir="unused", crop=-1)


def test_the_student_learns_moved_images_and_the_kept_ones_stay(tmp_path):
    student, learnt = small(), []
    student.register_forward_pre_hook(lambda module, given: learnt.append(given[0]) if module.training else None)
    trained = make(tmp_path, ExactTeacher(small(1), "private"), student=student, rounds=1, epochs_per_round=1)
    trained.train()
    kept = torch.nn.functional.pad(trained.images.float(), (1, 1, 1, 1), mode="replicate")
    crops = torch.stack([kept[:, :, y : y + 8, x : x + 8] for y in range(3) for x in range(3)])
    known = {image.numpy().tobytes() for side in (crops, crops.flip(4)) for image in side.flatten(0, 1)}
    assert all(image.contiguous().numpy().tobytes() in known for image in torch.cat(learnt))
    assert not torch.equal(torch.cat(learnt).sort(0).values, trained.images.float().sort(0).values)


@pytest.mark.reported
def test_images_that_were_changed_are_not_learnt_on(tmp_path):
    made = make(tmp_path, RandomizedTeacher(small(1), 10.0), checkpoint_every=1)
    made.train()
    path = made._path(0)
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"round-1.safetensors is gone, or was changed"):
        make(tmp_path, RandomizedTeacher(small(1), 10.0), checkpoint_every=1).train(resume_from_checkpoint=True)


# -- what makes a round's images new ------------------------------------------------------------------------------


def told(seed=5) -> ImageGenerator:
    torch.manual_seed(seed)
    return ImageGenerator(8, channels=3, width=4, latent=6, classes=3)


def test_a_student_that_has_a_say_has_it_in_every_round(tmp_path):
    teacher, loss = small(1), GeneratorLoss(disagreement=1.0)
    run = make(
        tmp_path, ExactTeacher(teacher, ""), critic=teacher, loss=loss, renew_generator=True, generator_epochs=1
    )
    assert [unit.stage for unit in run.units()] == [
        "generator", "images 1", "student 1", "student 1",
        "new layer", "generator", "images 2", "student 2", "student 2",
    ]  # fmt: skip


def learning(folder, seed=0, maker=None, **fields) -> DataFreeDistillation:
    """A run whose rounds' noise learns."""
    defaults = {
        "loss": GeneratorLoss(disagreement=0.5, statistics=1.0, statistics_momentum=0.9),
        "images_per_round": 18,
        "generator_batch_size": 18,
        "generator_epochs": 1,
        "renew_generator": True,
        "noise_learning_rate": 0.05,
    }
    teacher = small(1)
    labeller = ExactTeacher(teacher, "", soft=True, temperature=4.0)
    return make(
        folder,
        labeller,
        critic=teacher,
        student=small(seed),
        maker=maker or generator(5 + seed),
        **(defaults | fields),
    )


def test_noise_learns_where_a_rounds_images_are_made(tmp_path):
    run = learning(tmp_path)
    assert [unit.stage for unit in run.units()] == [
        "new layer", "generator",
        "new layer", "images 1", "student 1", "student 1",
        "new layer", "images 2", "student 2", "student 2",
    ]  # fmt: skip
    given = []
    run.generator.register_forward_pre_hook(lambda module, noise: given.append(noise[0].detach().clone()))
    run.train()
    # In each of three rounds three updates of one batch of noise, which moves; the next round has another.
    assert len(given) == 9
    steps = [(a - b).abs().mean().item() for a, b in zip(given[1:], given[:-1], strict=True)]
    assert max(steps[i] for i in (0, 1, 3, 4, 6, 7)) < 0.1 < 0.5 < min(steps[2], steps[5])
    assert min(steps) > 0
    # It is no part of what is kept.
    assert len(run.generator_optimizer.param_groups) == 1
    assert len(run.generator_optimizer.state) == len(list(run.generator.parameters()))


def test_a_rounds_images_are_those_that_the_critic_was_shown_last(tmp_path, monkeypatch):
    run, shown = learning(tmp_path, rounds=1), []
    real = GeneratorLoss.__call__

    def judged(self, critic, images, **others):
        shown.append((images.detach(), others["labels"]))
        return real(self, critic, images, **others)

    monkeypatch.setattr(GeneratorLoss, "__call__", judged)
    run.train()
    assert torch.equal(run.images, shown[-1][0].half())
    for _, labels in shown:
        assert labels.bincount(minlength=3).tolist() == [6, 6, 6]


@pytest.mark.parametrize("make_generator", [generator, told])
def test_learnt_noise_is_of_the_class_that_it_is_to_show(make_generator, tmp_path):
    """A generator that is told nothing of classes cannot know them; its noise can."""
    loss = GeneratorLoss(one_hot=1.0, batch_entropy=0.0, activation=0.0)
    fields = {"generator_updates": 60, "images_per_round": 30, "generator_batch_size": 30, "rounds": 1}
    run = learning(
        tmp_path, maker=make_generator(), loss=loss, noise_learning_rate=0.1, generator_learning_rate=1e-2, **fields
    )
    labels = []
    real = run.noise
    run.noise = lambda *given: labels.append(real(*given)) or labels[-1]
    run.train()
    assert (run.answers[0].targets.argmax(1) == labels[-1][1]).float().mean() > 0.8


def test_a_rounds_images_and_its_updates_are_one_batch(tmp_path):
    with pytest.raises(ValueError, match=r"images_per_round=40 and generator_batch_size=18 have to be alike"):
        learning(tmp_path, images_per_round=40)


@pytest.mark.parametrize("units", [2, 4, 5, 8])
def test_a_killed_run_whose_noise_learns_goes_on_to_the_same_weights(units, tmp_path):
    whole = learning(tmp_path / "whole", checkpoint_every=1)
    whole.train()
    assert whole.moments
    crash_after(learning(tmp_path / "broken", checkpoint_every=1), units)
    again = learning(tmp_path / "broken", seed=3, checkpoint_every=1)
    again.train(resume_from_checkpoint=True)
    torch.testing.assert_close(flat(again.model), flat(whole.model), rtol=0, atol=0)
    torch.testing.assert_close(again.moments, whole.moments, rtol=0, atol=0)
    assert torch.equal(again.images, whole.images)


def test_labels_of_a_crash_are_kept_and_the_generator_learns_all_the_same(tmp_path):
    whole = learning(tmp_path / "whole", checkpoint_every=1)
    whole.train()
    broken = learning(tmp_path / "broken", checkpoint_every=1)

    def read(number):
        raise CrashError

    broken._read = read
    with pytest.raises(CrashError):
        broken.train()
    again = learning(tmp_path / "broken", seed=3, checkpoint_every=1)
    again.train(resume_from_checkpoint=True)
    torch.testing.assert_close(flat(again.generator), flat(whole.generator), rtol=0, atol=0)
    torch.testing.assert_close(flat(again.model), flat(whole.model), rtol=0, atol=0)


def test_each_class_is_asked_for_as_often(tmp_path):
    asked, teacher = [], small(1)
    run = make(tmp_path, ExactTeacher(teacher, ""), critic=teacher, maker=told(), images_per_round=48)
    real = run.generator.forward

    def forward(noise, labels):
        asked.append(labels)
        return real(noise, labels)

    run.generator.forward = forward
    run.train()
    # 2 epochs of 3 updates, then 3 batches of images in each of two rounds.
    assert len(asked) == 6 + 6
    for labels in asked:
        counts = labels.bincount(minlength=3)
        assert counts.sum() == 16
        assert counts.max() - counts.min() <= 1
    assert not torch.equal(asked[0], asked[1])


def test_a_generator_learns_what_it_is_told_to_show(tmp_path):
    teacher, maker = small(1), told()
    loss = GeneratorLoss(one_hot=1.0, batch_entropy=0.0, activation=0.0)
    fields = {"generator_updates": 150, "generator_epochs": 1, "rounds": 1, "generator_learning_rate": 1e-2}
    run = make(tmp_path, ExactTeacher(teacher, ""), critic=teacher, maker=maker, loss=loss, **fields)
    run.train()
    labels = torch.arange(60) % 3
    with torch.no_grad():
        images = maker(torch.randn(60, 6), labels)
    assert (teacher(images).argmax(1) == labels).float().mean() > 0.8


def test_a_renewed_generator_makes_other_images_of_the_same_noise(tmp_path):
    teacher, maker = small(1), generator()
    run = make(tmp_path, ExactTeacher(teacher, ""), critic=teacher, maker=maker, renew_generator=True)
    firsts = []
    real = maker.renew

    def renew():
        firsts.append(maker.first.weight.detach().clone())
        layers = flat(maker.layers)
        real()
        assert torch.equal(flat(maker.layers), layers)
        firsts.append(maker.first.weight.detach().clone())

    maker.renew = renew
    run.train()
    assert len(firsts) == 2
    assert not torch.equal(*firsts)


def test_an_epoch_may_draw_some_of_the_images(tmp_path):
    teacher = small(1)
    run, seen = make(tmp_path, ExactTeacher(teacher, ""), critic=teacher, images_per_epoch=50), []
    real = run._losses

    def losses(logits, rows):
        seen.append(rows)
        return real(logits, rows)

    run._losses = losses
    run.train()
    # 40 images in the first round, 50 of 80 in the second; 2 epochs each, 20 a batch.
    assert [len(rows) for rows in seen] == [20] * 4 + [17, 17, 16] * 2
    drawn = [set(torch.cat(seen[4:7]).tolist()), set(torch.cat(seen[7:]).tolist())]
    assert [len(rows) for rows in drawn] == [50, 50]
    assert drawn[0] != drawn[1]
    assert [unit.steps for unit in run.units() if unit.stage.startswith("student")] == [2, 2, 3, 3]


@pytest.mark.parametrize("units", [3, 5, 8])
def test_a_killed_run_with_all_of_it_goes_on_to_the_same_weights(units, tmp_path):
    teacher = small(1)

    def new(folder, seed=0):
        return make(
            folder, ExactTeacher(teacher, "", soft=True, temperature=4.0), critic=teacher, student=small(seed),
            maker=told(5 + seed), loss=GeneratorLoss(disagreement=0.5, statistics=1.0), renew_generator=True,
            generator_epochs=1, images_per_epoch=30, checkpoint_every=1, ema_decay=0.9, optimizer="SGD",
            optimizer_args={"momentum": 0.9},
        )  # fmt: skip

    whole = new(tmp_path / "whole")
    whole.train()
    broken = new(tmp_path / "broken")
    crash_after(broken, units)
    again = new(tmp_path / "broken", seed=3)
    again.train(resume_from_checkpoint=True)
    torch.testing.assert_close(flat(again.model), flat(whole.model), rtol=0, atol=0)
    assert again.answers[0].temperature == 4.0


class OwnGenerator(torch.nn.Module):
    latent = 4

    def __init__(self):
        super().__init__()
        self.make = torch.nn.Linear(4, 3 * 8 * 8)

    def forward(self, noise):
        return self.make(noise).view(-1, 3, 8, 8)


def test_a_generator_of_ones_own(tmp_path):
    teacher = small(1)
    run = make(tmp_path, ExactTeacher(teacher, ""), critic=teacher, maker=OwnGenerator(), generator_updates=2)
    run.train()
    assert run.images.shape == (80, 3, 8, 8)
    with pytest.raises(ValueError, match=r"renew_generator is set, and OwnGenerator has no renew\(\)"):
        make(tmp_path, ExactTeacher(teacher, ""), critic=teacher, maker=OwnGenerator(), renew_generator=True)
    with pytest.raises(ValueError, match="Linear does not say how long its noise is"):
        make(tmp_path, ExactTeacher(teacher, ""), critic=teacher, maker=torch.nn.Linear(4, 3))


# -- a student of Hugging Face's ----------------------------------------------------------------------------------


def vit(seed: int, names: tuple[str, ...] | None = None) -> ViTForImageClassification:
    known = {"num_labels": 3} if names is None else {"id2label": dict(enumerate(names))}
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        **known,
    )  # fmt: skip
    torch.manual_seed(seed)
    return ViTForImageClassification(config)


def test_a_student_that_saw_no_image_answers_in_a_pipeline_all_the_same(tmp_path):
    """As its teacher does: the same picture is shown alike, the same classes have the same names."""
    teacher = vit(1, ("cat", "dog", "owl")).eval()
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.2, 0.3, 0.4], image_std=[0.5] * 3)
    run = make(tmp_path, ExactTeacher(teacher, ""), critic=teacher, student=vit(2), processor=processor, rounds=1)
    run.train()
    run.save_model(tmp_path / "model")
    answer = pipeline("image-classification", model=str(tmp_path / "model"))
    picture = Image.fromarray(torch.randint(256, (8, 8, 3), dtype=torch.uint8).numpy())
    shown = processor(picture, return_tensors="pt")["pixel_values"]
    expected = run.model(shown).logits.softmax(-1)[0]
    found = {each["label"]: each["score"] for each in answer(picture)}
    assert found == pytest.approx(dict(zip(("cat", "dog", "owl"), expected.tolist(), strict=True)), abs=1e-5)


def test_a_processor_of_other_images_is_refused(tmp_path):
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    with pytest.raises(ValueError, match=r"makes images of \(3, 8, 8\), the processor of \(3, 16, 16\)"):
        make(tmp_path, ExactTeacher(small(1), ""), critic=small(1), processor=processor)


def test_a_processor_that_does_not_normalise_names_no_means(tmp_path):
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, do_normalize=False)
    processor.image_mean = None
    shown = make(tmp_path, ExactTeacher(small(1), ""), critic=small(1), processor=processor).shown
    assert (shown.pixels.shape[1:], shown.mean, shown.std) == ((3, 8, 8), (0.0,), (1.0,))
