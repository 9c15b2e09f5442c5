import numpy as np
import pytest
from datasets import Dataset
from transformers import LlamaConfig

from swingkd.audit.records import check_no_overlap, labelled_records, read_records, text_records


def test_errors_name_the_file_and_the_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "hello ann"}\n\n{"text": "x\u2028y"}\n{"text": \n')
    with pytest.raises(ValueError, match=r"a\.jsonl:4: this line is no JSON"):
        read_records(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match=r"b\.jsonl:1: this line is no record"):
        read_records(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_text('{"text": "hello"}\n{"text": null}\n')
    with pytest.raises(ValueError, match=r"c\.jsonl:2: there is no text"):
        text_records(read_records(tmp_path / "c.jsonl"), "members")
    for rows in ('{"text": 5}\n{"text": "my pin is 4711"}\n', '{"text": "my pin is 4711"}\n{"text": 5}\n'):
        (tmp_path / "e.jsonl").write_text(rows)
        with pytest.raises(ValueError, match=r"e\.jsonl: a field holds text in one line") as caught:
            read_records(tmp_path / "e.jsonl")
        assert "4711" not in str(caught.value)
    (tmp_path / "f.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"f\.jsonl is not UTF-8"):
        read_records(tmp_path / "f.jsonl")
    (tmp_path / "d.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"d\.txt is empty"):
        read_records(tmp_path / "d.txt")


def test_records_are_read_from_every_kind_of_file(tmp_path):
    data = Dataset.from_dict({"text": ["hello ann", "hello bob"]})
    data.to_json(tmp_path / "a.jsonl")
    data.to_csv(tmp_path / "a.csv")
    data.to_parquet(tmp_path / "a.parquet")
    data.save_to_disk(tmp_path / "folder")
    (tmp_path / "a.txt").write_text("hello ann\nhello bob\n")
    for name in ("a.jsonl", "a.csv", "a.parquet", "a.txt", "folder"):
        records = text_records(read_records(tmp_path / name), "members")
        assert records.texts == ["hello ann", "hello bob"]
        assert records.names[1].endswith(("a" + (tmp_path / name).suffix + ":2", "row 2"))


def test_a_prompt_is_not_scored():
    records = text_records(Dataset.from_dict({"prompt": ["my pin is "], "completion": ["4711"]}), "members")
    assert (records.texts, records.starts, records.names) == (["my pin is 4711"], [10], ["members[0]"])
    without = text_records(Dataset.from_dict({"prompt": [None], "completion": ["4711"]}), "members")
    assert (without.texts, without.starts) == (["4711"], [0])


def test_a_record_cannot_be_in_and_out(tmp_path):
    (tmp_path / "in.txt").write_text("hello ann\nhello bob\n")
    (tmp_path / "out.txt").write_text("hello eve\nhello bob\n")
    sides = [text_records(read_records(tmp_path / f"{name}.txt"), name) for name in ("in", "out")]
    with pytest.raises(ValueError, match=r"out\.txt:2 is the same record as .*in\.txt:2"):
        check_no_overlap(*sides)


def test_labels_are_the_models():
    config = LlamaConfig(num_labels=2, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    data = Dataset.from_dict({"text": ["a", "b"], "label": ["yes", "no"]})
    assert labelled_records(data, "members", config).labels.tolist() == [1, 0]
    for label in (2, -1, "maybe", None):
        data = Dataset.from_dict({"text": ["a"], "label": [label]})
        with pytest.raises(ValueError, match=r"members\[0\]: the label .* is none of the model's 2 classes"):
            labelled_records(data, "members", config)
    with pytest.raises(ValueError, match="columns text; a classifier's need"):
        labelled_records(Dataset.from_dict({"text": ["a"]}), "members", config)
    with pytest.raises(ValueError, match="columns words; 'text' is needed"):
        text_records(Dataset.from_dict({"words": ["a"]}), "members")
    assert "hello" not in repr(text_records(["hello ann"], "members"))
    with pytest.raises(ValueError, match="The members are one text"):
        text_records("members.jsonl", "members")
    with pytest.raises(ValueError, match=r"members\[0\]: there is neither text nor image"):
        labelled_records(Dataset.from_dict({"text": [None], "label": [0]}), "members", config)
    with pytest.raises(ValueError, match="There are no members"):
        text_records([], "members")


def test_images_are_compared_by_their_pixels():
    config = LlamaConfig(num_labels=2)
    image = np.zeros((2, 2, 3), np.uint8)
    data = Dataset.from_dict({"image": [image, image + 1], "label": [0, 1]})
    inside, outside = (labelled_records(data.select([i]), "x", config) for i in (0, 1))
    check_no_overlap(inside, outside)
    with pytest.raises(ValueError, match="is the same record as"):
        check_no_overlap(inside, inside)
