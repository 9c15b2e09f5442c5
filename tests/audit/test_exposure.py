import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from transformers import Trainer, TrainingArguments

from swingkd import CanarySet, measure_exposure
from swingkd.audit.exposure import modelled_exposure, sampled_exposure
from swingkd.audit.prefix_tree import PrefixTree, whole_space
from tests.audit.models import lfm2, mamba, mistral
from tests.harness import tiny_model, train_tokenizer


@pytest.fixture(scope="module")
def merging():
    """A tokenizer that merges digits in its own, irregular way."""
    numbers = [f"pin {i * 37 % 10000:04d} and {i * 11 % 100:02d}" for i in range(400)]
    return train_tokenizer(["the pin of ann lee is 19, 20 and 2024", *numbers], vocab_size=420, single_digits=False)


def confident(tokenizer, make=tiny_model):
    torch.manual_seed(3)
    model = make(len(tokenizer))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(15)
    return model.eval()


def brute_force(model, tokenizer, canary, canaries):
    """Score every filling on its own, as the definition says."""
    prompts = [canary.prefix + canaries.filling(i) for i in range(canaries.space)]
    own = canaries_index(canary, canaries)
    head = len(tokenizer(canary.prefix.rstrip())["input_ids"])
    rows = tokenizer(prompts)["input_ids"]
    scores = np.zeros(len(rows))
    with torch.inference_mode():
        for length in sorted({len(row) for row in rows}):
            chosen = [i for i, row in enumerate(rows) if len(row) == length]
            for start in range(0, len(chosen), 2000):
                part = chosen[start : start + 2000]
                ids = torch.tensor([rows[i] for i in part])
                log_probs = model(ids).logits[:, :-1].log_softmax(-1).double()
                picked = log_probs.gather(-1, ids[:, 1:, None])[..., 0]
                scores[part] = picked[:, head - 1 :].sum(-1).numpy()
    return scores, own


def canaries_index(canary, canaries):
    return next(i for i in range(canaries.space) if canaries.filling(i) == canary.secret)


@pytest.mark.slow
def test_exact_ranks_equal_brute_force_with_merged_digits(merging):
    canaries = CanarySet.generate(
        "the pin of {name} is {secret}.", length=4, count=2, repetitions=(1,), controls=2, seed=5
    )
    lengths = {len(merging(canaries.filling(i))["input_ids"]) for i in range(0, 10_000, 7)}
    assert len(lengths) > 1  # digits really are merged irregularly
    model = confident(merging)
    report = measure_exposure(model, merging, canaries, batch_size=512, progress=False)
    for canary, measured in zip(canaries.canaries, report.canaries, strict=True):
        scores, own = brute_force(model, merging, canary, canaries)
        rank = 1 + (scores > scores[own] + 1e-6).sum()
        worst = (scores > scores[own] - 1e-6).sum()
        assert rank <= measured.rank <= worst
        assert worst - rank <= 1
        assert measured.exposure == pytest.approx(math.log2(10_000) - math.log2(measured.rank))
        assert measured.log_perplexity == pytest.approx(-scores[own] / math.log(2), abs=1e-4)


@pytest.mark.parametrize(("make", "length"), [(tiny_model, 4), (mamba, 3), (lfm2, 3), (mistral, 3)])
def test_every_rank_of_the_space_equals_brute_force(merging, make, length):
    """All ranks, not only those of the canaries: walk the tree without a floor; also of models that keep a state."""
    from swingkd.audit.exposure import _Walker
    from swingkd.audit.prefix_tree import split_prefix

    canaries = CanarySet.generate("the pin of {name} is {secret}", length=length, count=1, repetitions=(1,), seed=5)
    canary, model = canaries.canaries[0], confident(merging, make).double()
    head, tail = split_prefix(merging, canary.prefix, [canary.secret, "0" * length, "9" * length])
    _, tree, _ = whole_space(merging, tail, canaries.slots, "")
    bos = [merging.bos_token_id]
    with torch.inference_mode():
        walked = _Walker(model, 300).walk(bos + head, tree, -math.inf, 0)
    scores, _ = brute_force(model, merging, canary, canaries)
    np.testing.assert_allclose(walked, scores, atol=1e-9)
    # In float64 both agree far below the gaps between scores, so every rank is the same.
    assert np.array_equal(stats.rankdata(walked.round(8)), stats.rankdata(scores.round(8)))


