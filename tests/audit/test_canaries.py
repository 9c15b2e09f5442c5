import os
import re

import pytest
from datasets import Dataset

from swingkd import CanarySet

TEMPLATE = "the pin of {name} is {secret}, thanks"


def make(**options):
    return CanarySet.generate(TEMPLATE, **({"length": 4, "count": 3, "repetitions": (1, 10), "seed": 1} | options))


def test_levels_controls_and_distinct_prefixes():
    canaries = make().canaries
    assert [c.repetitions for c in canaries] == [1] * 3 + [10] * 3 + [0] * 3
    assert [c.inserted for c in canaries] == [True] * 6 + [False] * 3
    assert len({c.prefix for c in canaries}) == len({c.secret for c in canaries}) == 9
    assert all(re.fullmatch(r"the pin of [a-z]+ [a-z]+ is \d{4}, thanks", c.text) for c in canaries)


def test_insert_puts_each_canary_in_as_often_as_it_says(texts):
    canaries = make()
    data = canaries.insert(texts.add_column("id", list(range(len(texts)))))
    for canary in canaries.canaries:
        assert data["text"].count(canary.text) == canary.repetitions * canary.inserted
    kept = [row for row in data if row["id"] is not None]
    assert [row["id"] for row in kept] == list(range(len(texts)))  # the order of the others stays
    assert [i for i, row in enumerate(data) if row["id"] is None][-1] > len(texts) // 2  # scattered, not appended


def test_decoys_ask_for_secrets_without_holding_any(texts):
    canaries = make()
    data = canaries.insert_decoys(texts, seed=3)
    assert len(data) == len(texts) + 33
    for canary in canaries.canaries:
        assert canary.text not in data["text"]
        assert sum(t.startswith(canary.prefix) for t in data["text"]) == canary.repetitions


def test_coin_leaves_about_half_out():
    canaries = make(count=200, repetitions=(1,), controls=0, assign="coin").canaries
    assert 60 < sum(c.inserted for c in canaries) < 140


def test_a_seed_repeats_and_no_seed_does_not():
    assert make().canaries == make().canaries
    assert make(seed=None).canaries != make(seed=None).canaries


@pytest.mark.parametrize(
    ("kind", "pattern"), [("email", r"[a-z]+\.[a-z]+@[a-z]+\.example"), ("names", r"[A-Z][a-z]+ [A-Z][a-z]+")]
)
def test_kinds(kind, pattern):
    canaries = make(kind=kind)
    assert all(re.fullmatch(pattern, c.secret) for c in canaries.canaries)
    assert canaries.space == len({canaries.filling(i) for i in range(canaries.space)})


def test_save_load_and_no_secret_in_reprs(tmp_path):
    canaries = make()
    path = tmp_path / "_private" / "canaries.json"
    canaries.save(path)
    assert CanarySet.load(path) == canaries
    assert os.stat(path).st_mode & 0o777 == 0o600
    for canary in canaries.canaries:
        assert canary.secret not in repr(canary) + repr(canaries)


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        ("no secret here {name}", {}, r"has no \{secret\}"),
        ("the pin is {secret}", {}, r"would compete.*\{name\}"),
        ("{secret} of {name}", {}, r"\{name\} must come before"),
        (TEMPLATE, {"length": 1, "count": 20}, "only .* names and 10 secrets"),
        (TEMPLATE, {"count": 0}, "must be positive"),
    ],
)
def test_mistakes(template, options, message):
    with pytest.raises(ValueError, match=message):
        CanarySet.generate(template, **({"length": 4, "count": 3} | options))


def test_insert_into_an_unknown_column():
    with pytest.raises(ValueError, match=r"no column 'text' \(it has note\)"):
        make().insert(Dataset.from_dict({"note": ["x"]}))
