"""Tokenised rows are not trusted: each column is looked at, all at once, before the first step."""

import collections
import functools
import importlib
import logging
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import BertForSequenceClassification, BertForTokenClassification

from swingkd import EnsembleTagger, PrivateDistillationConfig, PrivateDistillationTrainer, RuleTagger, cache_teacher
from swingkd.data import DistillationCollator
from swingkd.tagging.identity import code_fingerprint
from swingkd.tagging.rules import DEFAULT_RULES, Rule
from tests.harness import TEXTS, bert, tiny_model


@pytest.fixture
def tokenised(tokenizer):
    """A function that returns tokenised rows with some of their columns changed."""

    def make(**changes):
        ids = [tokenizer(text)["input_ids"] for text in TEXTS[:12]]
        rows = {
            "input_ids": ids,
            "labels": [list(row) for row in ids],
            "attention_mask": [[1] * len(row) for row in ids],
            "pii_likelihood": [[i % 2 * 255 for i in range(len(row))] for row in ids],
        }
        for name, change in changes.items():
            rows[name] = change(rows.get(name, [[0] * len(row) for row in ids]))
        return Dataset.from_dict(rows)

    return make


@pytest.fixture
def train(student, teacher, tokenizer, config):
    def run(rows, **fields):
        args = config(**({"protection": "noise"} | fields))
        return PrivateDistillationTrainer(
            student, args, teacher_model=teacher, train_dataset=rows, processing_class=tokenizer
        )

    return run


def at(row, place, value):
    """A change of one number."""

    def change(column):
        column = [list(part) for part in column]
        column[row][place] = value
        return column

    return change


def cut(column):
    return [part if i != 5 else part[:-1] for i, part in enumerate(column)]


def missing(column):
    return [part if i != 4 else None for i, part in enumerate(column)]


WRONG = {
    "likelihood above 255": ({"pii_likelihood": at(3, 2, 300)}, r"pii_likelihood holds 300 in row 3; .* 0 and 255"),
    "likelihood below 0": ({"pii_likelihood": at(3, 2, -1)}, "pii_likelihood holds -1 in row 3"),
    "fractions": ({"pii_likelihood": lambda c: [[0.5] * len(p) for p in c]}, r"no whole numbers.*255"),
    "id too large": ({"input_ids": at(7, 1, 10**6)}, "input_ids holds 1000000 in row 7"),
    "id below 0": ({"input_ids": at(7, 1, -5)}, "input_ids holds -5 in row 7"),
    "label too large": ({"labels": at(2, 1, 10**6)}, "labels holds 1000000 in row 2; .*or -100"),
    "label below 0": ({"labels": at(2, 1, -1)}, "labels holds -1 in row 2"),
    "mask of twos": ({"attention_mask": at(2, 1, 2)}, "attention_mask holds 2 in row 2"),
    "float ids": ({"input_ids": lambda c: [[float(i) for i in p] for p in c]}, "input_ids holds double, and whole"),
    "short labels": ({"labels": cut}, r"labels has \d+ values in row 5, input_ids has \d+"),
    "short mask": ({"attention_mask": cut}, "attention_mask has .* row 5"),
    "short likelihood": ({"pii_likelihood": cut}, "pii_likelihood has .* row 5"),
    "no row": ({"input_ids": missing}, r"input_ids has no value in row 4 \(None\)"),
    "no labels": ({"labels": missing}, "labels has no value in row 4"),
    "a hole": ({"input_ids": at(6, 1, None)}, "input_ids lacks a value within row 6"),
    "positions beyond": ({"position_ids": at(1, 1, 10**4)}, "position_ids holds 10000 in row 1"),
    "short positions": ({"position_ids": cut}, "position_ids has .* row 5"),
}


@pytest.mark.parametrize(("changes", "says"), WRONG.values(), ids=WRONG)
def test_wrong_columns_are_named_with_their_row(train, tokenised, changes, says):
    with pytest.raises(ValueError, match=says):
        train(tokenised(**changes))


@pytest.mark.parametrize(("changes", "says"), WRONG.values(), ids=WRONG)
def test_rows_to_evaluate_on_and_to_cache_are_looked_at_too(
    config, student, teacher, tokenizer, tokenised, changes, says
):
    with pytest.raises(ValueError, match=says):
        PrivateDistillationTrainer(
            student,
            config(),
            teacher_model=teacher,
            train_dataset=tokenised(),
            eval_dataset=tokenised(**changes),
            processing_class=tokenizer,
        )
    with pytest.raises(ValueError, match=says):
        cache_teacher(teacher, config(), tokenised(**changes), tokenizer)


def test_a_stream_is_looked_at_as_it_flows(train, tokenised):
    for changes, says in (WRONG["likelihood above 255"], WRONG["id too large"], WRONG["short labels"]):
        stream = tokenised(**changes).to_iterable_dataset()
        with pytest.raises(ValueError, match=says):
            train(stream, max_steps=3).train()


