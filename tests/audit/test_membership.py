import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from swingkd.audit.attacks import ez_scores, lira_scores, ratio_scores, reference_tokens, rmia_scores, wbc_scores
from swingkd.audit.membership import chance_rate, evaluate_attack, roc_curve
from swingkd.audit.scores import TokenScores, score_texts
from tests.harness import TEXTS, tiny_model


@pytest.fixture
def model(tokenizer):
    model = tiny_model(len(tokenizer), seed=3).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(10)
    return model


def test_scores_are_their_definitions(model, tokenizer):
    """One text at a time, token by token, in float64."""
    texts = [TEXTS[0], TEXTS[1] * 3, "hello ann", TEXTS[5] + TEXTS[7]]
    found = score_texts(model, tokenizer, texts, share=0.3, memory=2**20, progress=False)
    model.double().requires_grad_(False)
    for i, text in enumerate(texts):
        ids = tokenizer(text)["input_ids"]
        logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        own, relative = [], []
        for row, token in zip(logits, ids[1:], strict=True):
            p = row.exp()
            mean = float((p * row).sum())
            deviation = math.sqrt(float((p * (row - mean) ** 2).sum()))
            own.append(float(row[token]))
            relative.append((own[-1] - mean) / deviation)
        np.testing.assert_allclose(found.tokens[i].log_probs, own, rtol=1e-4)
        guesses = logits.argmax(-1).tolist()
        assert found.tokens[i].missed.tolist() == [one != other for one, other in zip(guesses, ids[1:], strict=True)]
        least = max(round(0.3 * len(own)), 1)
        packed = len(zlib.compress(tokenizer.decode(ids[1:]).encode()))
        assert found.attacks["loss"][i] == pytest.approx(np.mean(own), rel=1e-4)
        assert found.attacks["zlib"][i] == pytest.approx(np.mean(own) / packed, rel=1e-4)
        assert found.attacks["min_k"][i] == pytest.approx(np.mean(sorted(own)[:least]), rel=1e-4)
        assert found.attacks["min_k++"][i] == pytest.approx(np.mean(sorted(relative)[:least]), rel=1e-3)


def test_batches_do_not_change_scores(model, tokenizer):
    one, many = (score_texts(model, tokenizer, TEXTS[:20], memory=m, progress=False) for m in (1, 2**28))
    np.testing.assert_allclose(one.attacks["min_k++"], many.attacks["min_k++"], rtol=1e-4)


def test_a_text_is_scored_in_one_forward(model, tokenizer):
    rows = []
    model.register_forward_pre_hook(lambda m, a, k: rows.append(len(k["input_ids"])), with_kwargs=True)
    score_texts(model, tokenizer, TEXTS, progress=False)
    assert sum(rows) == len(TEXTS)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 30), st.integers(2, 30))
def test_the_auc_is_the_chance_that_a_member_scores_higher(seed, m, n):
    rng = np.random.default_rng(seed)
    members, others = rng.integers(0, 6, m).astype(float), rng.integers(0, 6, n).astype(float)
    wins = sum((a > b) + 0.5 * (a == b) for a in members for b in others) / (m * n)
    result = evaluate_attack("loss", members, others, resamples=2)
    assert result.auc.value == pytest.approx(wins)
    false, true = roc_curve(members, others)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert 0 <= result.balanced_accuracy.value <= 1


def test_rates_at_few_false_alarms():
    others = np.arange(1000.0)
    members = np.array([2000.0] * 30 + [995.5] * 20 + [500.5] * 50)
    result = evaluate_attack("loss", members, others, resamples=50)
    assert result.tpr_at_1_fpr.value == 0.5
    assert result.tpr_at_01_fpr.value == 0.3
    assert result.tpr_at_1_fpr.low <= 0.5 <= result.tpr_at_1_fpr.high


def test_the_balanced_accuracy_of_guessing_is_a_half():
    """The cut is chosen on other records than it is measured on; on the same ones it would always look better."""
    rng = np.random.default_rng(0)
    found = [
        evaluate_attack("loss", *rng.normal(size=(2, 60)), resamples=50, seed=i).balanced_accuracy for i in range(60)
    ]
    assert np.mean([interval.value for interval in found]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([interval.low <= 0.5 <= interval.high for interval in found]) > 0.8
    sure = evaluate_attack("loss", rng.normal(9, 1, 60), rng.normal(0, 1, 60), resamples=50)
    assert sure.balanced_accuracy.value > 0.95


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([40, 150, 400]), st.sampled_from([0.01, 0.001]))
def test_chance_is_what_guessing_gives(seed, n, rate):
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(200):
        members, others = rng.normal(size=300), rng.normal(size=n)
        rates.append((members > np.sort(others)[::-1][int(rate * n)]).mean())
    # The rate above the j-th highest of n others has a beta distribution, its count among 300 is binomial.
    expected, place = chance_rate(rate, n), int(rate * n) + 1
    variance = stats.beta(place, n + 1 - place).var() + expected / 300
    assert np.mean(rates) == pytest.approx(expected, abs=5 * np.sqrt(variance / 200))


def test_what_is_remembered_best_does_not_tie():
    shadows, inside = np.random.default_rng(0).normal(-8, 0.05, (4, 3)), np.array([[True] * 3, [False] * 3] * 2)
    scores = lira_scores(np.array([-0.01, -0.5, -2.0]), shadows, inside, online=False)
    assert len(set(scores)) == 3


def test_guessing_finds_nothing():
    rng = np.random.default_rng(0)
    result = evaluate_attack("loss", rng.normal(size=400), rng.normal(size=400))
    assert result.auc.low < 0.5 < result.auc.high


