"""An audit must not clear what leaks, and says what it cannot show."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from swingkd import CanarySet, audit_model, measure_exposure
from swingkd.audit import AuditReport, Canary
from swingkd.audit.intervals import area, proportion
from swingkd.audit.loading import load_model
from swingkd.audit.membership import audit_membership, evaluate_attack, judge_scores
from swingkd.audit.pii import (
    PrivateValue,
    askable_values,
    candidate_pools,
    extract_values,
    private_values,
    with_candidate,
)
from swingkd.audit.prefix_tree import split_suffix
from swingkd.audit.records import text_records
from swingkd.audit.scores import RecordScores
from swingkd.privacy import PrivacyLedger
from swingkd.report import MetricsFile, ModelFacts, Row, audit_tables, membership_rows, model_card
from swingkd.report.runs.audits import AuditTable, findings
from swingkd.report.summary import summarise
from swingkd.tagging import RuleTagger
from swingkd.tagging.spelling import written_alike
from tests.harness import tiny_model, train_tokenizer

# --- exposure: the sentence as the model read it ---


@pytest.fixture(scope="module")
def merging():
    """A tokenizer that merges digits, across what we call the secret's end too."""
    numbers = [f"code {i * 37 % 10000:04d}00 units and {i % 100:02d}00" for i in range(400)]
    return train_tokenizer(["the code of ann lee is 19, 20", *numbers], vocab_size=460, single_digits=False)


def taught(tokenizer, text, steps=150):
    """A tiny model that knows one sentence by heart."""
    model = tiny_model(len(tokenizer), seed=3)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


def set_of(template, seed=5, length=3):
    return CanarySet.generate(template, length=length, count=1, repetitions=(1,), controls=0, seed=seed)


@pytest.mark.parametrize("method", ["exact", "sampled"])
def test_a_secret_that_shares_tokens_with_what_follows_is_found(merging, method):
    canaries = set_of("the code of {name} is {secret}00 units")
    canary = canaries.canaries[0]
    part, whole = (merging(text)["input_ids"] for text in (canary.prefix + canary.secret, canary.text))
    assert whole[: len(part)] != part  # the secret's own tokens never stood in the text
    model = taught(merging, canary.text)
    report = measure_exposure(model, merging, canaries, method=method, references=400, progress=False)
    assert report.canaries[0].exposure == pytest.approx(report.maximum)


def test_its_rank_is_that_of_brute_force_over_the_text_up_to_a_token_that_all_fillings_share(merging):
    canaries = set_of("the code of {name} is {secret}00 units")
    canary = canaries.canaries[0]
    model = tiny_model(len(merging), seed=3).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(15)
    report = measure_exposure(model, merging, canaries, progress=False)
    scores = []
    with torch.inference_mode():
        for i in range(canaries.space):
            ids = merging(canary.prefix + canaries.filling(i) + "00", return_tensors="pt")["input_ids"]
            log_probs = model(ids).logits[0, :-1].log_softmax(-1).double()
            scores.append(float(log_probs.gather(-1, ids[0, 1:, None]).sum()))
    scores = np.array(scores)
    own = scores[[canaries.filling(i) for i in range(canaries.space)].index(canary.secret)]
    assert (scores > own + 1e-6).sum() + 1 <= report.canaries[0].rank <= (scores > own - 1e-6).sum() + 0.5


@pytest.mark.parametrize("suffix", ["", ".", " units", ", please", "00 units", "00", "0.5 mg"])
def test_as_much_of_the_suffix_as_is_needed_and_no_more(merging, suffix):
    fillings = [f"{i:03d}" for i in range(1000)]
    after = split_suffix(merging, " is ", fillings, suffix)
    assert suffix.startswith(after)
    for filling in fillings:
        whole, part = (
            merging(f" is {filling}{text}", add_special_tokens=False)["input_ids"] for text in (suffix, after)
        )
        assert whole[: len(part)] == part


# --- exposure: small spaces ---


@pytest.mark.parametrize("method", ["sampled", "modelled", "exact"])
@pytest.mark.parametrize("length", [1, 2])
def test_no_exposure_exceeds_what_the_space_allows(tokenizer, method, length):
    canaries = CanarySet.generate(
        "the pin of {name} is {secret}", length=length, count=4, repetitions=(1,), controls=2, seed=1
    )
    model = taught(tokenizer, canaries.canaries[0].text)
    report = measure_exposure(model, tokenizer, canaries, method=method, references=300, progress=False)
    assert report.maximum <= math.log2(10**length) + 1e-9
    assert all(c.exposure <= report.maximum + 1e-9 for c in report.canaries)


