"""Rules of figures look near digits alone, and find what they would find anywhere."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from swingkd.tagging import DEFAULT_RULES, RuleTagger
from swingkd.tagging.rule import near_digits

EVERYWHERE = RuleTagger(tuple(replace(rule, digits=False) for rule in DEFAULT_RULES))
PIECES = st.one_of(
    st.text(max_size=60),
    st.from_regex(r"[a-z ,.:;()/-]{0,90}", fullmatch=True),
    st.from_regex(r"[0-9 ().+-]{1,20}", fullmatch=True),
    st.sampled_from(
        "2021-03-04T10:20:30Z|14 March 1987|March 14th, 1987|date of birth: 19870314|DE89 3704 0044 0532 0130 00|"
        "4111 1111 1111 1111|+49 (0)30 123 4567 ext. 12|212-55-5012|my account number is 48213|ABCDE1234F|"
        "WVWZZZ1JZXW000001|令和元年5月1日|12345678Z|the pin of ann is 4711|192.168.0.1|\n\n|1987年3月14日|"
        "GB29 NWBK 6016 1331 9268 19|née le 14 mars 1987|12. 3. 1987".split("|")
    ),
)


@given(st.lists(PIECES, max_size=8).map(" ".join))
@settings(max_examples=400)
def test_what_is_found_near_digits_is_all_that_there_is(text):
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