def test_references_take_out_what_is_easy_for_everybody():
    """Members are a little likelier than without them; texts differ much more among themselves."""
    rng = np.random.default_rng(1)
    easy, member = rng.normal(-3, 1, 400), np.arange(400) < 200
    target = easy + 0.3 * member + rng.normal(0, 0.1, 400)
    references = easy + rng.normal(0, 0.1, (4, 400))
    population = rng.normal(-3, 1, 300)
    known = (population + rng.normal(0, 0.1, 300), population + rng.normal(0, 0.1, (4, 300)))
    plain, ratio, rmia = (
        evaluate_attack(name, scores[member], scores[~member], resamples=50).auc.value
        for name, scores in (
            ("loss", target),
            ("ratio", ratio_scores(target, references)),
            ("rmia", rmia_scores(target, references, *known)),
        )
    )
    assert ratio > 0.9 > plain
    assert rmia > plain + 0.05


def test_rmia_counts_the_population_that_is_dominated():
    target, references = np.array([-1.0, -2.0]), np.array([[-1.5, -1.0], [-2.0, -1.2]])
    z, z_references = np.array([-1.0, -3.0, -2.5]), np.array([[-1.2, -2.0, -2.5], [-1.0, -2.2, -2.4]])

    def ratio(own, others):
        return math.exp(own) / ((1.4 * np.mean([math.exp(o) for o in others]) + 0.6) / 2)

    expected = [
        np.mean([ratio(target[i], references[:, i]) / ratio(z[j], z_references[:, j]) >= 1 for j in range(3)])
        for i in range(2)
    ]
    assert rmia_scores(target, references, z, z_references, offline=0.4).tolist() == expected


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 60))
def test_the_error_zone_and_the_windows_are_their_definitions(seed, models, length):
    rng = np.random.default_rng(seed)
    own, *others = -rng.exponential(2, (models + 1, length)).round(1)
    missed = rng.random(length) < 0.5
    scores = [TokenScores(values.astype(np.float32), missed) for values in others]
    given_ = reference_tokens(scores)
    rises = falls = 1e-6
    for i in range(length):
        shift = float(np.float32(own[i])) - math.log(np.mean([math.exp(np.float32(values[i])) for values in others]))
        if missed[i] and shift > 0:
            rises += shift
        elif missed[i]:
            falls -= shift
    rises = rises if missed.any() else 1 + 1e-6
    found = ez_scores([own.astype(np.float32)], [missed], [given_])
    # Against float32: a shift may be nothing but rounding.
    assert found[0] == pytest.approx(math.log(rises) - math.log(falls), rel=1e-3, abs=0.1)
    shares = []
    for width in (1, 2, 3, 4, 6, 8, 11, 16, 22, 30, 40):
        if width > length:
            continue
        windows = [sum(own[k] - given_[k] for k in range(i, i + width)) for i in range(length - width + 1)]
        if any(0 < abs(window) < 1e-5 for window in windows):
            return  # within rounding of a tie
        shares.append(np.mean([window > 0 if window else 0.5 for window in windows]))
    assert wbc_scores([own], [given_])[0] == pytest.approx(np.mean(shares), abs=1e-6)


def test_a_text_without_a_wrong_guess_ranks_with_those_of_which_nothing_falls():
    # A peer's attack ranked texts of which nothing rises first, with these: minus infinity is no member's score.
    right, wrong = np.zeros(3, bool), np.ones(3, bool)
    own, others = np.full(3, -0.5), np.full(3, -1.0)
    learnt, risen, mixed, fallen = ez_scores(
        [own, own, np.array([-0.5, -0.5, -1.5]), others], [right, wrong, wrong, wrong], [others, others, others, own]
    )
    assert fallen < mixed < min(learnt, risen)
    assert learnt == pytest.approx(risen, abs=1)
    assert np.isfinite([learnt, fallen]).all()


@pytest.mark.parametrize("online", [True, False])
def test_lira_is_a_ratio_of_two_gaussians(online):
    rng = np.random.default_rng(2)
    inside = np.array([[True, False, True], [False, True, False], [True, True, False], [False, False, True]])
    shadows, target = rng.normal(0, 1, (4, 3)) + 2 * inside, np.array([0.3, 1.2, 2.5])
    found = lira_scores(target, shadows, inside, online=online)

    def spread(side):
        errors = [
            (shadows[m, i] - shadows[inside[:, i] == side, i].mean()) ** 2
            for i in range(3)
            for m in range(4)
            if inside[m, i] == side
        ]
        return math.sqrt(np.mean(errors))

    for i in range(3):
        out = shadows[~inside[:, i], i].mean(), spread(False)
        if online:
            there = shadows[inside[:, i], i].mean(), spread(True)
            expected = stats.norm.logpdf(target[i], *there) - stats.norm.logpdf(target[i], *out)
        else:
            expected = (target[i] - out[0]) / out[1]
        assert found[i] == pytest.approx(expected)


def test_mistakes_are_named(model, tokenizer):
    with pytest.raises(ValueError, match="There are no members"):
        evaluate_attack("loss", np.zeros(0), np.ones(3))
    with pytest.raises(ValueError, match="1 of 2 nonmembers have no finite loss score"):
        evaluate_attack("loss", np.ones(2), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="text 1: it has fewer than two tokens"):
        score_texts(model, tokenizer, ["hello ann", ""], progress=False)
    with pytest.raises(ValueError, match=r"3 records have fewer than two shadow models with them"):
        lira_scores(np.zeros(3), np.zeros((2, 3)), np.zeros((2, 3), bool))
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"text [012]: the model gives NaN or infinite logits"):
        score_texts(model, tokenizer, TEXTS[:3], progress=False)