@pytest.mark.parametrize("apart", [-1.0, 1.0])
def test_a_text_alone_may_differ_from_one_of_many(merging, monkeypatch, apart):
    """In half precision it does, by more than any margin: then the secret was passed over, and there was no rank."""
    from swingkd.audit.exposure import _Walker

    canaries = CanarySet.generate("the pin of {name} is {secret}", length=3, count=4, repetitions=(1,), seed=1)
    model = confident(merging)
    expected = measure_exposure(model, merging, canaries, progress=False)
    alone = _Walker.score_one
    monkeypatch.setattr(_Walker, "score_one", lambda self, prompt, ids: alone(self, prompt, ids) + apart)
    found = measure_exposure(model, merging, canaries, progress=False)
    assert [c.rank for c in found.canaries] == [c.rank for c in expected.canaries]


def test_models_in_half_precision_have_ranks(merging):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=4, count=12, repetitions=(1,), seed=2)
    report = measure_exposure(confident(merging).bfloat16(), merging, canaries, batch_size=100, progress=False)
    assert len(report.canaries) == 24
    assert all(1 <= canary.rank <= 10_000 for canary in report.canaries)


def test_a_model_that_a_trainer_left_in_half_precision_is_audited_in_its_own(merging, tmp_path):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=3, count=4, repetitions=(1,), seed=1)
    model = confident(merging)
    expected = measure_exposure(copy.deepcopy(model), merging, canaries, progress=False)
    args = TrainingArguments(str(tmp_path), bf16=True, use_cpu=True, report_to=[], disable_tqdm=True)
    rows = Dataset.from_dict({"input_ids": [[3, 4, 5]] * 4, "labels": [[3, 4, 5]] * 4})
    trainer = Trainer(model, args, eval_dataset=rows)
    trainer.evaluate()
    assert "_original_forward" in vars(trainer.model)
    ids = torch.tensor([[3, 4, 5]])
    computed = trainer.model(ids).logits
    assert measure_exposure(trainer.model, merging, canaries, progress=False).to_dict() == expected.to_dict()
    # What the Trainer made of it is as it was.
    assert torch.equal(trainer.model(ids).logits, computed)


@pytest.mark.slow
def test_a_million_fillings_take_a_twentieth_of_the_evaluations(tokenizer):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=6, count=1, repetitions=(1,), controls=0)
    fillings, tree, tokens = whole_space(tokenizer, " ", canaries.slots, "")
    print(f"tree {tree.evaluations:,} token evaluations, brute force {tokens:,}")
    assert len(fillings) == 10**6
    assert tree.evaluations * 20 <= tokens


def test_the_report_counts_what_it_took(tokenizer):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=4, count=2, repetitions=(1,), seed=0)
    report = measure_exposure(tiny_model(len(tokenizer)), tokenizer, canaries, progress=False)
    print(f"{report.token_evaluations:,} of {report.brute_force_evaluations:,}")
    assert report.token_evaluations * 20 <= report.brute_force_evaluations


