"""A data set with a column that says whose each row is becomes clients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset

from swingkd.decentralized import PartitionSettings, load_partition
from swingkd.decentralized.partition import ALPHABET, mislabelled, scarce


def table(folder, people: int = 6, rows: int = 20) -> dict:
    random = np.random.default_rng(0)
    data = [
        {
            "who": person,
            "recording": f"{person}-{n // 4}",
            "label": int(random.integers(3)),
            "score": n,
            "gap": None if n == 5 else 1.0,
            "missing": None if n == 5 else 1,
            "sure": float(n % 5) / 4,
            "a": random.normal(5, 3),
            "b": random.normal(),
            "s": random.normal(2, 4, 7),
            "t": random.normal(size=7),
            "text": f"My number is {person}{n}{n}-4711-22, call me.",
        }
        for person in range(people)
        for n in range(rows)
    ]
    path = folder / "table.parquet"
    Dataset.from_list(data).to_parquet(path)
    return {"data": {"path": "parquet", "data_files": str(path), "split": "train"}, "client": "who"}


def settings(folder, **fields) -> PartitionSettings:
    defaults = {"label": "label", "inputs": ("a", "b"), "reference_clients": 2, "reference_examples": 30}
    return PartitionSettings(**(table(folder) | defaults | fields))


def settings_of(path, **fields) -> PartitionSettings:
    data = {"path": "parquet", "data_files": str(path), "split": "train"}
    defaults = {"label": "label", "inputs": ("a", "b"), "reference_clients": 2, "reference_examples": 30}
    return PartitionSettings(**({"data": data, "client": "who"} | defaults | fields))


def test_everybody_is_a_client_or_gives_reference_examples(tmp_path):
    people = load_partition(settings(tmp_path))
    assert len(people.train) == len(people.test) == 4
    assert len(people.reference) == 30
    for name, own in people.train.items():
        assert (len(own), len(people.test[name])) == (15, 5)
        assert own.classes == people.reference.classes == 3
    parts = [own for part in (people.train, people.test) for own in part.values()]
    known = {tuple(row.tolist()) for own in parts for row in own.inputs}
    assert len(known) == 80
    assert not known & {tuple(row.tolist()) for row in people.reference.inputs}


def test_the_scale_is_that_of_the_reference_people(tmp_path):
    people = load_partition(settings(tmp_path, reference_examples=40))
    assert torch.allclose(people.reference.inputs.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(people.reference.inputs.std(0, correction=0), torch.ones(2), atol=1e-5)


def test_signals_are_channels_by_time(tmp_path):
    people = load_partition(settings(tmp_path, inputs=("s", "t"), reference_examples=40))
    assert people.reference.inputs.shape == (40, 2, 7)
    assert torch.allclose(people.reference.inputs.mean((0, 2)), torch.zeros(2), atol=1e-5)


def test_classes_have_names(tmp_path):
    path = table(tmp_path)["data"]["data_files"]
    rows = Dataset.from_parquet(path)
    named = rows.map(lambda row: {"label": ("walk", "run", "sit")[row["label"]]}, features=None)
    named.to_parquet(path)
    people = load_partition(settings_of(path))
    assert people.reference.classes == 3
    # In the order of the alphabet, or in that which is said; the same rows, the same examples.
    told = load_partition(settings_of(path, classes=("walk", "run", "sit", "lie")))
    assert told.reference.classes == 4
    order = torch.tensor([1, 2, 0])  # run, sit, walk among walk, run, sit
    assert torch.equal(order[people.reference.labels], told.reference.labels)
    with pytest.raises(ValueError, match=r"1 names that are no class, such as 'sit'\. There are walk, run"):
        load_partition(settings_of(path, classes=["walk", "run"]))


def test_missing_values_are_refused_dropped_or_filled_and_counted(tmp_path, caplog):
    with pytest.raises(ValueError, match=r"'gap' holds what is no finite number in \d+ of \d+ rows"):
        load_partition(settings(tmp_path, inputs=("a", "gap")))
    with caplog.at_level("WARNING"):
        dropped = load_partition(settings(tmp_path, inputs=("a", "gap"), missing="drop"))
    assert "6 of 120 rows are left out" in caplog.text
    assert {len(own) + len(dropped.test[name]) for name, own in dropped.train.items()} == {19}
    filled = load_partition(settings(tmp_path, inputs=("a", "gap"), missing="fill"))
    assert {len(own) + len(filled.test[name]) for name, own in filled.train.items()} == {20}
    assert all(bool(own.inputs.isfinite().all()) for own in filled.train.values())
    # A label is never made up.
    with pytest.raises(ValueError, match="whole and none missing"):
        load_partition(settings(tmp_path, label="missing", missing="fill"))
    assert load_partition(settings(tmp_path, label="missing", missing="drop", classes=2)).reference.classes == 2
    with pytest.raises(ValueError, match="missing='guess' is none of refuse, drop, fill"):
        settings(tmp_path, missing="guess")


def test_recordings_stay_together_and_validation_never_sees_the_test(tmp_path):
    tested = load_partition(settings(tmp_path, together="recording", inputs=("score",)))
    tuned = load_partition(settings(tmp_path, together="recording", inputs=("score",), validate=True))
    for name, own in tested.test.items():
        # Five recordings of four rows: the first and the last are tested.
        assert len(own) == 8
        test = set(own.inputs[:, 0].tolist())
        learnt, validated = (set(part[name].inputs[:, 0].tolist()) for part in (tuned.train, tuned.test))
        assert len(validated) == 4
        assert not test & (learnt | validated)
        assert learnt | validated == set(tested.train[name].inputs[:, 0].tolist())


def test_labels_are_cut_and_unsure_rows_left_out(tmp_path):
    people = load_partition(settings(tmp_path, label="score", label_cuts=(5.0, 15.0), at_least={"sure": 0.5}))
    assert people.reference.classes == 3
    assert sum(len(part[name]) for part in (people.train, people.test) for name in part) == 4 * 12


def test_reference_people_by_name_and_a_node_with_its_own_rows_alone(tmp_path):
    everybody = load_partition(settings(tmp_path, reference_clients=("1", "3"), classes=4))
    assert set(everybody.train) == {"0", "2", "4", "5"}
    path = tmp_path / "own.parquet"
    rows = Dataset.from_parquet(str(tmp_path / "table.parquet"))
    rows.filter(lambda row: row["who"] in (1, 3, 5)).to_parquet(path)
    node = {"path": "parquet", "data_files": str(path), "split": "train"}
    alone = load_partition(settings(tmp_path, data=node, reference_clients=("1", "3"), classes=4))
    assert alone.reference.fingerprint() == everybody.reference.fingerprint()
    assert list(alone.train) == ["5"]
    assert torch.equal(alone.train["5"].inputs, everybody.train["5"].inputs)


def test_an_example_of_text_is_some_characters_and_the_next(tmp_path):
    people = load_partition(settings(tmp_path, label=None, inputs=(), text="text", context=10, stride=3, tag=True))
    own = people.train[min(people.train)]
    ids, labels = own.inputs["input_ids"], own.labels
    assert ids.shape[1] == 10
    text = "".join(ALPHABET[i] for i in ids[0]) + ALPHABET[labels[0]]
    assert text == "My number i"
    # The third window begins six characters later.
    assert "".join(ALPHABET[i] for i in ids[2]).startswith("ber is ")
    assert own.likelihood is not None
    assert len(own.likelihood) == len(own)
    assert 0.05 < float((own.likelihood > 0.5).float().mean()) < 0.6
    spoken = [ALPHABET[label] for label, p in zip(labels, own.likelihood, strict=True) if p > 0.5]
    assert sum(c.isdigit() or c == "-" for c in spoken) > 0.8 * len(spoken)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"inputs": ("a", "nothing")}, "no column 'nothing'"),
        ({"reference_clients": 5}, "6 people, of whom 5 give the reference examples"),
        ({"reference_clients": ("1", "9")}, "no rows of 9"),
        ({"text": "text"}, "either inputs"),
        ({"inputs": ()}, "either inputs"),
        ({"label": None}, "which column is the label"),
        ({"classes": 2}, "Client 0: Labels from 0 to 2|Labels from 0 to 2"),
        ({"test_share": 0.75}, "test_share=0.75 must lie"),
        ({"reference_clients": 0}, "somebody must give the reference"),
        ({"inputs": ("a", "text")}, "Column 'text' must hold numbers"),
        ({"inputs": ("a", "gap")}, "Column 'gap' holds what is no finite number"),
        ({"label": "text"}, "Column 'text' must hold class numbers"),
        ({"label": "missing"}, "Column 'missing' must hold class numbers"),
        ({"label": "gap", "label_cuts": (1.0,)}, "Column 'gap' holds what is no finite number"),
        ({"together": "who"}, "1 rows or recordings are too few"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(tmp_path, fields, says):
    with pytest.raises(ValueError, match=says):
        load_partition(settings(tmp_path, **fields))


def test_a_share_is_kept_and_labels_are_changed_by_seed(tmp_path):
    own = next(iter(load_partition(settings(tmp_path)).train.values()))
    assert len(scarce(own, 0.2, 0)) == 3
    assert len(scarce(own, 0.001, 0)) == 1
    assert torch.equal(scarce(own, 0.2, 0).inputs, scarce(own, 0.2, 0).inputs)
    many = own.select(torch.arange(len(own)).repeat(100))
    wrong = mislabelled(many, 0.5, 0)
    changed = (wrong.labels != many.labels).double().mean()
    assert 0.45 < changed < 0.55
    assert torch.equal(wrong.inputs, many.inputs)
    assert int(wrong.labels.max()) <= 2


def test_rows_of_nobody_without_text_or_with_several_labels_are_refused_with_counts(tmp_path):
    rows = Dataset.from_parquet(table(tmp_path)["data"]["data_files"])
    nobody = rows.map(lambda row: {"who": None if row["score"] == 5 else row["who"]})
    nobody.to_parquet(tmp_path / "nobody.parquet")
    with pytest.raises(ValueError, match=r"'who' holds nothing in 6 rows \(the first: 5\)"):
        load_partition(settings_of(tmp_path / "nobody.parquet"))
    people = load_partition(settings_of(tmp_path / "nobody.parquet", missing="drop"))
    assert "None" not in people.train
    assert {len(own) + len(people.test[name]) for name, own in people.train.items()} == {19}
    silent = rows.map(lambda row: {"text": None if row["score"] == 5 else row["text"]})
    silent.to_parquet(tmp_path / "silent.parquet")
    spoken = {"inputs": (), "text": "text", "label": None}
    for missing in ("refuse", "fill"):
        with pytest.raises(ValueError, match="'text' holds nothing in 6 rows"):
            load_partition(settings_of(tmp_path / "silent.parquet", missing=missing, **spoken))
    assert len(load_partition(settings_of(tmp_path / "silent.parquet", missing="drop", **spoken)).train) == 4
    several = rows.remove_columns("label").add_column("label", [[0, 1]] * len(rows))
    several.to_parquet(tmp_path / "several.parquet")
    with pytest.raises(ValueError, match="'label' holds lists: one class a row"):
        load_partition(settings_of(tmp_path / "several.parquet"))
