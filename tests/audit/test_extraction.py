import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from swingkd import RuleTagger, audit_extraction
from swingkd.audit.continuation import extract_continuations, needed_queries
from swingkd.audit.generation import first_tokens, sample_texts
from swingkd.audit.pii import (
    askable_values,
    extract_values,
    infer_values,
    private_values,
    reconstruct_values,
    with_candidate,
)
from swingkd.audit.records import text_records
from tests.audit.test_membership_attacks import train
from tests.harness import NAMES, tiny_model

SECRETS = [f"my pin is {(i + 1) * 7919 % 9000 + 1000}, says {name}." for i, name in enumerate(NAMES)]
UNSEEN = [f"my pin is {(i + 1) * 3571 % 9000 + 1000}, says {name}." for i, name in enumerate(NAMES)]


def spans(texts):
    return Dataset.from_dict({"text": texts, "spans": [[{"start": 10, "end": 14, "label": "PIN"}] for _ in texts]})


@pytest.fixture(scope="module")
def parrot(tokenizer):
    """A model that knows ten sentences by heart: the name comes first, so each pin has a prefix of its own."""
    return train(tiny_model(len(tokenizer), hidden=48), tokenizer, turned(SECRETS), steps=150)


def turned(texts):
    return [f"{text[:-1].split('says ')[1]} says {text[:14]}." for text in texts]


def test_greedy_and_sampled_probability_are_what_generation_gives(parrot, tokenizer):
    records = text_records(turned(SECRETS) + turned(UNSEEN), "texts")
    report = extract_continuations(
        parrot, tokenizer, records, prefix_tokens=6, suffix_tokens=6, queries=(1, 5), progress=False
    )
    followed = []
    for text, name in zip(records.texts, records.names, strict=True):
        ids = tokenizer(text)["input_ids"][:12]
        out = parrot.generate(
            torch.tensor([ids[:6]]), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=2
        )
        if out[0].tolist() == ids:
            followed.append(name)
    assert report.names == tuple(followed)
    assert 0 < len(followed) < 20
    assert report.greedy.value == len(followed) / 20
    assert report.greedy.low < report.greedy.value < report.greedy.high


def test_the_probability_of_a_sample_under_top_k_and_temperature(parrot, tokenizer):
    from swingkd.audit.continuation import _suffix_scores

    ids = tokenizer(turned(SECRETS)[0])["input_ids"][:12]
    expected = 0.0
    with torch.no_grad():
        found, _ = _suffix_scores(parrot, [ids], [6], 0.7, 5)
        logits = parrot(torch.tensor([ids])).logits[0].double() / 0.7
    for place in range(6, 12):
        best = logits[place - 1].topk(5)
        if ids[place] not in best.indices:
            expected = -math.inf
            break
        expected += float(logits[place - 1, ids[place]] - best.values.logsumexp(0))
    assert found[0] == pytest.approx(expected, abs=1e-5)


@given(st.floats(-12, -1e-3), st.floats(0.05, 0.95))
def test_so_many_samples_are_enough_and_one_fewer_is_not(log_prob, p):
    n = int(needed_queries(np.array([log_prob]), p)[0])
    chance = -math.expm1(n * math.log1p(-math.exp(log_prob)))
    assert chance >= p - 1e-6
    if n > 1:
        assert -math.expm1((n - 1) * math.log1p(-math.exp(log_prob))) < p + 1e-6


def test_certain_and_impossible_texts():
    assert needed_queries(np.array([0.0, -np.inf]), 0.5).tolist() == [1, np.inf]


def test_a_prompt_is_asked_for_its_completion(parrot, tokenizer):
    data = Dataset.from_dict(
        {"prompt": [f"{name} says my pin is " for name in NAMES], "completion": [text[10:14] for text in SECRETS]}
    )
    report = extract_continuations(parrot, tokenizer, text_records(data, "canaries"), progress=False)
    assert report.texts == 10
    assert report.skipped == 0
    assert report.greedy.value > 0.8


def test_samples_stop_where_another_text_begins(parrot, tokenizer):
    state = torch.random.get_rng_state()
    drawn = sample_texts(parrot, tokenizer, ["", "ann says"], max_new_tokens=20, seed=1, progress=False)
    assert torch.equal(state, torch.random.get_rng_state())  # the caller's generator is left alone
    assert drawn == sample_texts(parrot, tokenizer, ["", "ann says"], max_new_tokens=20, seed=1, progress=False)
    assert drawn[1].startswith(" my pin is")
    assert tokenizer.bos_token not in "".join(drawn)


def values_of(texts):
    return private_values(text_records(texts, "texts"), None, RuleTagger())


