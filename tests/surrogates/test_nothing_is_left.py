"""Whatever a value is taken for, no part of it that could tell something is left in its surrogate."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swingkd.surrogates import Surrogates
from swingkd.surrogates.names import TITLE_WORDS

LABELS = (
    "PERSON PATIENT_ID PERSONNUMMER DOCTOR_PHONE PERSON_AGE DATE_TIME BIRTHPLACE PHARMACY ZIP MAC_ADDRESS IP_ADDRESS "
    "EMAIL_ADDRESS URL STREET_ADDRESS COMPANY_NAME CITY CREDIT_CARD SECRET US_SSN PHONE_NUMBER DOCTOR LOC"
).split()


def replaced(value, label, rows=4):
    """Surrogates in several rows: what is left in all of them is not left by chance."""
    spans = [{"start": 0, "end": len(value), "label": label}]
    return [Surrogates(seed=1).replace(value, spans, row).text for row in range(rows)]


@pytest.mark.parametrize(
    ("label", "value", "gone"),
    [
        ("PATIENT_ID", "48213774", "48213774"),
        ("PERSONNUMMER", "19811218-9876", "9876"),
        ("DOCTOR_PHONE", "212-555-0199", "0199"),
        ("PERSON_AGE", "37", "37"),
        ("PERSON", "Agent 4711", "4711"),
        ("PERSON", "Don Le", "Don|Le"),
        ("PERSON", "Al Van", "Al|Van"),
        ("PERSON", "Dos", "Dos"),
        ("PERSON", "Le Van Al", "Le|Van|Al"),
        ("PERSON", "सुनीता शर्मा", "सुनीता|शर्मा"),
        ("PERSON", "สมชาย ใจดี", "สมชาย|ใจดี"),
        ("PERSON", "王小明", "王小明"),
        ("DATE_TIME", "1987-03-04 to 1990-05-06", "1987-03-04|1990-05-06"),
        ("DATE_TIME", "3 May 1987 - 7 June 1990", "3 May 1987|7 June 1990"),
        ("DATE_TIME", "born 3 May 1987 call 212-555-0199", "0199|212"),
        ("DATE_TIME", "Monday, 3 May 1987", "Monday"),
        ("DATE_TIME", "last Tuesday", "Tuesday"),
        ("DATE_TIME", "Christmas", "Christmas"),
        ("DATE_TIME", "twelfth of March", "twelfth|March"),
        ("DATE_TIME", "March 1987", "March 1987|March"),
        ("BIRTHPLACE", "Copenhagen", "Copenhagen"),
        ("PHARMACY", "Rosen Apotheke", "Rosen|Apotheke"),
        ("ZIP", "SW1A 2AA", "SW1A|2AA"),
        ("MAC_ADDRESS", "001B.44F1.3AB7", "001B|44F1|3AB7"),
        ("IP_ADDRESS", "server-anna.local", "anna"),
        ("IP_ADDRESS", "fe80::1ff:fe23:4567:890a", "4567|890a"),
    ],
)
def test_what_was_left_once(label, value, gone):
    made = replaced(value, label, rows=6)
    for part in gone.split("|"):
        assert not all(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) for text in made), made
    assert not any(text == value for text in made)


WORDS = st.sampled_from(
    "Anna Kowalska-Zev O'Neil 48213774 4711 SW1A Rosen Apotheke नेहा Йозеф 王小明 x7k2 Quark 1987".split()
)
JOINED = st.lists(st.tuples(WORDS, st.sampled_from([" ", ", ", "-", "/", "@", ".", ":"])), min_size=1, max_size=4)


@given(JOINED.map(lambda parts: "".join(word + sign for word, sign in parts)), st.sampled_from(LABELS))
@settings(max_examples=600, deadline=None)
def test_no_run_of_a_value_is_left(value, label):
    made = replaced(value, label)
    for run in set(re.findall(r"[^\W_]{4,}", value)):
        if run.casefold() not in TITLE_WORDS:
            assert not all(re.search(rf"(?<![^\W_]){run}(?![^\W_])", text) for text in made), (value, label, made)


def test_titles_before_a_name_stay_and_titles_alone_do_not():
    for made in replaced("Dr. Ann Lee jr", "PERSON"):
        assert re.fullmatch(r"Dr\. [A-Z]\w+ [A-Z]\w+ jr", made)
    for made in replaced("Ludwig van Beethoven", "PERSON"):
        assert re.fullmatch(r"[A-Z]\w+ van [A-Z]\w+", made)
    assert "Dr" not in replaced("Dr", "PERSON")
