"""Values and canaries: one value in many spellings is one, and two values are two."""

import dataclasses

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from swingkd import CanarySet
from swingkd.audit.extraction import audit_extraction
from swingkd.tagging.known_values import KnownValues
from swingkd.tagging.spelling import written_alike


def test_a_value_that_was_given_is_found_where_the_tagger_knows_nothing(monkeypatch, tokenizer):
    said = ["so Ann  LEE was seen by nobody", "Hannover is in the north"]
    monkeypatch.setattr("swingkd.audit.pii.sample_texts", lambda *args, **kwargs: said)
    monkeypatch.setattr("swingkd.audit.pii.first_tokens", lambda *args: [])
    data = Dataset.from_dict(
        {
            "text": ["Ann Lee was seen.", "Ann was seen."],
            "spans": [[{"start": 0, "end": 7, "label": "NAME"}], [{"start": 0, "end": 3, "label": "NAME"}]],
        }
    )
    report = audit_extraction(None, tokenizer, data, attacks=["values"], samples=2, progress=False)
    assert report.values.training == 2
    assert {(v.label, v.value) for v in report.values.found} == {("NAME", "ann  lee"), ("NAME", "ann")}
    assert {v.samples for v in report.values.found} == {1}  # not within Hannover


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("+49 (0)30 123-456", "0049 30 123456"),
        ("http://a.org/x", "https://www.a.org/x/"),
        ("@ann_lee", "Ann_Lee"),
        ("1980-03-12", "12.03.1980"),
        ("March 5, 1980", "1980-03-05"),
        ("5th of march 1980", "5.3.1980"),
        ("Anna-Lena", "anna lena"),
        ("5 Sept 1980", "5 September 1980"),
        ("5-Mar-1980", "5 Mar 1980"),
        ("1980年3月5日", "1980-03-05"),
        ("tel:+49 30 1234567", "+49301234567"),
        ("https://www.x.org/", "x.org"),
        ("00-1a-2b-3c-4d-5e", "00:1A:2B:3C:4D:5E"),
        ("fe80::1", "fe80:0::1"),
        ("4111 1111 1111 1111", "4111-1111-1111-1111"),
        ("DE89 3704 0044 0532 0130 00", "de89370400440532013000"),
        ("@ann_lee", "ann_lee"),
    ],
)
def test_further_spellings_of_one_value(one, two):
    assert written_alike(one) == written_alike(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("10.1.1.11", "10.11.1.1"),
        ("1.12.2024", "11.2.2024"),
        ("a-b@x.org", "ab@x.org"),
        ("fe80::1", "fe8::01"),
        ("ann lee", "annlee"),
        ("1-23", "12-3"),
        ("राम", "रोम"),
        ("กิน", "กัน"),
        ("மணி", "மண"),
        ("$12.50", "$1,250"),
        ("3.5 mg", "35 mg"),
        ("1-11 Oak St", "11-1 Oak St"),
        ("10:15", "101:5"),
        ("12-3", "1-23"),
        ("192.168.1.11", "192.168.11.1"),
    ],
)
def test_a_separator_that_means_something_stays(one, two):
    assert written_alike(one) != written_alike(two)


@given(st.text(max_size=30))
def test_a_spelling_is_its_own_spelling(text):
    once = written_alike(text)
    assert written_alike(once) == once or not once.isascii()


def mentions(text, value):
    return len({(mention.start, mention.end) for mention in KnownValues([value]).mentions(text)})


def test_a_mention_is_a_word_of_its_own():
    assert mentions("Ann lives in Hannover, near Annheim", "Ann") == 1
    assert mentions("call 030-123 4567, or 0301234567", "030 1234567") == 2
    assert mentions("张伟是，张伟", "张伟") == 2  # noqa: RUF001  # a Chinese comma
    assert mentions("the sum of 12 an 3 is ann", "ann") == 1


def test_values_are_found_in_writing_without_blanks():
    assert set(KnownValues(["张伟", "Ann Lee"]).said("他叫张伟是的 ann lee")) == {"张伟", "ann lee"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"canaries": ()}, "no canaries"),
        ({"slots": (("1", "1"), ("2",), ("3",))}, "twice"),
        ({"kind": "names"}, "of kind"),
    ],
)
def test_a_set_of_canaries_is_whole(change, says):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=3, count=1, repetitions=(1,), seed=5)
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(canaries, **change)


@pytest.mark.parametrize("what", ["id", "prefix"])
def test_canaries_are_told_apart(what):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=3, count=2, repetitions=(1,), seed=1)
    first, second, *rest = canaries.canaries
    double = dataclasses.replace(second, **{what: getattr(first, what)})
    with pytest.raises(ValueError, match=f"share their {what}"):
        dataclasses.replace(canaries, canaries=(first, double, *rest))
    with pytest.raises(ValueError, match="twice"):
        CanarySet.generate("the pin of {name} is {secret}", length=8, alphabet="0011")


@pytest.mark.parametrize(
    ("values", "text", "number"),
    [
        (["192.168.1.11", "192.168.11.1"], "host 192.168.1.11", 1),
        (["12-3", "1-23"], "number 12-3 and 1-23", 2),
        (["+49 30 1234567"], "call 0049 30 1234567", 1),
        (["+49 30 1234567"], "call +49 (0)30 1234567", 1),
        (["12 March 2020"], "on March 12, 2020", 1),
        (["12 March 2020"], "on 2020-03-12", 1),
        (["13812345678"], "他的电话是13812345678吗", 1),
        (["ann@mail.org"], "邮箱ann@mail.org谢谢", 1),
        (["北京市3号"], "他住在北京市3号是", 1),
        (["1980年3月5日"], "生于1980年3月5日。", 1),
        (["https://x.org/a"], "see https://www.x.org/a/ ok", 1),
        (["@john"], "john said", 0),
        (["@john"], "hi @john", 1),
        (["$100"], "100 men", 0),
        (["a b c d e f g h i j k l m n"], "x a b c d e f g h i j k l m n y", 1),
        (["อานนท์"], "ชื่อ อานนท์ ครับ", 1),
        (["Ann Lee", "张伟"], "他叫张伟是的 ann lee", 2),
        (["Ann"], "Hannover", 0),
    ],
)
def test_known_values_are_found_however_they_are_written(values, text, number):
    assert len(KnownValues(values).said(text)) == number


def test_a_date_written_otherwise_is_a_mention():
    assert mentions("1980-03-05 and 5.3.1980", "1980-03-05") == 2
    assert mentions("born March 5, 1980, that is 05/03/1980", "1980-03-05") == 2
