"""What a student sees of a private teacher: the published noise does nothing, the sound forms are what they claim."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from swingkd.privacy import (
    NO_TEACHER,
    PUBLIC_DATA,
    TEACHER_DATA,
    TRANSFER_SET,
    LedgerEntry,
    PrivacyLedger,
    ShardAnswers,
    gaussian,
)
from swingkd.vision import (
    BatchGradient,
    DynamicSampleSelection,
    Labels,
    PublishedNoise,
    SampleSelectionArguments,
    ShardTeachers,
    Teacher,
    ZerothOrder,
)
from swingkd.vision.guidance import hint_losses, nominal_epsilon, soft_cross_entropy
from tests.harness import coloured, flat, small


def arguments(folder, **fields) -> SampleSelectionArguments:
    defaults = {
        "warm_up_epochs": 1,
        "self_learning_epochs": 1,
        "distillation_epochs": 1,
        "shares": (0.5, 0.25),
        "batch_size": 32,
        "distillation_batch_size": 16,
        "progress": False,
        "checkpoint_every": 0,
        "mixed_precision": "no",
        "channels_last": False,
    }
    return SampleSelectionArguments(output_dir=str(folder), **(defaults | fields))


def run(guidance, folder, public, student=None, **fields) -> DynamicSampleSelection:
    return DynamicSampleSelection(student or small(), guidance, public, args=arguments(folder, **fields))


def published(noise_multiplier: float) -> PublishedNoise:
    return PublishedNoise(Teacher(small(1), "private"), Teacher(small(2), "public"), noise_multiplier=noise_multiplier)


def test_a_distillation_loss_is_the_cross_entropy_of_softened_outputs():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    found = soft_cross_entropy(student, (teacher / 3).softmax(1), 3.0)
    for row in range(5):
        z = [math.exp(float(value) / 3) for value in teacher[row]]
        s = [math.exp(float(value) / 3) for value in student[row]]
        expected = -sum(t / sum(z) * math.log(q / sum(s)) for t, q in zip(z, s, strict=True))
        assert float(found[row]) == pytest.approx(expected, abs=1e-12)


def test_a_hint_loss_is_half_the_mean_square():
    guess, hint = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    expected = [0.5 * ((g - h) ** 2).mean() for g, h in zip(guess, hint, strict=True)]
    torch.testing.assert_close(hint_losses(guess, hint), torch.stack(expected))


def test_published_noise_leaves_the_very_weights_of_no_noise(public, tmp_path):
    """The claim of the method does not hold: a number's noise has no gradient."""
    students = []
    for noise in (0.0, 10.0):
        trained = run(published(noise), tmp_path, public)
        trained.train()
        students.append(flat(trained.model))
    assert torch.equal(*students)
    # And the student did learn from the teacher: labels alone give another one.
    other = run(Labels(), tmp_path, public)
    other.train()
    assert not torch.equal(students[0], flat(other.model))


def test_published_losses_are_bounded_by_the_public_teachers_mean(public, tmp_path):
    guidance = published(0.0)
    trained = run(guidance, tmp_path, public)
    losses, bounds = torch.tensor([0.5, 1.5, 3.0]), torch.tensor([1.0, 2.0, 1.5])
    assert guidance.noised(trained, losses, bounds, 3).tolist() == [0.5, 1.5, 1.5]


def test_published_noise_is_one_draw_a_batch_of_the_stated_size(public, tmp_path):
    guidance = published(10.0)
    trained = run(guidance, tmp_path, public)
    losses, bounds = torch.tensor([0.5, 1.5]), torch.tensor([1.0, 3.0])
    draws = torch.stack([guidance.noised(trained, losses, bounds, 2) for _ in range(4000)])
    noise = draws - torch.tensor([0.5, 1.5])
    # The same for all images, so on their mean.
    torch.testing.assert_close(noise[:, 0], noise[:, 1], atol=1e-4, rtol=1e-4)
    # 10 times the bound 2; a standard deviation from 4,000 draws is within 5 %.
    assert float(noise[:, 0].std()) == pytest.approx(20, rel=0.05)
    assert float(noise[:, 0].mean()) == pytest.approx(0, abs=1.5)


