"""Texts without their private values: what stays, what goes, and on what it depends."""

import os
import re

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from hypothesis import given
from hypothesis import strategies as st

from swingkd import RuleTagger
from swingkd.files import recipes_dir
from swingkd.surrogates import Surrogates, counted, values_of
from swingkd.surrogates.names import pools
from swingkd.surrogates.record import kind_of
from swingkd.tagging import ConsistentTagger, private_spans, tag_texts

NOTE = (
    "Ann Smith (ann.smith@gmail.com, born 12.03.1980, +49 30 1234567) met Ms Smith and ANN on March 14, 1980; "
    "call 030 1234567 or mail ANN.SMITH@GMAIL.COM. She lives at 12 Oak Street, Boston, and works for Acme Ltd."
)
VALUES = [
    ("Ann Smith", "PERSON"),
    ("ann.smith@gmail.com", "EMAIL_ADDRESS"),
    ("12.03.1980", "DATE_TIME"),
    ("+49 30 1234567", "PHONE_NUMBER"),
    ("Smith", "PER"),
    ("ANN", "NAME"),
    ("March 14, 1980", "DATE_TIME"),
    ("030 1234567", "PHONE_NUMBER"),
    ("ANN.SMITH@GMAIL.COM", "EMAIL_ADDRESS"),
    ("12 Oak Street, Boston", "ADDRESS"),
    ("Acme Ltd", "ORG"),
]


def spans_of(text, values):
    spans, place = [], 0
    for value, label in values:
        start = text.index(value, place)
        place = start + len(value)
        spans.append({"start": start, "end": place, "label": label})
    return spans


SPANS = spans_of(NOTE, VALUES)


def made_of(replaced):
    return [replaced.text[span["start"] : span["end"]] for span in replaced.spans]


@pytest.mark.parametrize("row", range(4))
def test_one_person_stays_one_person(row):
    replaced = Surrogates(seed=1).replace(NOTE, SPANS, row)
    name, mail, born, phone, last, first, met, local, shouted, home, work = made_of(replaced)
    assert name.split()[1] == last
    assert name.split()[0].upper() == first
    assert mail == f"{name.replace(' ', '.')}@gmail.com".lower()
    assert shouted == mail.upper()
    assert phone.startswith("+49 ")
    assert local == "0" + phone.removeprefix("+49 ")
    assert re.fullmatch(r"\d\d\.\d\d\.\d{4}", born)
    assert re.fullmatch(r"[A-Z][a-z]+ \d\d?, \d{4}", met)
    assert re.fullmatch(r"\d\d [\w' ]+, [\w' ]+", home)
    assert work != "Acme Ltd"
    for value, _ in VALUES:
        assert value not in replaced.text


def test_what_is_not_private_stays():
    replaced = Surrogates().replace(NOTE, SPANS)

    def between(text, spans):
        ends = [0, *(span["end"] for span in spans)]
        starts = [*(span["start"] for span in spans), len(text)]
        return [text[end:start] for end, start in zip(ends, starts, strict=True)]

    assert between(replaced.text, replaced.spans) == between(NOTE, SPANS)
    assert [span["label"] for span in replaced.spans] == [label for _, label in VALUES]


def test_every_record_and_every_copy_has_values_of_its_own():
    surrogates = Surrogates()
    rows = [made_of(surrogates.replace(NOTE, SPANS, row)) for row in range(50)]
    for values in zip(*rows, strict=True):
        assert len(set(values)) > 30


@given(st.text("0123456789", min_size=6, max_size=6), st.integers(0, 100))
def test_what_is_drawn_does_not_depend_on_the_value(digits, row):
    """The secret and the row choose the surrogate: the same one stands for any number of this shape."""
    one = Surrogates(seed=3).replace(f"id 8{digits}", [{"start": 3, "end": 10, "label": "ID_NUMBER"}], row)
    other = Surrogates(seed=3).replace("id 8123456", [{"start": 3, "end": 10, "label": "ID_NUMBER"}], row)
    # Unless it happens to be the number itself.
    assert one.text == other.text or one.text[3:] == "8123456" or other.text[3:] == f"8{digits}"


def test_without_a_seed_nobody_can_draw_again(tmp_path):
    text, spans = "id 8123456", [{"start": 3, "end": 10, "label": "ID_NUMBER"}]
    assert Surrogates().replace(text, spans) != Surrogates().replace(text, spans)
    path = tmp_path / "_private" / "surrogate_key"
    kept = Surrogates.kept_in(path)
    assert Surrogates.kept_in(path).replace(text, spans) == kept.replace(text, spans)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert path.read_text() not in repr(kept)
    path.write_text("00")
    with pytest.raises(ValueError, match="secret of surrogates"):
        Surrogates.kept_in(path)


def test_a_value_of_the_corpus_is_never_made_up():
    rows = Dataset.from_dict({"text": [f"my pin is {i}. bye" for i in range(2100, 9900, 8)]})
    made = Surrogates().map(rows, tagger=RuleTagger())
    real = {text[10:14] for text in rows["text"]}
    assert not real & {text[10:14] for text in made["text"]}
    assert made["surrogates"][:] == [1] * len(rows)