def test_values_come_up_unasked_and_are_counted(parrot, tokenizer):
    report = extract_values(
        parrot,
        tokenizer,
        values_of(turned(SECRETS) * 3),
        RuleTagger(),
        unseen=values_of(turned(UNSEEN)),
        samples=100,
        max_new_tokens=20,
        progress=False,
    )
    assert report.recall > 0.5
    assert report.training == 10
    assert all(value.copies == 3 and value.label for value in report.found)
    assert list(report.found) == sorted(report.found, key=lambda value: -value.samples)
    assert report.by_chance[0] == 10
    assert report.by_chance[1] <= 2
    secrets = [text[10:14] for text in SECRETS]
    assert not any(secret in str(report.to_dict()) + repr(report) for secret in secrets)
    assert any(secret in str(report.to_dict(show_secrets=True)) for secret in secrets)


def test_a_rare_beginning_is_tried_as_often_as_a_common_one(tokenizer):
    """A text that is one of four hundred comes up a few times in two hundred samples, and hardly by plain sampling."""
    common = [f"hello {name}, thank you." for name in NAMES] * 40
    rare = ["pin of bob: 8919."]
    model = train(tiny_model(len(tokenizer), hidden=32), tokenizer, common[:60] + rare, steps=80)
    with torch.no_grad():
        start = torch.tensor([[tokenizer.bos_token_id]])
        chance = model(start).logits[0, -1].softmax(-1)[tokenizer("pin", add_special_tokens=False)["input_ids"][0]]
    assert chance < 0.1
    starts = first_tokens(model, tokenizer, 1 / 200)
    assert tokenizer("pin", add_special_tokens=False)["input_ids"][0] in starts
    assert not set(starts) & set(tokenizer.all_special_ids)
    report = extract_values(
        model, tokenizer, values_of([*common, *rare]), RuleTagger(), samples=200, max_new_tokens=16, progress=False
    )
    assert [value.value for value in report.found] == ["8919"]
    assert report.found[0].samples > 3 * 200 * float(chance) / 2


def test_values_are_inferred_and_reconstructed_from_memory(parrot, tokenizer):
    for texts, remembered in ((turned(SECRETS), True), (turned(UNSEEN), False)):
        start = [text.index("is ") + 3 for text in texts]
        records = text_records(texts, "texts")
        given = [[{"start": s, "end": s + 4, "label": "PIN"}] for s in start]
        values = private_values(records, given, RuleTagger())
        guessed = infer_values(parrot, tokenizer, values, candidates=5, progress=False)
        rebuilt = reconstruct_values(parrot, tokenizer, values, RuleTagger(), proposals=16, progress=False)
        assert guessed.chance == 0.2
        assert (guessed.right.value > 0.7) == remembered
        assert (rebuilt.right.value > 0.7) == remembered
        assert guessed.by_label.keys() == {"PIN"}


def test_a_copy_is_asked_for_once_and_what_stands_far_behind_is_seen(parrot, tokenizer):
    text = turned(SECRETS)[0]
    far = "hello " * 300 + text
    values = private_values(text_records([text] * 5 + [far], "texts"), None, RuleTagger())
    assert len(askable_values(values)) == 2
    others = private_values(text_records(turned(SECRETS)[1:], "texts"), None, RuleTagger())
    guessed = infer_values(parrot, tokenizer, values[-1:] + others, candidates=5, max_length=64, progress=False)
    assert guessed.right.n == 10


def test_both_sides_are_asked_the_same(parrot, tokenizer):
    attacks = ["continuation", "inference"]
    report = audit_extraction(
        parrot, tokenizer, spans(SECRETS), unseen=spans(UNSEEN[:4]), attacks=attacks, progress=False
    )
    assert report.inference.chance == report.unseen.inference.chance == 0.25
    assert report.continuation.halves
    assert report.unseen.continuation.halves


def test_models_with_few_positions(tokenizer):
    model = tiny_model(len(tokenizer), max_position_embeddings=64)
    drawn = sample_texts(model, tokenizer, ["hello " * 200, ""], max_new_tokens=128, several=True, progress=False)
    assert max(len(tokenizer(text)["input_ids"]) for text in drawn) < 100
    report = audit_extraction(model, tokenizer, SECRETS, attacks=["continuation"], progress=False)
    assert report.continuation.texts == 10


def test_a_models_own_settings_do_not_change_the_samples(parrot, tokenizer):
    before = sample_texts(parrot, tokenizer, [""] * 5, max_new_tokens=10, progress=False)
    kept = parrot.generation_config.repetition_penalty
    parrot.generation_config.repetition_penalty = 5.0
    try:
        assert sample_texts(parrot, tokenizer, [""] * 5, max_new_tokens=10, progress=False) == before
    finally:
        parrot.generation_config.repetition_penalty = kept