@pytest.mark.parametrize(("queries", "epsilon"), [(1600, 24.4), (1064, 18.6), (960, 17.4)])
def test_publishing_the_losses_would_cost_what_the_closed_form_says(queries, epsilon):
    assert nominal_epsilon(queries, 10.0, 1e-5) == pytest.approx(epsilon, abs=0.05)
    assert nominal_epsilon(queries, 10.0, 1e-5) == gaussian.gdp_epsilon(math.sqrt(queries) / 10, 1e-5)
    assert nominal_epsilon(queries, 0.0, 1e-5) == math.inf


def test_the_ledger_shows_the_published_claim_and_that_it_does_not_hold(public, tmp_path):
    trained = run(published(10.0), tmp_path, public)
    trained.train()
    assert trained.ledger.epsilon(TEACHER_DATA) is None
    text = str(trained.ledger)
    # 48 and 24 images in batches of 16.
    assert trained.queries == 3 + 2
    assert f"epsilon {math.ceil(100 * nominal_epsilon(5, 10.0, 1e-5)) / 100:.2f} at delta 1e-05 does not hold" in text
    assert "no gradient" in text


def test_a_student_of_a_private_teacher_inherits_what_the_teacher_promises(public, tmp_path):
    entry = LedgerEntry("DP-SGD", releases=7, noise_multiplier=2.0, sampling_rate=0.1, delta=1e-5)
    known = PrivacyLedger([entry], unknown={TEACHER_DATA: "there was no teacher"})
    trained = run(Teacher(small(1), known), tmp_path, public)
    trained.train()
    assert trained.ledger.epsilon(TEACHER_DATA) == pytest.approx(entry.epsilon)
    assert "transfer set: it is public" in str(trained.ledger)


@pytest.mark.parametrize("live", [False, True])
def test_a_teacher_is_asked_once_about_each_image_or_live_about_each_batch(public, tmp_path, live):
    teacher = small(1)
    asked = []
    teacher.register_forward_hook(lambda module, given, returned: asked.append(len(given[0])))
    trained = run(Teacher(teacher, "private", live=live), tmp_path, public, shares=(0.5, 0.5, 0.5), warm_up_epochs=0)
    asked.clear()  # its classes were looked at
    trained.train()
    assert trained.queried_images == 3 * 48
    assert sum(asked) == 144 if live else sum(asked) <= 96


def test_a_teacher_that_was_asked_about_all_images_is_not_asked_again(public, tmp_path):
    # It was, about none of them: two processes then had no answers to put together.
    teacher = small(1)
    trained = run(Teacher(teacher, "private"), tmp_path, public, warm_up_epochs=0)
    everything = torch.arange(96)
    trained.guidance.take(trained, everything)
    teacher.register_forward_hook(lambda module, given, returned: pytest.fail("it was asked again"))
    assert trained.guidance.take(trained, everything).tolist() == everything.tolist()


# -- shard teachers ------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 12), st.integers(0, 10_000), st.lists(st.floats(-8, 8), min_size=3, max_size=3), st.integers(0, 11)
)
@settings(max_examples=40)
def test_another_shard_teacher_moves_a_mean_by_at_most_the_sensitivity(count, seed, logits, place):
    generator = torch.Generator().manual_seed(seed)
    before = (4 * torch.randn(count, 1, 3, generator=generator, dtype=torch.float64)).softmax(-1)
    after = before.clone()
    after[place % count, 0] = torch.tensor(logits, dtype=torch.float64).softmax(-1)
    moved = float((before.mean(0) - after.mean(0)).norm())
    assert moved <= math.sqrt(2) / count + 1e-12