def test_a_sample_that_is_the_whole_space_says_what_the_exact_method_says(tokenizer):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=2, count=5, repetitions=(1,), seed=1)
    model = tiny_model(len(tokenizer), seed=3).double().eval()
    exact, sampled = (
        measure_exposure(model, tokenizer, canaries, method=method, progress=False) for method in ("exact", "sampled")
    )
    for one, two in zip(exact.canaries, sampled.canaries, strict=True):
        assert one.exposure == pytest.approx(two.exposure, abs=1e-6)


def test_an_error_never_quotes_a_secret():
    canary = Canary(0, "digits", "my pin is ", "9325", ".", 1, True)
    slots = (tuple("0123456789"),) * 3
    with pytest.raises(ValueError, match="secret of canary 0 is no filling of its template") as caught:
        CanarySet("my pin is {secret}.", "digits", slots, (canary,))
    assert "9325" not in str(caught.value)


# --- found values, however they are written ---


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("+49 30 123-456", "+4930123456"),
        ("ANN@Mail.ORG", "ann@mail.org"),
        ("4111 1111 1111 1111", "4111-1111-1111-1111"),
        ("DE89 3704 0044 0532 0130 00", "de89370400440532013000"),
        ("Ann  Lee", "ann lee"),
        ("٠١٢٣", "0123"),
        ("０１２３", "0123"),  # noqa: RUF001  # full-width digits
        ("12.03.1980", "12/03/1980"),
    ],
)
def test_spellings_of_one_value(one, two):
    assert written_alike(one) == written_alike(two)


def test_different_values_stay_different():
    values = ["ann@mail.org", "ann.b@mail.org", "annb@mail.org", "12", "123", "Ann Lee", "Anna Lee", "...", "??"]
    assert len({written_alike(value) for value in values}) == len(values)


def test_a_value_that_the_model_says_in_another_spelling_is_found(monkeypatch, tokenizer):
    said = ["call +1 415 555 2671 now", "call (415) 555-0000 now"]
    monkeypatch.setattr("swingkd.audit.pii.sample_texts", lambda *args, **kwargs: said)
    monkeypatch.setattr("swingkd.audit.pii.first_tokens", lambda *args: [])
    training = ["her phone is +1-415-555-2671.", "her phone is +1.415.555.2671.", "nothing here"]
    values = private_values(text_records(training, "texts"), None, RuleTagger())
    found = extract_values(None, tokenizer, values, RuleTagger(), samples=2, progress=False)
    assert found.training == 1
    assert [(value.copies, value.samples) for value in found.found] == [(2, 1)]


def test_a_second_mention_in_another_spelling_is_replaced_with_the_first():
    text = "call +1 415 555 2671, that is +14155552671, or +1-415-555-2671 at night"
    first, last = PrivateValue(text, 5, 20, "PHONE"), PrivateValue(text, 46, 62, "PHONE")
    # Behind the first mention, the second could be copied.
    assert askable_values([last, first]) == [first]
    assert askable_values([last]) == []
    assert with_candidate(first, "12", 100) == "call 12, that is 12, or 12 at night"
    assert with_candidate(first, "12", 2) == "l 12, that is 12, or 12 at night"
    other = PrivateValue("call +1-415-555-2671", 5, 20, "PHONE")
    assert len(candidate_pools([first, other])["PHONE"]) == 1


# --- files that are not whole ---


def test_a_model_with_a_missing_tensor_is_not_audited(tmp_path, student, tokenizer):
    from safetensors.torch import load_file, save_file

    student.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of the model's tensors \(such as lm_head.weight\)"):
        load_model(str(tmp_path))


# --- intervals ---


@given(st.integers(1, 400))
def test_all_or_nothing_is_no_proof(n):
    for hits in (0, n):
        found, exact = proportion(hits, n), stats.binomtest(hits, n).proportion_ci()
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
        assert found.high - found.low > 0


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_perfect_attack_on_few_records_is_not_certain(m, n):
    members, nonmembers = np.arange(m) + 100.0, np.arange(n) * 1.0
    for inside, outside, value in ((members, nonmembers, 1.0), (nonmembers, members, 0.0)):
        found = area(inside, outside)
        assert found.value == value
        assert found.high - found.low > 0.5 / min(m, n)
    result = evaluate_attack("loss", members, nonmembers, resamples=20)
    for interval in (result.auc, result.tpr_at_1_fpr, result.tpr_at_01_fpr):
        assert interval.low < interval.value == interval.high == 1.0
    assert result.balanced_accuracy.low < result.balanced_accuracy.high