def test_short_texts_are_cut_in_the_middle_and_few_values_are_all_candidates(parrot, tokenizer):
    report = audit_extraction(parrot, tokenizer, spans(SECRETS), attacks=["continuation", "inference"], progress=False)
    assert report.continuation.halves
    assert report.continuation.texts == 10
    assert report.inference.chance == 0.1


def test_a_value_that_is_said_twice_is_asked_for_once_and_cannot_be_copied(tokenizer):
    texts = [f"{text} {text[-5:-1]} it is" for text in turned(SECRETS)]
    starts = [(text.index("my pin is ") + 10, len(text) - 10) for text in texts]
    rows = [[{"start": start, "end": start + 4, "label": "PIN"} for start in both] for both in starts]
    assert all(text[a : a + 4] == text[b : b + 4] for text, (a, b) in zip(texts, starts, strict=True))
    values = private_values(text_records(texts, "texts"), rows, RuleTagger())
    asked = askable_values(values)
    assert [value.start for value in asked] == [first for first, _ in starts]
    # What is tried stands in both places, so that a model that only copies finds nothing.
    shown = with_candidate(asked[0], "0000", 100)
    assert shown.count("0000") == 2
    assert asked[0].value not in shown
    knows, copies = (tiny_model(len(tokenizer), hidden=48) for _ in range(2))
    train(knows, tokenizer, texts, steps=150)
    assert infer_values(knows, tokenizer, values, candidates=5, progress=False).right.value > 0.7
    others = [with_candidate(value, pin, 100) for value in asked for pin in ("1111", "2222", "3333")]
    train(copies, tokenizer, others, steps=150)
    assert infer_values(copies, tokenizer, values, candidates=5, progress=False).right.value < 0.7


def test_a_value_with_nothing_before_it_is_not_asked_for(parrot, tokenizer):
    texts = [f"{text[10:14]} is mine" for text in SECRETS]
    spans_ = [[{"start": 0, "end": 4, "label": "PIN"}] for _ in texts]
    values = private_values(text_records(texts, "texts"), spans_, RuleTagger())
    assert not askable_values(values)
    with pytest.raises(ValueError, match="There is no private value to reconstruct"):
        reconstruct_values(parrot, tokenizer, values, RuleTagger(), progress=False)


def test_the_whole_call(parrot, tokenizer):
    report = audit_extraction(
        parrot,
        tokenizer,
        spans(SECRETS),
        unseen=spans(UNSEEN),
        prefix_tokens=6,
        suffix_tokens=4,
        samples=20,
        candidates=5,
        limit=5,
        progress=False,
    )
    assert report.unseen.values is None
    assert report.unseen.continuation.texts == 10
    said = str(report) + repr(report) + str(report.to_dict())
    assert "never seen: inference" in said
    assert not any(text[10:14] in said for text in SECRETS)


def test_mistakes_are_named(parrot, tokenizer):
    with pytest.raises(ValueError, match="candidates=1 must be at least 2"):
        audit_extraction(parrot, tokenizer, SECRETS, candidates=1)
    with pytest.raises(ValueError, match="prefix_tokens=0"):
        audit_extraction(parrot, tokenizer, SECRETS, attacks=["continuation"], prefix_tokens=0, progress=False)
    with pytest.raises(ValueError, match="No private value that could be asked for stands in the texts"):
        audit_extraction(parrot, tokenizer, ["hello ann"], attacks=["inference"], progress=False)
    with pytest.raises(ValueError, match="No private value that could be asked for stands in the unseen texts"):
        audit_extraction(parrot, tokenizer, SECRETS, unseen=["hello"], attacks=["inference"], progress=False)
    with pytest.raises(ValueError, match="choose some of continuation, values"):
        audit_extraction(parrot, tokenizer, SECRETS, attacks=["magic"], progress=False)
    with pytest.raises(ValueError, match="No kind of private value in the texts has two different ones"):
        audit_extraction(parrot, tokenizer, spans(SECRETS[:1]), attacks=["inference"], progress=False)
    outside = Dataset.from_dict({"text": ["hello ann"], "spans": [[{"start": 4, "end": 40, "label": "X"}]]})
    with pytest.raises(ValueError, match=r"texts\[0\]: the span 4..40 does not lie in its text of 9 characters"):
        audit_extraction(parrot, tokenizer, outside, attacks=["inference"], progress=False)
