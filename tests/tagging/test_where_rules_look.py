"""Rules look where a cheap test holds, those of figures near digits alone: they find what they would find anywhere."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from swingkd.tagging import DEFAULT_RULES, RuleTagger
from swingkd.tagging.rule import near_digits

EVERYWHERE = RuleTagger(tuple(replace(rule, digits=False, needs=("",)) for rule in DEFAULT_RULES))
PIECES = st.one_of(
    st.text(max_size=60),
    st.from_regex(r"[a-z ,.:;()/-]{0,90}", fullmatch=True),
    st.from_regex(r"[0-9 ().+-]{1,20}", fullmatch=True),
    st.sampled_from(
        "2021-03-04T10:20:30Z|14 March 1987|March 14th, 1987|date of birth: 19870314|DE89 3704 0044 0532 0130 00|"
        "4111 1111 1111 1111|+49 (0)30 123 4567 ext. 12|212-55-5012|my account number is 48213|ABCDE1234F|"
        "WVWZZZ1JZXW000001|令和元年5月1日|12345678Z|the pin of ann is 4711|192.168.0.1|\n\n|1987年3月14日|"
        "GB29 NWBK 6016 1331 9268 19|née le 14 mars 1987|12. 3. 1987|3  March  1987|1987 March 3|"
        "March 3 , 1987|17-May-87|10/Oct/2000:13:55:36|20210304T102030Z|3. tháng 5 năm 1987|ann@example.org|"
        "@ann_lee|u/ann_lee|example.org/ann|2001:db8::8a2e:370:7334|00:1a:2b:3c:4d:5e|001a.2b3c.4d5e|"
        "https://ann:pw@host.org|tel:5551234567|ref ABCDEFGH|AKIAIOSFODNN7EXAMPLE|"
        "$2b$12$KIXQ1Z9x0c1S9e.tQbq1Ue0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b|key=9f86d081884c7d65|-----BEGIN|"
        "1BoatSLRHtKNngkdXEUoBL7xvKbL3DJG|api_key: hunter22hunter|123e4567-e89b-12d3-a456-426614174000".split("|")
    ),
)


@given(st.lists(PIECES, max_size=8).map(" ".join))
@settings(max_examples=600)
def test_what_is_found_there_is_all_that_there_is(text):
    near, everywhere = RuleTagger().tag([text])[0], EVERYWHERE.tag([text])[0]
    assert np.array_equal(near.likelihood, everywhere.likelihood)
    assert np.array_equal(near.labels, everywhere.labels)


@given(st.text(alphabet="a1 .٣", max_size=300))
def test_every_digit_is_near_a_digit(text):
    places = near_digits(text)
    for at, character in enumerate(text):
        if character.isdecimal():
            assert any(start <= at < end and (start == 0 or start <= at - 40) for start, end in places)
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert [start for start, _ in places] == sorted(start for start, _ in places)