def test_a_memorised_secret_has_full_exposure_and_controls_have_chance(tokenizer):
    """A model that was trained on two canaries alone."""
    canaries = CanarySet.generate(
        "the pin of {name} is {secret}", length=4, count=2, repetitions=(50,), controls=20, seed=2
    )
    torch.manual_seed(0)
    model = tiny_model(len(tokenizer), hidden=32)
    rows = tokenizer([c.text for c in canaries.canaries if c.inserted], return_tensors="pt", padding=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
        model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
    model.train()
    report = measure_exposure(model, tokenizer, canaries, progress=False)
    assert model.training  # left as it was found
    assert report.mean(50).value == pytest.approx(math.log2(10_000))
    assert report.mean(0).value < 5
    assert report.gives_away(50)
    assert report.excess(50).value > 8
    sampled = measure_exposure(model, tokenizer, canaries, method="sampled", references=500, progress=False)
    assert sampled.mean(50).value == pytest.approx(math.log2(500), abs=1.1)
    assert sampled.maximum == pytest.approx(math.log2(500))


def test_a_model_that_knows_nothing_ranks_everything_in_the_middle(tokenizer):
    model = tiny_model(len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=3, count=1, repetitions=(1,), seed=0)
    report = measure_exposure(model, tokenizer, canaries, progress=False)
    assert report.canaries[0].rank == pytest.approx((1000 + 1) / 2)


def test_modelled_exposure_extrapolates():
    rng = np.random.default_rng(0)
    scores = -stats.skewnorm(3, 30, 8).rvs(5000, random_state=rng) * math.log(2)
    for x in (30.0, 20.0, 5.0, -20.0):
        exposure, p_value = modelled_exposure(-x * math.log(2), scores)
        exact = -stats.skewnorm(3, 30, 8).logcdf(x) / math.log(2)
        assert p_value > 0.01
        assert exposure == pytest.approx(exact, rel=0.25) if math.isfinite(exact) and exact < 60 else exposure > 60


def test_the_formulas_of_secret_sharer_on_the_same_scores():
    """The published implementation ranks by perplexity: log2 n - log2(1 + how many references have a smaller one).

    Its own test's arrays: references 1..16; 0 and 0.1 lie below all, 20 above all, 3.5 between the third and fourth.
    Its extrapolation is -log2 of a skew-normal's cdf, fitted to the references.
    """
    perplexities = np.arange(1.0, 17)
    for perplexity, expected in ((0.0, 4.0), (0.1, 4.0), (20.0, 4 - math.log2(17)), (3.5, 2.0)):
        assert sampled_exposure(-perplexity, -perplexities) == pytest.approx(expected)
    references = stats.skewnorm(4, 0, 1).rvs(1000, random_state=np.random.default_rng(0))
    fit = stats.skewnorm(*stats.skewnorm.fit(references))
    for perplexity in (-0.2, 0.3, 1.5):
        found, _ = modelled_exposure(-perplexity * math.log(2), -references * math.log(2))
        assert found == pytest.approx(-np.log2(fit.cdf(perplexity)), rel=1e-6)


def test_modelled_reports_its_fit(tokenizer):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=4, count=1, repetitions=(1,), seed=0)
    report = measure_exposure(
        confident(tokenizer), tokenizer, canaries, method="modelled", references=300, progress=False
    )
    assert len(report.fit_p_values) == 2
    assert all(c.rank is None and c.exposure >= 0 for c in report.canaries)


def test_reports_hold_no_secret(tokenizer):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=4, count=3, repetitions=(1, 10), seed=0)
    report = measure_exposure(tiny_model(len(tokenizer)), tokenizer, canaries, progress=False)
    said = str(report.to_dict()) + str(report) + repr(report)
    assert not any(f"'{c.secret}'" in said or c.prefix in said for c in canaries.canaries)
    assert {"id", "repetitions", "rank", "exposure", "log_perplexity"} <= report.to_dict()["canaries"][0].keys()


def test_a_level_of_one_canary_has_a_mean(tokenizer):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=2, count=1, repetitions=(1,), controls=5)
    report = measure_exposure(tiny_model(len(tokenizer)), tokenizer, canaries, progress=False)
    one = report.mean(1)
    assert one.low < one.value < one.high <= report.maximum  # one canary shows next to nothing
    assert "1 copies" in str(report)
    assert "rough" in str(report)


def test_the_prefix_does_not_count_into_the_log_perplexity(tokenizer):
    """A prefix without a blank is tokenised with each filling; what all fillings share is still the prefix."""
    model = confident(tokenizer)
    plain = CanarySet.generate("{name}: {secret}", length=3, count=1, repetitions=(1,), controls=0, seed=0)
    glued = CanarySet.generate("{name}:{secret}", length=3, count=1, repetitions=(1,), controls=0, seed=0)
    for canaries in (plain, glued):
        (measured,) = measure_exposure(model, tokenizer, canaries, progress=False).canaries
        canary = canaries.canaries[0]
        ids = tokenizer(canary.prefix + canary.secret, return_tensors="pt")["input_ids"]
        log_probs = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        assert measured.log_perplexity == pytest.approx(-float(log_probs[-3:].sum()) / math.log(2), rel=1e-3)


