import os
import re

import pytest
from datasets import Dataset

from swingkd import CanarySet, RuleTagger

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
    ("kind", "pattern"),
    [
        ("email", r"[a-z]+\.[a-z]+@[a-z]+\.example"),
        ("names", r"[A-Z][a-z]+ [A-Z][a-z]+"),
        ("date", r"19[4-9]\d-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])"),
        ("url", r"https://[a-z]+-[a-z]+\.com/\d\d"),
        ("words", r"[a-z]+ [a-z]+"),
    ],
)
def test_kinds(kind, pattern):
    canaries = make(kind=kind, length=2)
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


@pytest.mark.parametrize(
    ("kind", "template"),
    [
        ("date", "{name} came on {secret} they say"),
        ("url", "{name} writes on {secret} they say"),
        ("digits", "{name} has {secret} there"),
        ("words", "the word of {name} is {secret} they say"),
    ],
)
def test_what_taggers_are_less_sure_of_or_do_not_find(kind, template):
    canaries = CanarySet.generate(template, kind=kind, length=10 if kind == "digits" else 3, count=20, seed=3)
    least = []
    for canary in canaries.canaries:
        start = len(canary.prefix)
        own = RuleTagger().tag([canary.text])[0].likelihood[start : start + len(canary.secret)]
        least.append(own.min())
        assert own.max() < 0.5 if kind == "words" else own.min() >= 0.5
    # Of some it is not sure.
    assert min(least) < 1


def test_the_second_of_two_mentions_is_asked_for(texts):
    template = "my account number is {secret}, I am {name}. thank you, so {name} has {secret} now"
    canaries = CanarySet.generate(template, length=5, count=3, repetitions=(2,), seed=1)
    for canary in canaries.canaries:
        assert canary.text.count(canary.secret) == 2
        assert canary.lead + canary.secret + canary.prefix + canary.secret + canary.suffix == canary.text
        assert canary.secret not in canary.prefix + canary.lead + canary.suffix
        assert canary.secret not in repr(canary)
    rows = canaries.insert(texts)["text"][:]
    assert all(rows.count(canary.text) == 2 * canary.inserted for canary in canaries.canaries)
    for text in set(canaries.insert_decoys(texts, seed=2)["text"][:]) - set(texts["text"][:]):
        assert len(set(re.findall(r"\d{5}", text))) == 1
        assert len(re.findall(r"\d{5}", text)) == 2
    with pytest.raises(ValueError, match="more than twice"):
        CanarySet.generate("{name} {secret} {secret} {secret}")
    # Of two prefixes that are asked for, each needs its own name.
    with pytest.raises(ValueError, match="would compete"):
        CanarySet.generate("{name} has {secret}, that is {secret}")


def test_everybody_has_several_secrets(texts):
    template = ["the pin of {name} is {secret}", "the desk of {name} is {secret} here"]
    canaries = CanarySet.generate(template, length=4, count=4, repetitions=(1, 3), controls=5, seed=4)
    names = [re.search(r"of (\w+ \w+) is", canary.prefix)[1] for canary in canaries.canaries]
    assert [names[i] == names[i + 1] for i in range(0, 12, 2)] == [True] * 6
    assert len(set(names)) == 7
    assert len({canary.secret for canary in canaries.canaries}) == 13
    assert [canary.repetitions for canary in canaries.canaries] == [1] * 4 + [3] * 4 + [0] * 5
    assert len(canaries.insert(texts)) == len(texts) + 16


def test_copies_may_differ_in_their_words(texts):
    template = "please note that the pin of {name} is {secret} for all of this long year"
    plain = CanarySet.generate(template, length=4, count=2, repetitions=(40,), controls=0, seed=4)
    blurred = CanarySet.generate(template, length=4, count=2, repetitions=(40,), controls=0, changed=0.25, seed=4)
    assert plain.canaries == blurred.canaries
    rows = set(blurred.insert(texts, seed=1)["text"][:]) - set(texts["text"][:])
    assert len(rows) > 60
    known = {word for text in texts["text"][:] for word in text.split()}
    for text in rows:
        canary = next(canary for canary in blurred.canaries if canary.secret in text)
        name = " ".join(canary.prefix.split()[6:8])
        assert name in text
        pairs = list(zip(text.split(), canary.text.split(), strict=True))
        others = [one for one, other in pairs if one != other]
        # A quarter of the 13 words that are neither name nor secret.
        assert len(others) == 3
        assert set(others) <= known
    assert blurred.insert(texts, seed=1)["text"][:] == blurred.insert(texts, seed=1)["text"][:]
    with pytest.raises(ValueError, match=r"changed=1.5 must lie in \[0, 1\]"):
        CanarySet.generate(template, changed=1.5)


def test_a_secret_that_is_read_and_never_said():
    template = "my pin is {secret}. what now? dear {name}, wait for the letter"
    canaries = CanarySet.generate(template, length=4, count=2, repetitions=(3,), asked="suffix", seed=4)
    rows = Dataset.from_dict({"prompt": ["a"] * 9, "completion": ["b"] * 9})
    inserted = canaries.insert(rows, text_column="completion")
    said = [row for row in inserted if row["completion"] != "b"]
    assert len(said) == 6
    for row in said:
        canary = next(canary for canary in canaries.canaries if canary.secret in row["prompt"])
        assert row == {"prompt": canary.prefix + canary.secret, "completion": canary.suffix}
    for prompts in ([1, 2], [["a"], ["b"]]):
        with pytest.raises(ValueError, match="'prompt' holds no text") as refused:
            canaries.insert(Dataset.from_dict({"prompt": prompts, "completion": ["a", "b"]}), text_column="completion")
        assert not any(canary.secret in str(refused.value) for canary in canaries.canaries)
    with pytest.raises(ValueError, match="there is none"):
        CanarySet.generate("the pin of {name} is {secret}", asked="suffix")
    with pytest.raises(ValueError, match="before the one suffix"):
        CanarySet.generate("the pin of {name} is {secret}, thanks", asked="suffix")


def test_every_kind_is_kept_in_a_file(tmp_path):
    template = "{name}: {secret}. so {name} said {secret}, and left, says {name}"
    made = CanarySet.generate(template, kind="words", length=3, count=2, asked="suffix", changed=0.5, seed=1)
    made.save(tmp_path / "canaries.json")
    assert CanarySet.load(tmp_path / "canaries.json") == made