def test_frequent_names_of_the_corpus_come_up_beside_others_and_no_name_of_it_does():
    first, last = pools("en_US").first[:400], pools("en_US").last[:400]
    names = sorted({f"{a} {b}" for a, b in zip(first, last, strict=True)})
    rows = Dataset.from_dict({"text": names, "spans": [spans_of(name, [(name, "NAME")]) for name in names]})
    made = [Surrogates(seed=seed).map(rows)["text"][:] for seed in range(4)]
    assert not set(names) & {name for every in made for name in every}
    # Were a name that somebody has never made up, its absence would give it away.
    parts = {part for every in made for name in every for part in name.split()}
    assert {"Michael", "John", "Smith", "Johnson"} <= parts
    for every in made:
        # Of a record's own name no part stays.
        assert not any(set(name.split()) & set(real.split()) for name, real in zip(every, names, strict=True))


def test_overlapping_spans_are_one():
    text = "pin 4711 of Ann"
    spans = [
        {"start": 4, "end": 8, "label": "PIN"},
        {"start": 6, "end": 11, "label": "X"},
        *spans_of(text, [("Ann", "PER")]),
    ]
    replaced = Surrogates().replace(text, spans)
    assert len(replaced.spans) == 2
    assert not re.search(r"4711 of|\bAnn\b", replaced.text)


@pytest.mark.parametrize(("text", "start", "end"), [("short", 0, 9), ("short", -1, 2), ("short", 3, 3), ("", 0, 1)])
def test_a_span_outside_its_text_is_refused(text, start, end):
    with pytest.raises(ValueError, match=re.escape(f"{start}..{end} does not lie in its text of {len(text)}")):
        Surrogates().replace(text, [{"start": start, "end": end, "label": "X"}])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("שמי דנה כהן ומספר הטלפון שלי הוא 054-1234567, תודה דנה", ["דנה כהן", "054-1234567", "דנה"]),
        ("اسمي علي حسن ورقم هاتفي ٠٥٥١٢٣٤٥٦٧ شكرا علي", ["علي حسن", "٠٥٥١٢٣٤٥٦٧", "علي"]),
        ("\u200fדנה כהן\u200f: 054-1234567\u200e.", ["דנה כהן", "054-1234567"]),
    ],
)
def test_text_from_right_to_left(text, values):
    spans = spans_of(text, [(value, "NAME" if value[0].isalpha() else "PHONE_NUMBER") for value in values])
    made = Surrogates().replace(text, spans)
    assert not any(part in made.text for value in values for part in value.split())
    found = [made.text[span["start"] : span["end"]] for span in made.spans]
    assert found[2:] == found[0].split()[: len(values) - 2]
    # What stands around the values stays, marks of direction as well.
    around = made.text, text
    for name, value in zip(found, values, strict=True):
        around = around[0].replace(name, "", 1), around[1].replace(value, "", 1)
    assert around[0] == around[1]


def test_only_some_kinds():
    replaced = Surrogates("PHONE_NUMBER").replace(NOTE, SPANS)
    assert "Ann Smith" in replaced.text
    assert "1234567" not in replaced.text


def test_a_tagger_that_finds_nothing_leaves_all(caplog):
    rows = Dataset.from_dict({"text": ["nothing private here", ""]})
    made = Surrogates().map(rows, tagger=RuleTagger())
    assert made["text"][:] == rows["text"][:]
    assert counted(made) == {}


def test_a_corpus_of_one_row_many_times():
    made = Surrogates().map(Dataset.from_dict({"text": ["my account number is 4821377"] * 40}), tagger=RuleTagger())
    assert len(set(made["text"])) == 40


def test_long_values_go_wherever_they_stand():
    rows = Dataset.from_dict({"text": ["my account number is 48213774", "so 48213774 it was", "not 482137745"]})
    made = Surrogates().map(rows, tagger=RuleTagger())["text"]
    assert not any(re.search(r"\b48213774\b", text) for text in made)


def test_streams_and_turns_of_a_chat(tmp_path):
    rows = {
        "prompt": ["My name is Ann. my pin is 4711"] * 3,
        "completion": ["Thanks. 4711 it is."] * 3,
        "n": [1, 2, 3],
    }
    columns = ["prompt", "completion"]
    path = tmp_path / "_private" / "key"
    whole = Surrogates.kept_in(path).map(Dataset.from_dict(rows), tagger=RuleTagger(), text_column=columns)
    stream = Surrogates.kept_in(path).map(
        Dataset.from_dict(rows).to_iterable_dataset(), tagger=RuleTagger(), text_column=columns
    )
    for row, other in zip(whole, stream, strict=True):
        assert row == other
        assert row["surrogates"] == 2
        pin = re.search(r"\d{4}", row["prompt"])[0]
        assert row["completion"] == f"Thanks. {pin} it is."
        assert pin != "4711"