def test_right_rows_train(train, tokenised):
    for changes in ({}, {"position_ids": lambda c: [list(range(len(p))) for p in c]}):
        train(tokenised(**changes)).train()
        train(tokenised(**changes).to_iterable_dataset()).train()


@pytest.mark.parametrize("fused", [True, False])
def test_padding_is_not_learnt(train, tokenizer, fused):
    """Rows padded by hand, without labels: what the mask leaves out is no text."""
    encoded = [tokenizer(text)["input_ids"] for text in TEXTS[:12]]
    longest = max(map(len, encoded)) + 20
    padded = {
        "input_ids": [ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids in encoded],
        "attention_mask": [[1] * len(ids) + [0] * (longest - len(ids)) for ids in encoded],
    }
    fields = {"protection": "none", "fused_loss": fused, "per_device_eval_batch_size": 1}
    plain, by_hand = (train(Dataset.from_dict(rows), **fields) for rows in ({"input_ids": encoded}, padded))
    wanted, found = (t.evaluate(t.train_dataset)["eval_perplexity"] for t in (plain, by_hand))
    assert found == pytest.approx(wanted, rel=1e-5)
    batch = DistillationCollator(tokenizer.pad_token_id)([{k: v[0] for k, v in padded.items()}])
    assert (batch["labels"][0, len(encoded[0]) :] == -100).all()


def test_a_cache_of_rows_padded_by_hand(config, student, teacher, tokenizer):
    ids = tokenizer(TEXTS[0])["input_ids"]
    rows = Dataset.from_dict({"input_ids": [[*ids, 2, 2, 2]] * 4, "attention_mask": [[1] * len(ids) + [0] * 3] * 4})
    cached = cache_teacher(teacher, config(protection="none"), rows, tokenizer, top_k=4)
    assert len(cached[0]["teacher_ids"]) == 4 * (len(ids) - 1)
    PrivateDistillationTrainer(
        student, config(protection="none"), teacher_model=None, train_dataset=cached, processing_class=tokenizer
    ).train()


def test_classifiers_columns(config, tokenizer):
    ids = [tokenizer(text)["input_ids"] for text in TEXTS[:6]]
    size = len(tokenizer)
    for kind, labels, says in (
        (BertForSequenceClassification, [0, 1, 2, 7, 0, 1], "none of the model's 3 classes"),
        (BertForSequenceClassification, [0, 1, 2, None, 0, 1], r"none of the model's 3 classes|no value in row 3"),
        (BertForTokenClassification, [[1] * len(row) for row in ids[:5]] + [[1]], "labels has 1 values in row 5"),
    ):
        models = [bert(kind, size, num_labels=3) for _ in range(2)]
        rows = Dataset.from_dict({"input_ids": ids, "labels": labels})
        with pytest.raises(ValueError, match=says):
            PrivateDistillationTrainer(
                models[0],
                config(protection="none"),
                teacher_model=models[1],
                train_dataset=rows,
                processing_class=tokenizer,
            )
    models = [bert(BertForSequenceClassification, size, num_labels=3) for _ in range(2)]
    teachers = {"teacher_input_ids": [[1, 10**6]] * 6, "labels": [0] * 6, "input_ids": ids}
    with pytest.raises(ValueError, match="teacher_input_ids holds 1000000 in row 0"):
        PrivateDistillationTrainer(
            models[0],
            config(protection="none"),
            teacher_model=models[1],
            train_dataset=Dataset.from_dict(teachers),
            processing_class=tokenizer,
            teacher_processing_class=tokenizer,
        )


def test_a_million_tokens_are_looked_at_in_a_moment(tokenizer, config):
    """In bulk: no Python object is made of a token (a loop would take minutes and gigabytes)."""
    ids = np.zeros((4000, 250), np.int64)
    ids[3999, 249] = 10**7
    rows = Dataset.from_dict({"input_ids": ids.tolist()})
    with pytest.raises(ValueError, match="input_ids holds 10000000 in row 3999"):
        PrivateDistillationTrainer(
            tiny_model(len(tokenizer), seed=1),
            config(protection="none"),
            teacher_model=tiny_model(len(tokenizer), seed=2),
            train_dataset=rows,
            processing_class=tokenizer,
        )


# --- tags from a cache ---

MODULE = """
import numpy as np
from {helper} import WORD

class Mine:
    def char_likelihood(self, texts):
        found = []
        for text in texts:
            values = np.zeros(len(text), np.float32)
            place = text.find(WORD)
            values[place:place + len(WORD)] = {likelihood}
            found.append(values)
        return found
"""