def test_the_noise_of_shard_teachers_is_in_units_of_that_sensitivity():
    # By hand: k = 100, Q = 500 and epsilon 8 need 0.19 for each class; k = 1 would need 19.
    mu = gaussian.gdp_mu(8.0, 1e-5)
    noise_multiplier = math.sqrt(500) / mu
    assert noise_multiplier * math.sqrt(2) / 100 == pytest.approx(0.19, abs=0.005)
    assert noise_multiplier * math.sqrt(2) == pytest.approx(19, abs=0.5)
    entry = LedgerEntry("x", releases=500, noise_multiplier=noise_multiplier, delta=1e-5, neighbours="replace one")
    assert entry.epsilon == pytest.approx(8.0, abs=1e-6)


def test_shard_teachers_release_each_image_once_however_often_it_is_used(public, tmp_path):
    answers = ShardAnswers(3.0, path=tmp_path / "answers")
    trained = run(ShardTeachers([small(1), small(2)], answers), tmp_path, public, shares=(0.5, 0.5, 0.25))
    trained.train()
    (entry,) = trained.ledger.about(TEACHER_DATA)
    assert entry.releases == len(answers) <= 96 < trained.queried_images
    assert trained.ledger.epsilon(TEACHER_DATA) == pytest.approx(
        gaussian.gdp_epsilon(math.sqrt(len(answers)) / 3.0, 1e-5)
    )
    # The targets are the released answers.
    table = trained.guidance._table[trained.chosen]
    assert torch.equal(table, answers([trained.guidance._keys[i] for i in trained.chosen.tolist()]))


def test_shard_teachers_are_asked_about_no_more_images_than_allowed(public, tmp_path):
    answers = ShardAnswers(3.0, path=tmp_path / "answers")
    guidance = ShardTeachers([small(1), small(2)], answers, most=20)
    trained = run(guidance, tmp_path, public, shares=(0.5, 0.5))
    chosen = torch.arange(95, -1, -1)
    # The most wanted ones are asked about.
    assert guidance.take(trained, chosen).tolist() == list(range(95, 75, -1))
    assert guidance.take(trained, torch.tensor([3, 80, 2])).tolist() == [80]
    # Where none of the wanted ones may be asked about, those that were are taught once again.
    assert guidance.take(trained, torch.tensor([3, 2])).tolist() == list(range(76, 96))
    assert len(answers) == 20
    with pytest.raises(ValueError, match="not one image may be asked about"):
        run(ShardTeachers([small(1)], ShardAnswers(3.0), most=0), tmp_path, public).train()


def test_few_images_are_taught_as_many_steps_as_planned(public, tmp_path):
    guidance = ShardTeachers([small(1), small(2)], ShardAnswers(3.0), most=10)
    trained = run(guidance, tmp_path, public, shares=(0.5, 0.5))
    trained.train()
    assert trained.queries == trained.args.distillation_steps(96) == 6
    assert len(guidance.answers) == 10


def test_answers_must_survive_a_crash(public, tmp_path):
    with pytest.raises(ValueError, match="must keep what was released"):
        run(ShardTeachers([small(1)], ShardAnswers(3.0)), tmp_path, public, checkpoint_every=1)


# -- noised steps --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=6), st.floats(-50, 50), st.floats(0.1, 5))
@settings(deadline=None)
def test_another_teacher_moves_a_slope_by_at_most_the_sensitivity(slopes, other, clip):
    guidance = ZerothOrder([small(1)] * len(slopes), 1e-9, clip=clip)
    before, after = torch.tensor(slopes), torch.tensor([other, *slopes[1:]])
    moved = abs(guidance.released(before) - guidance.released(after))
    assert moved <= 2 * clip / len(slopes) * (1 + 1e-5)
    assert guidance.noise == pytest.approx(1e-9 * 2 * clip / len(slopes))


@given(st.integers(1, 5), st.integers(0, 1000), st.floats(0.1, 5))
@settings(max_examples=30)
def test_another_teacher_moves_a_batch_gradient_by_at_most_the_sensitivity(count, seed, clip):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 3), (4,)]
    before = [[5 * torch.randn(shape, generator=generator) for shape in shapes] for _ in range(count)]
    after = [[5 * torch.randn(shape, generator=generator) for shape in shapes], *before[1:]]
    guidance = BatchGradient([small(1)] * count, 1e-9, clip=clip)
    gaps = [a - b for a, b in zip(guidance.released(before), guidance.released(after), strict=True)]
    assert float(torch.cat([gap.flatten() for gap in gaps]).norm()) <= 2 * clip / count * (1 + 1e-5)


