"""Rows that belong together are in one fold: of one person, of the same text, of nearly the same text."""

from collections import defaultdict

import datasets
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from swingkd import CanarySet
from swingkd.data.columns import FOLD
from swingkd.data.folds import Folds

WORDS = [f"word{i}" for i in range(400)]


def text_of(seed, length=60):
    return " ".join(np.random.default_rng(seed).choice(WORDS, length))


def folds_by(values, folds):
    found = defaultdict(set)
    for value, fold in zip(values, folds.of_row.tolist(), strict=True):
        found[value].add(fold)
    return found


@given(st.lists(st.integers(0, 30), min_size=40, max_size=120), st.integers(2, 4), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_all_rows_of_a_person_are_in_one_fold(people, k, seed):
    rows = Dataset.from_dict({"text": [text_of(1000 + i) for i in range(len(people))], "patient": people})
    most = max(map(people.count, people))
    # Of a person with more rows than a fold may hold, the test below is about.
    assume(len(set(people)) >= k and most * k < len(people))
    folds = Folds.of(rows, k, group_by="patient", seed=seed)
    assert all(len(of) == 1 for of in folds_by(people, folds).values())
    assert set(folds.of_row.tolist()) == set(range(k))
    for fold in range(k):
        left = set(folds.without(rows, fold)["patient"])
        assert left.isdisjoint(np.array(people)[folds.of_row == fold].tolist())


@given(st.lists(st.integers(0, 12), min_size=30, max_size=60), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_texts_that_are_equal_but_for_case_and_blanks_are_in_one_fold(numbers, random):
    texts = [text_of(i, 9) for i in numbers]
    written = [random.choice([text, text.upper(), text.replace(" ", "  "), f"\n{text} "]) for text in texts]
    assume(len(set(numbers)) > 1 and 2 * max(map(numbers.count, numbers)) < len(numbers))
    folds = Folds.of(Dataset.from_dict({"text": written}), 2, near_duplicates=False)
    assert all(len(of) == 1 for of in folds_by(texts, folds).values())


@pytest.mark.parametrize("near", [True, False])
def test_near_duplicates_are_in_one_fold(near):
    texts, own = [], []
    for i in range(40):
        words = text_of(i, 150).split()
        for place in (3, 60, 140):
            words[place] = f"changed{i}"
            texts.append(" ".join(words))
            own.append(i)
    together = [
        len(of) == 1
        for of in folds_by(own, Folds.of(Dataset.from_dict({"text": texts}), 3, near_duplicates=near, seed=1)).values()
    ]
    assert all(together) == near


def test_copies_of_a_canary_are_in_one_fold():
    canaries = CanarySet.generate("the pin of {name} is {secret}", count=6, repetitions=(1, 10), seed=0)
    rows = canaries.insert(Dataset.from_dict({"text": [text_of(i) for i in range(300)]}))
    folds = folds_by(rows["text"], Folds.of(rows, 3))
    copied = [canary.text for canary in canaries.canaries if canary.inserted]
    assert copied
    assert all(len(folds[text]) == 1 for text in copied)
    # And those of different people are not all in one.
    assert set().union(*(folds[text] for text in copied)) == {0, 1, 2}


def test_all_that_is_text_in_a_row_is_read():
    turns = [[{"role": "user", "content": text_of(i)}, {"role": "assistant", "content": "yes"}] for i in range(20)]
    rows = Dataset.from_dict({"messages": [*turns, *turns]})
    assert all(len(of) == 1 for of in folds_by([*range(20), *range(20)], Folds.of(rows, 2)).values())


def test_folds_are_of_one_size_and_drawn():
    rows = Dataset.from_dict({"text": [text_of(i) for i in range(100)]})
    folds = Folds.of(rows, 3)
    assert sorted(np.bincount(folds.of_row)) == [33, 33, 34]
    assert Folds.of(rows, 3).digest() != folds.digest()
    assert Folds.of(rows, 3, seed=4).digest() == Folds.of(rows, 3, seed=4).digest()
    assert folds.add_to(rows)[FOLD] == folds.of_row.tolist()
    # Dealt again, the old column must go first: teachers of both divisions may be about.
    dealt = folds.add_to(rows)
    assert folds.add_to(dealt)[FOLD] == dealt[FOLD]
    again = Folds.of(dealt, 3, seed=5)
    with pytest.raises(ValueError, match="Remove the column teacher_fold"):
        again.add_to(dealt)
    assert again.add_to(dealt.remove_columns(FOLD))[FOLD] == again.of_row.tolist()
    assert repr(folds) in {
        "Folds(k=3, rows=[34, 33, 33])",
        "Folds(k=3, rows=[33, 34, 33])",
        "Folds(k=3, rows=[33, 33, 34])",
    }


@pytest.mark.parametrize(
    ("rows", "fields", "says"),
    [
        ({"text": ["a", "b"]}, {"k": 1}, "2 or more"),
        ({"text": ["a", "b"]}, {"k": 2, "similarity": 0}, "similarity"),
        ({"text": ["a", "b"]}, {"k": 2, "group_by": "patient"}, "no column"),
        ({"label": [1, 2, 3]}, {"k": 2}, "near_duplicates=False"),
        ({"text": ["a", "a", "b"]}, {"k": 3}, "too few for 3 folds"),
        ({"text": ["a"] * 90 + [text_of(i) for i in range(10)]}, {"k": 2}, "holds 90%"),
    ],
)
def test_what_cannot_be_dealt_is_refused(rows, fields, says):
    with pytest.raises(ValueError, match=says):
        Folds.of(Dataset.from_dict(rows), **fields)


def test_rows_are_known_again_in_any_order(tmp_path):
    rows = Dataset.from_dict({"text": [text_of(i) for i in range(30)], "label": [0] * 30})
    folds = Folds.of(rows, 3)
    folds.save(tmp_path / "_private" / "folds.safetensors")
    assert (tmp_path / "_private" / "folds.safetensors").stat().st_mode & 0o077 == 0
    folds = Folds.load(tmp_path / "_private" / "folds.safetensors")
    known = dict(zip(rows["text"], folds.of_row.tolist(), strict=True))
    other = rows.shuffle(seed=1).select(range(17)).remove_columns("label")
    assert folds.add_to(other)[FOLD] == [known[text] for text in other["text"]]
    for fold in range(3):
        assert all(
            known[text] not in (fold, (fold + 1) % 3) for text in folds.without(other, fold, (fold + 1) % 3)["text"]
        )


def test_images_are_known_again():
    pictures = [Image.fromarray(np.random.default_rng(i // 2).integers(0, 255, (4, 4), np.uint8)) for i in range(20)]
    rows = Dataset.from_dict({"image": pictures, "label": [0] * 20}).cast_column("image", datasets.Image())
    folds = Folds.of(rows, 2, near_duplicates=False)
    assert all(len(of) == 1 for of in folds_by([i // 2 for i in range(20)], folds).values())
    order = np.random.default_rng(0).permutation(20)
    assert folds.add_to(rows.select(order))[FOLD] == folds.of_row[order].tolist()


def test_rows_that_were_changed_keep_their_fold_and_others_are_refused():
    rows = Dataset.from_dict({"text": [text_of(i) for i in range(8)]})
    folds = Folds.of(rows, 2)
    made_up = folds.add_to(rows).map(lambda row: {"text": row["text"] + " and a surrogate"})
    assert folds.add_to(made_up)[FOLD] == folds.of_row.tolist()
    with pytest.raises(ValueError, match="the first: row 0"):
        folds.add_to(made_up.remove_columns(FOLD))
    with pytest.raises(ValueError, match="fold 7, and there are folds 0 to 1"):
        folds.add_to(made_up.remove_columns(FOLD).add_column(FOLD, [0] * 7 + [7]))
    with pytest.raises(ValueError, match="these lack text"):
        folds.add_to(rows.rename_column("text", "note"))


@given(st.lists(st.integers(0, 400), min_size=40, max_size=80), st.integers(2, 3), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_folds_drawn_apart_are_moved_by_no_other_row(people, k, seed):
    rows = Dataset.from_dict({"text": [f"row {i}" for i in range(len(people))], "patient": people})
    # Else a fold may be left empty.
    assume(len(set(people[1:])) > 5 * k)
    folds = Folds.apart(rows, k, group_by="patient", seed=seed)
    fewer = Folds.apart(rows.select(range(1, len(people))), k, group_by="patient", seed=seed)
    assert folds.of_row[1:].tolist() == fewer.of_row.tolist()
    assert all(len(of) == 1 for of in folds_by(people, folds).values())
    assert folds.unit == "patient"


def test_texts_drawn_apart_share_a_fold_where_they_are_equal(tmp_path):
    rows = Dataset.from_dict({"text": [text_of(i // 2, 8) for i in range(60)]})
    folds = Folds.apart(rows, 2)
    assert folds.of_row[::2].tolist() == folds.of_row[1::2].tolist()
    folds.save(tmp_path / "folds.safetensors")
    assert Folds.load(tmp_path / "folds.safetensors").unit == "record"
    assert Folds.of(rows, 2).unit is None


def test_streams_and_other_files_are_refused(tmp_path):
    rows = Dataset.from_dict({"text": [text_of(i) for i in range(8)]})
    with pytest.raises(ValueError, match="a stream"):
        Folds.of(rows.to_iterable_dataset(), 2)
    with pytest.raises(ValueError, match="a stream"):
        Folds.of(rows, 2).add_to(rows.to_iterable_dataset())
    (tmp_path / "folds.safetensors").write_bytes(b"no folds")
    with pytest.raises(ValueError, match="Deal them again"):
        Folds.load(tmp_path / "folds.safetensors")


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize(
    "columns",
    [{"text": None}, {"prompt": None, "completion": "yes"}, {"messages": None}, {"note": None}],
    ids=lambda columns: next(iter(columns)),
)
def test_an_id_beside_a_text_does_not_make_two_rows_of_one(columns, near):
    """Copies of a short secret, each with a date of its own: a teacher would have seen the other one."""
    own = [f"my pin is {number // 2}" for number in range(40)]
    rows = {name: own if value is None else [value] * 40 for name, value in columns.items()}
    if "messages" in rows:
        rows["messages"] = [[{"role": "user", "content": text}] for text in own]
    data = Dataset.from_dict({"id": [f"a{number}" for number in range(40)]} | rows)
    named = ["note"] if "note" in rows else None
    folds = Folds.of(data, 2, columns=named, near_duplicates=near, seed=1)
    assert all(len(of) == 1 for of in folds_by(own, folds).values())
    assert "id" not in folds.columns
    # Whoever asks about the text alone is told its fold.
    if "messages" not in rows:
        whole = [text + rows["completion"][0] if "completion" in rows else text for text in own]
        assert folds.of_texts(whole).tolist() == folds.of_row.tolist()
    else:
        with pytest.raises(ValueError, match="template"):
            folds.of_texts(own)


@pytest.mark.parametrize("column", ["image", "scan"])
def test_equal_pictures_in_files_of_other_names_are_in_one_fold(column, tmp_path):
    names = []
    for number in range(20):
        names.append(str(tmp_path / f"{number}.png"))
        shown = np.random.default_rng(number // 2).integers(0, 255, (4, 4), np.uint8)
        Image.fromarray(shown).save(names[-1])
    rows = Dataset.from_dict({column: names, "file": names}).cast_column(column, datasets.Image())
    folds = Folds.of(rows, 2, near_duplicates=False)
    assert all(len(of) == 1 for of in folds_by([i // 2 for i in range(20)], folds).values())


@pytest.mark.parametrize("nobody", [None, "", float("nan")])
@pytest.mark.parametrize("deal", [Folds.of, Folds.apart])
def test_rows_that_name_nobody_are_not_one_person(nobody, deal, tmp_path):
    known = list(map(float, range(10))) if nobody != nobody else [f"p{i}" for i in range(10)]
    people = known + [nobody] * 90
    rows = Dataset.from_dict({"text": [text_of(i) for i in range(100)], "patient": people})
    folds = deal(rows, 2, group_by="patient", seed=1)
    assert 20 < folds.of_row[10:].sum() < 70
    folds.save(tmp_path / "folds.safetensors")
    assert Folds.load(tmp_path / "folds.safetensors").group_by == "patient"


def test_rows_of_tokens_are_told_by_their_tokens():
    rows = Dataset.from_dict({"id": [f"a{i}" for i in range(20)], "input_ids": [[i // 2, 5] for i in range(20)]})
    folds = Folds.of(rows, 2, near_duplicates=False)
    assert all(len(of) == 1 for of in folds_by([i // 2 for i in range(20)], folds).values())