def tags(folder, tokenizer, student, teacher, name):
    """Tag rows that lie on disk with the tagger of a module, imported anew."""
    for loaded in [name, f"{name}_words"]:
        sys.modules.pop(loaded, None)
    tagger = __import__(name).Mine()
    args = PrivateDistillationConfig(
        output_dir=str(folder / "out"), use_cpu=True, report_to=[], protection="noise", max_length=64
    )
    rows = Dataset.load_from_disk(folder / "rows")
    trainer = PrivateDistillationTrainer(
        student, args, teacher_model=teacher, train_dataset=rows, processing_class=tokenizer, tagger=tagger
    )
    return np.concatenate(trainer.train_dataset["pii_likelihood"][:])


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Dataset.from_dict({"text": TEXTS[:12]}).save_to_disk(tmp_path / "rows")

    def write(likelihood="1.0", word="pin", name="my_tagger_of_today"):
        (tmp_path / f"{name}_words.py").write_text(f"WORD = {word!r}\n")
        (tmp_path / f"{name}.py").write_text(MODULE.format(likelihood=likelihood, helper=f"{name}_words"))
        return name

    yield write
    for name in list(sys.modules):
        if name.startswith("my_tagger_of_today"):
            del sys.modules[name]


def test_tags_of_a_tagger_whose_code_was_edited_are_not_used_again(
    module, tmp_path, tokenizer, student, teacher, caplog
):
    first = tags(tmp_path, tokenizer, student, teacher, module())
    edited = tags(tmp_path, tokenizer, student, teacher, module(likelihood="0.5"))
    other_word = tags(tmp_path, tokenizer, student, teacher, module(word="hello"))
    assert (first > 0).any()
    assert edited.max() == 128
    assert not np.array_equal(first > 0, other_word > 0)
    assert "tags come from the cache" not in caplog.text


def test_the_log_says_when_tags_come_from_a_cache(module, tmp_path, tokenizer, student, teacher, caplog, monkeypatch):
    name = module()
    first = tags(tmp_path, tokenizer, student, teacher, name)
    # A second later, as a second run would be.
    monkeypatch.setattr("swingkd.data.prepare.time.time", lambda: 2e9)
    with caplog.at_level(logging.WARNING):
        again = tags(tmp_path, tokenizer, student, teacher, name)
    assert np.array_equal(first, again)
    assert "The tags come from the cache of an earlier run" in caplog.text


def test_the_fingerprint_of_the_librarys_taggers_is_that_of_their_code(monkeypatch, tmp_path):
    assert code_fingerprint(None) is None
    one = code_fingerprint(RuleTagger())
    assert one == code_fingerprint(RuleTagger())
    import swingkd.tagging.rules as rules

    copied = tmp_path / "rules.py"
    copied.write_text(Path(rules.__file__).read_text() + "\n# edited\n")
    monkeypatch.setattr(rules, "__file__", str(copied))
    assert code_fingerprint(RuleTagger()) != one


HELPER = "def strength(text):\n    return {value}\n\nclass Kept:\n    def of(self, text):\n        return {value}\n"


def given_as(how, helper):
    """A tagger that reaches a helper's code in a way of its own."""
    strength, kept = helper.strength, helper.Kept()
    given = {
        "a partial": lambda: functools.partial(strength, "text"),
        "a cache": lambda: functools.lru_cache(strength),
        "a bound method": lambda: kept.of,
        "a module": lambda: helper,
        "a lambda": lambda: lambda text: strength(text),
        "a global": lambda: eval("lambda text: helper.strength(text)", {"helper": helper}),
        "a bag": lambda: types.SimpleNamespace(rate=strength),
        "a deque": lambda: collections.deque([{"rate": types.MappingProxyType({strength: 1})}]),
        "an ensemble": lambda: EnsembleTagger(
            RuleTagger((*DEFAULT_RULES, Rule("X", re.compile("x"), strength, ("x",))))
        ),
    }[how]()

    class Tagger:
        def __init__(self):
            self.rate = given

    return Tagger()


@pytest.mark.parametrize(
    "how", [*"a partial,a cache,a bound method,a module,a lambda,a global,a bag,a deque,an ensemble".split(",")]
)
def test_a_tagger_is_known_by_its_code_however_it_holds_it(how, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    prints = []
    for value in ("1.0", "1.0", "0.5"):
        (tmp_path / "my_tagger_of_today.py").write_text(HELPER.format(value=value))
        sys.modules.pop("my_tagger_of_today", None)
        importlib.invalidate_caches()
        helper = importlib.import_module("my_tagger_of_today")
        prints.append(code_fingerprint(given_as(how, helper)))
    sys.modules.pop("my_tagger_of_today")
    assert prints[0] == prints[1] != prints[2]


def test_a_strange_tagger_has_a_fingerprint():
    """Attributes that raise when they are asked for, and one that holds itself."""

    class Strange:
        __slots__ = "inner"

        def __getattr__(self, name):
            raise RuntimeError(name)

        def __call__(self):
            return None

    class Tagger:
        def __init__(self):
            self.own, self.strange = self, Strange()

        @property
        def __wrapped__(self):
            raise KeyError("never asked")

    assert code_fingerprint(Tagger()) == code_fingerprint(Tagger())