def test_delong_by_its_definition():
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.7, 1, 30).round(1), rng.normal(0, 1, 40).round(1)
    wins = (members[:, None] > others) + (members[:, None] == others) / 2
    value, spread = wins.mean(), math.sqrt(wins.mean(1).var(ddof=1) / 30 + wins.mean(0).var(ddof=1) / 40)
    parts = np.array([wins.mean(1).var(ddof=1) / 30, wins.mean(0).var(ddof=1) / 40])
    freedom = parts.sum() ** 2 / (parts**2 / [29, 39]).sum()
    reach = stats.t.ppf(0.975, freedom) * spread / (value * (1 - value))
    ends = [1 / (1 + math.exp(-(math.log(value / (1 - value)) + sign * reach))) for sign in (-1, 1)]
    found = area(members, others)
    assert found.value == pytest.approx(value)
    assert [found.low, found.high] == pytest.approx(ends, abs=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_the_intervals_of_the_area_hold_the_truth_as_often_as_they_say(shift):
    rng = np.random.default_rng(1)
    truth = stats.norm.cdf(shift / math.sqrt(2))
    held = [
        found.low <= truth <= found.high
        for found in (area(rng.normal(shift, 1, 25), rng.normal(0, 1, 25)) for _ in range(400))
    ]
    assert np.mean(held) > 0.92


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(5, 80), st.integers(5, 300), st.integers(0, 10**6))
def test_p_values_are_uniform_or_larger_without_a_difference(m, n, seed):
    rng = np.random.default_rng(seed)
    values = [evaluate_attack("loss", rng.normal(size=m), rng.normal(size=n), resamples=2).p_value for _ in range(60)]
    assert np.mean(np.array(values) < 0.05) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 60)
    assert min(values) >= 0
    assert max(values) <= 1


def test_a_thousandth_is_not_measured_on_ten():
    rng = np.random.default_rng(0)
    few = judge_scores(scores_of(rng.normal(size=60)), 30)
    assert not few["loss"].resolves(0.01)
    assert few["loss"].told(0.01) == ("n/a", "")
    assert "TPR at 1 % FPR n/a" in str(few)
    report = AuditReport(membership={"records": few})
    (table,) = audit_tables(report)
    assert "n/a" in list(table.columns[3].cells)
    assert "30 nonmembers are too few" in str(table.caption)
    facts = ModelFacts("student", PrivacyLedger(), audit=report)
    assert "tpr_at_1_fpr" not in model_card(facts)
    many = judge_scores(scores_of(rng.normal(size=300)), 100)
    assert many["loss"].resolves(0.01)
    assert not many["loss"].resolves(0.001)


def scores_of(values, **others):
    attacks = {"loss": np.asarray(values)} | {name: np.asarray(other) for name, other in others.items()}
    return RecordScores(attacks, np.asarray(values), np.asarray(values))


# --- several attacks ---


@pytest.mark.slow
def test_the_largest_of_many_bounds_holds_as_often_as_it_says():
    """Ten attacks that know nothing: together they prove something in at most one audit of twenty."""
    rng = np.random.default_rng(2)
    proved, alone = 0, 0
    for _ in range(60):
        noise = {f"attack{i}": rng.normal(size=80) for i in range(10)}
        report = judge_scores(scores_of(noise["attack0"], **noise), 40, resamples=2)
        rows = membership_rows("kd", "records=canaries", report, by_coin=True, looks=2)
        proved += max(row.value for row in rows if row.metric == "epsilon_lower") > 0
        alone += max(report.epsilon(name, delta=1e-5).epsilon for name in noise) > 0
        assert {row.value for row in rows if row.metric == "epsilon_family"} == {22}
    assert proved <= 6
    assert alone > proved


def test_an_audits_bounds_hold_together(tokenizer):
    canaries = CanarySet.generate(
        "the pin of {name} is {secret}", length=4, count=24, repetitions=(3,), controls=0, assign="coin", seed=3
    )
    report = audit_model(tiny_model(len(tokenizer)), tokenizer, canaries=canaries, exposure_canaries=2, progress=False)
    bounds = [bound for kind in report.epsilon.values() for bound in kind.values()]
    assert {round(bound.confidence, 12) for bound in bounds} == {round(1 - 0.05 / len(bounds), 12)}
    assert report.family == len(bounds)


def test_a_card_says_whether_the_largest_is_corrected(tmp_path):
    where = "transfer=A records=canary_secrets attack=loss"
    rows = [Row("kd", "transfer=A split=test", "perplexity", 2.0), Row("kd", where, "epsilon_lower", 1.5)]
    for extra, together in (([], False), ([Row("kd", where, "epsilon_family", 6)], True)):
        metrics = MetricsFile(tmp_path / f"{together}.json", "a-run", {})
        metrics.add(rows + extra)
        assert summarise(metrics.read())[0].proved["canary_secrets"].together is together