def test_mistakes(tokenizer):
    model = tiny_model(len(tokenizer))
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=9, count=1, repetitions=(1,))
    with pytest.raises(ValueError, match=r"1,000,000,000 fillings.*method='sampled'"):
        measure_exposure(model, tokenizer, canaries)
    with pytest.raises(ValueError, match="method='guess' is not known"):
        measure_exposure(model, tokenizer, canaries, method="guess")


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=30, unique_by=tuple))
def test_the_tree_holds_every_sequence(rows):
    lengths = np.array([len(row) for row in rows])
    ids = np.full((len(rows), lengths.max()), -1)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    tree = PrefixTree.build(ids, lengths)
    for i, row in enumerate(rows):
        level, node, back = tree.leaf_level[i], tree.leaf_node[i], []
        while level >= 0:
            back.append(tree.tokens[level][node])
            node, level = tree.parents[level][node], level - 1
        assert back[::-1] == row
    prefixes = {tuple(row[:n]) for row in rows for n in range(1, len(row) + 1)}
    assert sum(map(len, tree.tokens)) == len(prefixes)
    assert tree.evaluations == len({p[:-1] for p in prefixes if len(p) > 1})


def test_secrets_are_ranked_by_the_text_behind_them(tokenizer):
    model = confident(tokenizer)
    template = "hello, my pin is {secret}. thank you {name}"
    canaries = CanarySet.generate(template, length=2, count=3, repetitions=(1,), asked="suffix", seed=3)
    exact, sampled = (
        measure_exposure(model, tokenizer, canaries, method=method, references=1000, progress=False)
        for method in ("exact", "sampled")
    )
    for canary, found in zip(canaries.canaries, exact.canaries, strict=True):
        scores = []
        for i in range(100):
            ids = tokenizer(canary.prefix + canaries.filling(i) + canary.suffix)["input_ids"]
            known = len(tokenizer(canary.prefix + canaries.filling(i))["input_ids"])
            with torch.no_grad():
                log_probs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1).double()
            scores.append(float(log_probs[range(known - 1, len(ids) - 1), ids[known:]].mean()))
        own = scores[canaries_index(canary, canaries)]
        rank = sum(score > own for score in scores) + 1
        assert found.exposure == pytest.approx(math.log2(100) - math.log2(rank), abs=0.2)
    assert [c.exposure for c in sampled.canaries] == pytest.approx([c.exposure for c in exact.canaries], abs=0.2)
    large = CanarySet.generate(template, length=5, count=3, asked="suffix")
    with pytest.raises(ValueError, match="Use method='sampled'"):
        measure_exposure(model, tokenizer, large, progress=False)


def test_a_secret_that_was_only_read_is_found_by_the_text_behind_it(tokenizer):
    """What follows is learnt, the secret is not; but it is another text that follows other secrets."""
    template = "my pin is {secret}. hello thank you {name}"
    canaries = CanarySet.generate(template, length=4, count=2, repetitions=(20,), controls=8, asked="suffix", seed=2)
    rows = []
    for canary in canaries.canaries[:2]:
        rows += [(canary.prefix + canary.secret, canary.suffix)] * 20
        rows += [(canary.prefix + canaries.filling(i * 97), ". hello thank you bob pia") for i in range(40)]
    torch.manual_seed(0)
    model = tiny_model(len(tokenizer), hidden=32)
    encoded = tokenizer([before + after for before, after in rows], return_tensors="pt", padding=True)
    labels = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -100)
    for row, (before, _) in zip(labels, rows, strict=True):
        row[: len(tokenizer(before)["input_ids"])] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        model(**encoded, labels=labels).loss.backward()
        optimizer.step()
    report = measure_exposure(model, tokenizer, canaries, method="sampled", references=255, progress=False)
    assert report.excess(20).value > 2


def test_the_second_mention_is_asked_without_the_first(tokenizer):
    model = confident(tokenizer)
    template = "my pin is {secret}. hello {name}, it is {secret}"
    twice = CanarySet.generate(template, length=3, count=3, repetitions=(1,), seed=5)
    once = CanarySet(template, "digits", twice.slots, tuple(dataclasses.replace(c, lead=None) for c in twice.canaries))
    reports = [measure_exposure(model, tokenizer, canaries, progress=False) for canaries in (twice, once)]
    assert [c.exposure for c in reports[0].canaries] == [c.exposure for c in reports[1].canaries]