def test_noise_on_steps_has_the_stated_size():
    guidance = BatchGradient([small(1)] * 4, noise_multiplier=3.0, clip=0.5)
    (found,) = guidance.released([[torch.zeros(40_000)]] * 4)
    assert float(found.std()) == pytest.approx(3.0 * 2 * 0.5 / 4, rel=0.03)
    slopes = ZerothOrder([small(1)] * 4, noise_multiplier=3.0, clip=0.5)
    draws = torch.tensor([slopes.released(torch.zeros(4)) for _ in range(4000)])
    assert float(draws.std()) == pytest.approx(0.75, rel=0.06)


def test_without_clip_and_noise_a_batch_gradient_is_the_plain_one(public, tmp_path):
    teacher = small(1)
    guidance = BatchGradient([teacher, teacher], 1e-9, clip=1e6)
    trained = run(guidance, tmp_path, public)
    trained.prepare(1)
    everything = torch.arange(96)
    guidance.take(trained, everything)
    batch = trained.batch(public, everything[:16], None)
    trained.model.train()
    # Twice through batch norm changes its running means, not the gradient.
    guidance.learn(trained, batch)
    found = [p.grad.clone() for p in trained.model.parameters()]
    trained.model.zero_grad()
    targets = (teacher.eval()(public.inputs(everything[:16])) / 3).softmax(1).detach()
    loss = -(targets * (trained.model(batch.inputs) / 3).log_softmax(1)).sum(1).mean()
    loss.backward()
    for parameter, gradient in zip(trained.model.parameters(), found, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-2, rtol=1e-3)


def test_a_noised_slope_is_the_gradient_along_the_direction_and_leaves_the_weights(public, tmp_path):
    guidance = ZerothOrder([small(1)], 1e-9, clip=1e3, reach=1e-3)
    trained = run(guidance, tmp_path, public, student=small(3, norm="group"))
    trained.prepare(1)
    guidance.take(trained, torch.arange(96))
    batch = trained.batch(public, torch.arange(16), None)
    before = flat(trained.model).clone()
    torch.manual_seed(5)
    guidance.learn(trained, batch)
    step = torch.cat([p.grad.flatten() for p in trained.model.parameters()])
    assert torch.equal(before, flat(trained.model))
    torch.manual_seed(5)
    along = torch.cat([torch.randn_like(p).flatten() for p in trained.model.parameters()])
    trained.model.zero_grad()
    targets = guidance._teachers[0].targets(trained, batch)
    soft_cross_entropy(trained.model(batch.inputs), targets, 3.0).mean().backward()
    slope = torch.cat([p.grad.flatten() for p in trained.model.parameters()]) @ along
    torch.testing.assert_close(step, slope * along, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("kind", [ZerothOrder, BatchGradient])
def test_noised_steps_are_counted_and_hold(kind, public, tmp_path):
    trained = run(kind([small(1), small(2)], 4.0), tmp_path, public)
    trained.train()
    (entry,) = trained.ledger.about(TEACHER_DATA)
    assert entry.releases == trained.queries == 5
    assert trained.ledger.epsilon(TEACHER_DATA) == pytest.approx(gaussian.gdp_epsilon(math.sqrt(5) / 4, 1e-5))


def test_several_directions_are_several_releases():
    assert ZerothOrder([small(1)], 4.0, directions=3).ledger(5).about(TEACHER_DATA)[0].releases == 15


def test_a_teacher_that_says_no_number_says_nothing():
    slopes = ZerothOrder([small(1)] * 2, 1e-9)
    assert slopes.released(torch.tensor([float("nan"), 1.0])) == pytest.approx(0.5, abs=1e-6)
    assert slopes.released(torch.tensor([float("inf"), 0.0])) == pytest.approx(0.5, abs=1e-6)
    gradients = BatchGradient([small(1)] * 2, 1e-9)
    (found,) = gradients.released([[torch.tensor([float("inf"), 1.0])], [torch.tensor([1.0, 0.0])]])
    torch.testing.assert_close(found, torch.tensor([0.5, 0.0]))


def test_weights_in_half_precision_are_refused(public, tmp_path):
    with pytest.raises(ValueError, match="bfloat16; clipped and noised steps need float32"):
        run(BatchGradient([small(1)], 1.0), tmp_path, public, student=small().bfloat16())


def test_dropout_is_the_same_at_both_ends_of_a_slope(public, tmp_path):
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(192, 3))
    guidance = ZerothOrder([small(1)], 1e-9, clip=1e3)
    trained = run(guidance, tmp_path, public, student=student)
    trained.prepare(1)
    guidance.take(trained, torch.arange(96))
    trained.model.train()
    batch = trained.batch(public, torch.arange(16), None)
    sizes = []
    for _ in range(20):
        guidance.learn(trained, batch)
        sizes.append(float(trained.model[2].weight.grad.norm()))
    # With other masks at each end the difference of losses, divided by 2e-3, would be tens.
    assert max(sizes) < 60