def test_a_file_read_as_a_stream(tmp_path):
    path = tmp_path / "rows.jsonl"
    Dataset.from_dict({"text": ["my pin is 4711"] * 5}).to_json(path)
    stream = load_dataset("json", data_files=str(path), split="train", streaming=True)
    texts = [row["text"] for row in Surrogates().map(stream, tagger=RuleTagger())]
    assert len(texts) == 5
    assert "my pin is 4711" not in texts


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        ({"body": ["x"]}, {}, "no column 'text'"),
        ({"text": ["x"]}, {"tagger": None}, "no column 'spans'"),
        ({"text": ["x"], "input_ids": [[1]]}, {}, "tokenised already"),
        ({"text": ["x", None]}, {}, "Row 1 has no text"),
        (
            {"text": ["x"], "other": ["y"], "spans": [[]]},
            {"tagger": None, "text_column": ["text", "other"]},
            "one text",
        ),
    ],
)
def test_rows_that_cannot_be_read_are_refused(rows, options, says):
    with pytest.raises(ValueError, match=says):
        Surrogates().map(Dataset.from_dict(rows), **{"tagger": RuleTagger(), **options})


@pytest.mark.parametrize(
    ("options", "says"), [({"locale": "xx_XX"}, "not one of Faker's"), ({"seed": 1, "key": b"1"}, "two sources")]
)
def test_settings_are_checked_at_once(options, says):
    with pytest.raises(ValueError, match=says):
        Surrogates(**options)


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("PERSON", "person"),
        ("B-PER", "person"),
        ("first_name", "person"),
        ("USERNAME", "shape"),
        ("COMPANY_NAME", "company"),
        ("DOMAIN_NAME", "host"),
        ("IP_ADDRESS", "machine"),
        ("STREET_ADDRESS", "street"),
        ("EMAIL_ADDRESS", "mail"),
        ("MAC_ADDRESS", "machine"),
        ("DATE_OF_BIRTH", "date"),
        ("LOCATION", "city"),
        ("US_SSN", "shape"),
        ("PATIENT_ID", "shape"),
        ("patient id", "shape"),
        ("PERSONNUMMER", "shape"),
        ("DOCTOR_PHONE", "phone"),
        ("PERSON_AGE", "shape"),
        ("PHARMACY", "shape"),
        ("BIRTHPLACE", "city"),
        ("HOSPITAL_NAME", "company"),
        ("NOMBRE_SUJETO_ASISTENCIA", "person"),
        ("", "shape"),
    ],
)
def test_labels_of_many_taggers(label, kind):
    assert kind_of(label) == kind


def test_on_real_dialogues_no_value_is_left():
    path = recipes_dir() / "quickstart" / "data" / "dialogues.parquet"
    rows = load_dataset("parquet", data_files=str(path), split="train").select(range(200))
    made = Surrogates().map(rows)
    # The data's own spans miss second mentions.
    assert sum(counted(made).values()) == sum(made["surrogates"]) > sum(len(spans) for spans in rows["spans"])
    for before, after, spans in zip(rows["text"], made["text"], rows["spans"], strict=True):
        long = [before[span["start"] : span["end"]] for span in spans]
        assert not any(value in after for value in long if len(value) > 5)
    # The same rules find as much in it as before.
    tagger = ConsistentTagger(RuleTagger())
    one, other = (sum(len(private_spans(t, 0.5)) for t in tag_texts(tagger, d["text"][:])) for d in (rows, made))
    assert other == pytest.approx(one, rel=0.1)


def test_names_like_those_of_public_text():
    people = [f"{first} {last}" for first in ("Zorvan", "Quilla") for last in ("Brandtner", "Osk")] * 20
    streets = [f"{n} Glimmer Street, Vexford" for n in range(60)]
    surrogates = Surrogates(seed=3, examples={"PERSON": people, "ADDRESS": streets, "CITY": ["Rare"] * 3})
    text = "Ann Smith of 12 Elm Road, Boston"
    spans = [{"start": 0, "end": 9, "label": "PERSON"}, {"start": 13, "end": len(text), "label": "ADDRESS"}]
    made = [surrogates.replace(text, spans, row).text for row in range(200)]
    listed = [row.split(" of ")[0].split() for row in made]
    # Most are of the examples; new ones are spelled like them.
    assert np.mean([first in ("Zorvan", "Quilla") for first, _ in listed]) > 0.6
    assert np.mean([last in ("Brandtner", "Osk") for _, last in listed]) > 0.4
    assert all(re.search(r"of \d\d Glimmer Road, Vexford", row) for row in made)
    # A kind of which there are few examples has the lists of the locale.
    city = surrogates.replace("Boston", [{"start": 0, "end": 6, "label": "CITY"}], 1).text
    assert city not in ("Rare", "Boston")


def test_examples_are_what_a_tagger_finds():
    found = values_of(["my pin is 4711", "my pin is 4712, or ann@gmail.com", "nothing"], RuleTagger())
    assert found == {"ID_NUMBER": ["4711", "4712"], "EMAIL_ADDRESS": ["ann@gmail.com"]}
