"""What went wrong in other tools that replace private values, tried on this one."""

import os
import re
import subprocess
import sys
from datetime import datetime

import pytest
from datasets import Dataset

from swingkd import RuleTagger, Surrogates
from swingkd.surrogates.names import pools

POOLS = """
import hashlib
from swingkd.surrogates.names import pools
print([hashlib.md5(repr(pools(locale)[:6]).encode()).hexdigest() for locale in {}])
"""
LOCALES = ["it_IT", "en_US", "de_DE", "pt_BR", "ja_JP", "ar_AA", "tr_TR"]


def spans_of(text, *values):
    return [
        {"start": match.start(), "end": match.end(), "label": label}
        for value, label in values
        for match in re.finditer(re.escape(value), text)
    ]


def test_spans_that_overlap_eat_no_sign_around_them():
    # A number that four recognisers take for theirs, wholly or in part.
    text = "id 943 476 5919, please check the order. 9434765919 again"
    spans = spans_of(
        text,
        ("943 476 5919", "PHONE_NUMBER"),
        ("943 476 5919", "UK_NHS"),
        ("943 476", "US_BANK_NUMBER"),
        ("476 5919", "US_DRIVER_LICENSE"),
        ("9434765919", "UK_NHS"),
    )
    made = Surrogates().replace(text, spans)
    one = re.fullmatch(r"id (\d{3} \d{3} \d{4}), please check the order\. (\d{10}) again", made.text)
    assert one is not None
    assert one[1].replace(" ", "") == one[2] != "9434765919"


@pytest.mark.parametrize("between", [" ", ", ", "\n", "; "])
def test_values_beside_each_other_are_several(between):
    mails = ["contact@acme-corp.org", "support@acme-corp.org", "admin@other.net"]
    made = Surrogates().map(Dataset.from_dict({"text": [between.join(mails)]}), tagger=RuleTagger())
    assert made["surrogates"] == [3]
    found = made["text"][0].split(between)
    assert len(set(found)) == 3
    assert not set(found) & set(mails)
    # Two at one host stay at one host.
    assert found[0].rpartition("@")[2] == found[1].rpartition("@")[2]


@pytest.mark.parametrize("mark", ["'s", "\u2019s", "'S"])
def test_a_possessive_is_no_part_of_a_name(mark):
    text = f"Eric{mark} account. I met Eric; he is Mr. Smith-Jones{mark} son."
    spans = spans_of(text, (f"Eric{mark}", "PERSON"), ("Eric", "PERSON"), (f"Smith-Jones{mark}", "PERSON"))
    made = Surrogates().replace(text, spans).text
    found = re.fullmatch(rf"(\w+){mark} account\. I met (\w+); he is Mr\. \w+-\w+{mark} son\.", made)
    assert found is not None
    assert found[1] == found[2] != "Eric"


@pytest.mark.parametrize("date", ["29 February 2020", "Feb 29, 2020", "02/29/2020", "2020-02-29", "29.02.2020"])
def test_a_leap_day_becomes_a_day_that_exists(date):
    formats = {" F": "%d %B %Y", "Fe": "%b %d, %Y", "/": "%m/%d/%Y", "20-": "%Y-%m-%d", ".": "%d.%m.%Y"}
    written = next(form for sign, form in formats.items() if sign in date)
    for row in range(200):
        made = Surrogates().replace(date, spans_of(date, (date, "DATE_TIME")), row).text
        assert datetime.strptime(made, written) != datetime(2020, 2, 29)


@pytest.mark.parametrize("date", ["31.02.2020", "30/02/1999", "9999-12-31", "1900-02-29"])
def test_a_day_that_does_not_exist_becomes_none_that_nobody_would_write(date):
    for row in range(100):
        made = Surrogates().replace(date, spans_of(date, (date, "DATE_TIME")), row).text
        assert made != date
        assert all(int(part) <= 31 for part in re.findall(r"\d+", made) if len(part) == 2)


@pytest.mark.slow
def test_names_are_drawn_from_the_same_lists_in_every_process():
    # A set's order is another one in each process, and so were a locale's cities.
    program = POOLS.format(LOCALES)
    seeds = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    said = [
        subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout
        for env in seeds
    ]
    assert said[0] == said[1]


@pytest.mark.parametrize("locale", ["vi_VN", "de_LI", "de_LU"])
def test_a_locale_without_names_for_both_has_those_of_women_and_of_men(locale):
    assert len(set(pools(locale).first)) > 30
