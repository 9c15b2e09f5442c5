"""Labels of synthetic images: the response's matrix, where its candidates come from, what the ledger says."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swingkd.privacy import (
    PUBLIC_DATA,
    SYNTHETIC_LABELS,
    TEACHER_DATA,
    LedgerEntry,
    PrivacyLedger,
    ShardAnswers,
    best_candidates,
    gaussian,
    response_probabilities,
)
from swingkd.vision import ExactTeacher, NoisyDifferences, RandomizedTeacher, ShardLabels
from swingkd.vision.arguments import ImageArguments
from swingkd.vision.base import Classifier
from swingkd.vision.labelling import Answers, answer_probabilities, composed_epsilon, joined, one_hot
from tests.harness import small


@pytest.fixture
def run(tmp_path):
    args = ImageArguments(output_dir=str(tmp_path), mixed_precision="no", channels_last=False)
    return Classifier(small(), args)


def images(count=20, seed=0):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def prior_of(count=20, seed=1):
    return (2 * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))).softmax(1)


@given(st.integers(2, 6), st.floats(0.1, 12), st.integers(0, 1000))
@settings(max_examples=40)
def test_forward_correction_is_the_responses_own_matrix(classes, epsilon, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, classes, generator=generator)
    prior = (2 * torch.randn(3, classes, generator=generator)).softmax(1)
    candidates = best_candidates(prior, epsilon)
    found = answer_probabilities(logits, candidates, epsilon)
    for row in range(3):
        # The transition matrix, class by class, from the mechanism itself.
        matrix = response_probabilities(torch.arange(classes), candidates[row].expand(classes, -1), epsilon)
        expected = logits[row].double().softmax(0) @ matrix
        torch.testing.assert_close(found[row].double(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.sum(1), torch.ones(3))


@pytest.mark.parametrize(("epsilon", "classes", "kept"), [(1.0, 2, 0.731), (1.0, 10, 0.232), (10.0, 10, 0.9996)])
def test_a_label_is_kept_as_often_as_the_closed_form_says(epsilon, classes, kept):
    sure = torch.full((1, classes), -200.0)
    sure[0, 1] = 200.0
    found = answer_probabilities(sure, torch.ones(1, classes, dtype=torch.bool), epsilon)
    assert found[0, 1].item() == pytest.approx(kept, abs=5e-4)


def test_the_loss_of_an_answer_is_its_log_probability_corrected_or_not():
    logits = torch.randn(4, 3).requires_grad_()
    candidates = torch.tensor([[True, True, False]] * 4)
    answers = Answers(one_hot(torch.tensor([0, 1, 0, 1]), 3), candidates, 2.0)
    rows = torch.tensor([3, 0])
    plain = answers.losses(logits[:2], rows, correct=False)
    torch.testing.assert_close(plain, -logits[:2].log_softmax(1)[[0, 1], [1, 0]])
    corrected = answers.losses(logits[:2], rows, correct=True)
    expected = -answer_probabilities(logits[:2], candidates[:2], 2.0)[[0, 1], [1, 0]].log()
    torch.testing.assert_close(corrected, expected)
    corrected.sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[:2].abs().min() > 0


def test_the_candidates_do_not_change_when_the_teacher_does(run):
    prior = prior_of()
    found = [RandomizedTeacher(small(seed), 2.0)(run, images(), prior) for seed in (1, 2)]
    assert torch.equal(found[0].candidates, found[1].candidates)
    assert torch.equal(found[0].candidates, best_candidates(prior, 2.0))
    # Whoever answers is given a prior, and the class takes no candidates.
    assert "candidates" not in inspect.signature(RandomizedTeacher).parameters


def test_answers_are_among_the_candidates_and_random(run):
    labeller = RandomizedTeacher(small(1), 0.5)
    prior = prior_of(600)
    first, second = (labeller(run, images(600), prior) for _ in range(2))
    assert (first.targets.argmax(1)[:, None] == torch.arange(3)).logical_and(~first.candidates).sum() == 0
    assert not torch.equal(first.targets, second.targets)
    # At a large epsilon it is the teacher's own label wherever the prior allows it.
    sure = RandomizedTeacher(small(1), 30.0)(run, images(600), torch.full((600, 3), 1 / 3))
    assert torch.equal(sure.targets.argmax(1), run.logits(small(1), images(600)).argmax(1))


def test_labels_add_up_to_what_the_closed_form_says():
    # By hand: epsilon 1, ten candidates, 1,000 labels: 227 at delta 1e-5.
    assert composed_epsilon(1000, 1.0, 1e-5, candidates=10) == pytest.approx(227, abs=1)
    assert composed_epsilon(1000, 1.0, 1e-5) >= composed_epsilon(1000, 1.0, 1e-5, candidates=10)
    assert composed_epsilon(1, 1.0, 1e-5) == 1.0


def test_the_ledger_says_what_holds_for_a_label_and_what_for_a_record():
    labeller = RandomizedTeacher(small(1), 1.0)
    published = labeller.ledger(1000, seen=True)
    assert published.epsilon(SYNTHETIC_LABELS) == 1.0
    assert published.epsilon(TEACHER_DATA) is None
    text = str(published)
    assert "each of 1,000 labels was answered once" in text
    assert "epsilon 1 does not hold" in text
    assert "one record can move all 1,000 labels" in text
    assert "the generator was trained by the teacher itself" in text
    sound = labeller.ledger(1000, seen=False)
    assert sound.epsilon(TEACHER_DATA) == 1000.0
    assert "one record can move all" in str(sound)


def test_a_teacher_with_a_guarantee_gives_it_to_the_student(run):
    entry = LedgerEntry("DP-SGD", releases=7, noise_multiplier=2.0, delta=1e-5)
    known = PrivacyLedger([entry], unknown={TEACHER_DATA: "there was no teacher"})
    labeller = ExactTeacher(small(1), known)
    answers = labeller(run, images(), prior_of())
    assert torch.equal(answers.targets.argmax(1), run.logits(small(1), images()).argmax(1))
    assert answers.epsilon == math.inf
    assert labeller.ledger(20, seen=False).epsilon(TEACHER_DATA) == pytest.approx(entry.epsilon)
    # Not, if the generator was trained by another one.
    assert labeller.ledger(20, seen=True).epsilon(TEACHER_DATA) is None
    assert "not covered; exact labels: nobody knows" in str(ExactTeacher(small(1), "nobody knows").ledger(20, False))
    assert "teacher's training data: it is public" in str(ExactTeacher(small(1), PUBLIC_DATA).ledger(20, seen=True))
    uncovered = PrivacyLedger([entry])
    assert ExactTeacher(small(1), uncovered).ledger(20, seen=False).epsilon(TEACHER_DATA) is None


def test_noise_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"epsilon=0.0 must be positive"):
        RandomizedTeacher(small(1), 0.0)
    with pytest.raises(ValueError, match=r"noise_multiplier=0.0 must be positive"):
        NoisyDifferences(small(1), 0.0)


def test_soft_labels_are_the_teachers_probabilities(run):
    answers = ExactTeacher(small(1), "", soft=True)(run, images(), prior_of())
    torch.testing.assert_close(answers.targets, run.logits(small(1), images()).softmax(1))


def test_shard_teachers_label_each_image_once(run):
    answers = ShardAnswers(2.0, form="votes")
    labeller = ShardLabels([small(1), small(2), small(3)], answers)
    first = labeller(run, images(), prior_of())
    again = labeller(run, images(), prior_of())
    assert torch.equal(first.targets, again.targets)
    assert labeller.ledger(20, seen=False).about(TEACHER_DATA)[0].releases == 20
    expected = gaussian.gdp_epsilon(math.sqrt(20) / 2.0, 1e-5)
    assert labeller.ledger(20, seen=False).epsilon(TEACHER_DATA) == pytest.approx(expected)


def test_noisy_differences_move_the_prediction_towards_the_teacher(run):
    prior = prior_of()
    labeller = NoisyDifferences(small(1), noise_multiplier=1e-9, clip=10.0, top=3)
    asked = run.logits(small(1), images()).softmax(1)
    torch.testing.assert_close(labeller(run, images(), prior).targets, asked, atol=1e-4, rtol=1e-3)
    # Of the student's likeliest two classes only.
    two = NoisyDifferences(small(1), noise_multiplier=1e-9, clip=0.01, top=2)(run, images(), prior)
    least = prior.argmin(1)
    moved = (two.targets - prior).norm(dim=1)
    assert moved.max() <= 0.01 + 0.01
    assert (two.targets.gather(1, least[:, None]) - prior.gather(1, least[:, None])).abs().max() < 0.011


def test_noise_on_differences_has_the_stated_size(run):
    labeller = NoisyDifferences(small(1), noise_multiplier=2.0, clip=0.01, top=3)
    flat = torch.full((3000, 3), 1 / 3)
    moved = labeller(run, images(3000), flat).targets - flat
    # Noise of 2 times 2 times 0.01, of which bringing back to a sum of one takes the mean away.
    assert moved.std().item() == pytest.approx(0.04 * math.sqrt(2 / 3), rel=0.1)
    ledger = labeller.ledger(3000, seen=False)
    assert ledger.epsilon(SYNTHETIC_LABELS) == pytest.approx(gaussian.gdp_epsilon(1 / 2.0, 1e-5))
    assert ledger.epsilon(TEACHER_DATA) == pytest.approx(gaussian.gdp_epsilon(math.sqrt(3000) / 2.0, 1e-5))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_labels_at_a_temperature(run, temperature):
    """Against a plain loop: the gradient is that of the published distillation loss."""
    teacher = small(1)
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    answers = ExactTeacher(teacher, "", soft=True, temperature=temperature)(run, images, torch.full((5, 3), 1 / 3))
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    losses = answers.losses(logits, torch.arange(5), correct=True)
    said = run.logits(teacher, images)
    for loss, own, other in zip(losses.tolist(), logits.tolist(), said.tolist(), strict=True):
        target, guess = (
            [math.exp(x / temperature) / sum(math.exp(y / temperature) for y in row) for x in row]
            for row in (other, own)
        )
        expected = -sum(t * math.log(g) for t, g in zip(target, guess, strict=True)) * temperature**2
        assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("soft", "temperature"), [(False, 4.0), (True, 0.0), (True, math.nan)])
def test_a_temperature_of_nothing_is_refused(soft, temperature):
    with pytest.raises(ValueError, match="temperature"):
        ExactTeacher(small(), "", soft=soft, temperature=temperature)


def test_answers_of_one_kind_are_asked_at_once():
    """Joined or one by one: the same losses, in the same order."""
    rng = torch.Generator().manual_seed(0)
    parts = []
    for epsilon, temperature in ((math.inf, 4.0), (math.inf, 4.0), (2.0, 1.0), (2.0, 1.0), (math.inf, 4.0)):
        targets = torch.eye(3)[torch.randint(3, (4,), generator=rng)]
        parts.append(Answers(targets, torch.ones(4, 3, dtype=torch.bool), epsilon, temperature))
    logits, rows = torch.randn(4, 3, generator=rng), torch.arange(4)
    together = joined(parts)
    assert [len(each.targets) for each in together] == [8, 8, 4]
    one_by_one = [each.losses(logits, rows, correct=True) for each in parts]
    at_once = [
        each.losses(logits.repeat(2, 1)[: len(each.targets)], torch.arange(len(each.targets)), correct=True)
        for each in together
    ]
    torch.testing.assert_close(torch.cat(at_once), torch.cat(one_by_one))