# --- positive control ---


def test_an_attack_that_misses_the_teacher_has_no_power(world, tokenizer):
    members, others, teacher, student = world
    common = {"members": members, "nonmembers": others, "progress": False}
    caught = audit_model(student, tokenizer, teacher=teacher, **common)
    missed = audit_model(student, tokenizer, teacher=tiny_model(len(tokenizer), seed=11).eval(), **common)
    alone = audit_model(student, tokenizer, **common)
    assert "loss" not in caught.powerless("records")
    assert set(missed.powerless("records")) == {r.attack for r in missed.membership["records"].results}
    for report, says in (
        (missed, "No power here: no attack tells records of the teacher either"),
        (alone, "The attacks were not tried on the teacher"),
    ):
        assert says in model_card(ModelFacts("student", PrivacyLedger(), audit=report))
    table, *_ = audit_tables(missed)
    assert set(table.columns[-1].cells) == {"no power here"}
    table, *_ = audit_tables(caught)
    assert "caught" in set(table.columns[-1].cells)
    assert caught.to_dict()["teacher"]["membership"]["records"]["results"]
    # What gets through is said first.
    told = model_card(ModelFacts("student", PrivacyLedger(), audit=audit_model(teacher, tokenizer, **common)))
    assert "Membership of records can be told, better than by chance (95 % confidence for all" in told


def test_an_attack_that_gets_through_has_power_whatever_the_teacher_knows(world, tokenizer):
    members, others, knows, blank = world
    report = audit_model(knows, tokenizer, teacher=blank, members=members, nonmembers=others, progress=False)
    assert "loss" in report.through("records")
    assert "loss" not in report.powerless("records")


def test_exposure_of_a_teacher_that_remembers_nothing_shows_nothing(tokenizer):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=3, count=6, repetitions=(5,), seed=3)
    blank = tiny_model(len(tokenizer), seed=4).eval()
    teacher = tiny_model(len(tokenizer), seed=5).eval()
    report = audit_model(blank, tokenizer, canaries=canaries, teacher=teacher, progress=False)
    assert report.exposure_is_powerless(5)
    table, *_ = audit_tables(report)
    assert "no power here" in list(table.columns[-1].cells)
    assert "No power here: the teacher does not give away" in model_card(
        ModelFacts("student", PrivacyLedger(), audit=report)
    )


def test_run_cards_do_not_take_no_power_for_protection():
    def rows(model, p_value):
        where = "records=dialogues attack=loss"
        return [
            Row(model, where, "tpr_at_1_fpr", 0.02, 0.0, 0.03),
            Row(model, where, "p_value", p_value),
            Row(model, where, "p_value_family", 3),
        ]

    blind = findings(AuditTable(rows("teacher", 0.5) + rows("swing", 0.5)))
    assert "no power here: no attack catches the teacher either" in blind[1]
    seeing = findings(AuditTable(rows("teacher", 1e-6) + rows("swing", 0.03)))
    assert "found by loss" in seeing[0]
    assert "no attack is above chance" in seeing[1]


# --- what makes numbers say less than they seem to ---


def test_a_reference_that_is_the_model_is_refused(world, tokenizer):
    members, others, teacher, student = world
    with pytest.raises(ValueError, match="Reference 2 says of every record what the audited model says"):
        audit_membership(
            teacher, tokenizer, members, others, references=[student, copy.deepcopy(teacher)], progress=False
        )


def test_near_duplicates_on_both_sides_are_told(world, tokenizer):
    members, others, teacher, _ = world
    almost = [members[0].upper() + "!", members[1].replace(":", " -"), *others[2:]]
    report = audit_membership(teacher, tokenizer, members, almost, progress=False)
    assert any("2 of 24 members are nearly the same text" in note for note in report.notes)
    assert "nearly the same text" in str(report)
    assert "nearly the same text" in model_card(
        ModelFacts("student", PrivacyLedger(), audit=AuditReport(membership={"records": report}))
    )
    assert not any(
        "nearly" in note for note in audit_membership(teacher, tokenizer, members, others, progress=False).notes
    )


def test_one_against_one_is_told(world, tokenizer):
    members, others, teacher, _ = world
    report = audit_membership(teacher, tokenizer, members[:1], others[:1], progress=False)
    assert any("1 against 1: so few records show nothing" in note for note in report.notes)
    assert report["loss"].auc.low < 0.05 or report["loss"].auc.high > 0.95
    assert report.through() == []