@pytest.mark.parametrize("kind", [ZerothOrder, BatchGradient])
def test_noise_must_be_there(kind):
    with pytest.raises(ValueError, match=r"noise_multiplier=0.0 must be positive"):
        kind([small(1)], 0.0)
    with pytest.raises(ValueError, match="no teacher"):
        kind([], 1.0)


def test_labels_teach_what_labels_teach(public, tmp_path):
    trained = run(Labels(), tmp_path, public)
    trained.prepare(1)
    batch = trained.batch(public, torch.arange(10), None)
    loss = trained.guidance.learn(trained, batch)
    torch.testing.assert_close(loss, F.cross_entropy(trained.model(batch.inputs), batch.labels).detach())
    assert "there was no teacher" in str(Labels().ledger(3))


# -- whole runs of every guidance ------------------------------------------------------------------------------------


def test_a_student_learns_from_a_teacher(public, unseen, tmp_path):
    teacher = run(Labels(), tmp_path / "teacher", public, warm_up_epochs=12, learning_rate=1e-2)
    teacher.train()
    assert teacher.evaluate(unseen) > 0.9
    student = run(
        Teacher(teacher.model, "private", temperature=1.0),
        tmp_path,
        coloured(96, seed=7),
        warm_up_epochs=0,
        self_learning_epochs=0,
        shares=(1.0,),
        distillation_epochs=20,
        learning_rate=1e-2,
    )
    student.train()
    assert student.evaluate(unseen) > 0.85


@pytest.mark.parametrize("kind", ["one", "shards", "gradients"])
def test_a_teacher_of_other_classes_is_refused_before_anything_is_trained(tmp_path, public, kind):
    other = small(1, classes=5)
    guidance = {
        "one": lambda: Teacher(other, "private"),
        "shards": lambda: ShardTeachers([small(1), other], ShardAnswers(8.0, path=tmp_path / "answers")),
        "gradients": lambda: BatchGradient([small(1), other], noise_multiplier=1.0),
    }[kind]()
    with pytest.raises(ValueError, match="SlimResNet has 5 classes, the images 3"):
        run(guidance, tmp_path / "run", public)


@pytest.mark.parametrize("is_public", [True, False])
def test_a_ledger_says_what_a_plain_teacher_saw(tmp_path, public, is_public):
    known = PrivacyLedger(unknown={TEACHER_DATA: NO_TEACHER} | ({TRANSFER_SET: PUBLIC_DATA} if is_public else {}))
    student = run(Teacher(small(1), known), tmp_path, public)
    expected = PUBLIC_DATA if is_public else "not covered; its ledger does not cover all that it was trained on"
    assert student.ledger.lines()[1] == f"teacher's training data: {expected}"
