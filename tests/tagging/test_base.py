from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swingkd.tagging import align, dilate, label_spans, tag_texts
from swingkd.tagging.base import token_characters


@st.composite
def values_and_offsets(draw):
    values = np.array(draw(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30)), np.float32)
    cuts = sorted(draw(st.lists(st.integers(0, len(values)), max_size=12)))
    pairs = list(pairwise(cuts))
    return values, np.array(pairs, np.int64).reshape(-1, 2)


@given(values_and_offsets())
def test_align_is_the_maximum_over_each_token(case):
    values, offsets = case
    expected = [values[a:b].max() if b > a else 0 for a, b in offsets]
    np.testing.assert_array_equal(align(values, offsets), np.array(expected, np.float32))


def test_align_with_overlapping_tokens():
    # Several byte-level tokens may cover one character.
    np.testing.assert_array_equal(
        align(np.array([0.2, 0.9]), np.array([[0, 1], [1, 2], [1, 2], [0, 2]])), [0.2, 0.9, 0.9, 0.9]
    )


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(0, 15))
def test_dilate_is_the_maximum_over_neighbours(values, reach):
    values = np.array(values)
    expected = [values[max(0, i - reach) : i + reach + 1].max() for i in range(len(values))]
    np.testing.assert_array_equal(dilate(values, reach), expected)


@given(values_and_offsets())
def test_token_characters_lists_each_covered_character(case):
    _, offsets = case
    chars, tokens = token_characters(offsets)
    assert list(zip(chars, tokens, strict=True)) == [(c, t) for t, (a, b) in enumerate(offsets) for c in range(a, b)]


def test_label_spans_of_nothing():
    assert label_spans(np.zeros(0, np.int16)) == []


class Broken:
    def __init__(self, array):
        self.array = np.array(array)

    def char_likelihood(self, texts):
        return [self.array for _ in texts]


@pytest.mark.parametrize(("array", "message"), [([0.5], "one value per character"), ([0.5, 1.5], "must lie in")])
def test_a_broken_tagger_is_named(array, message):
    with pytest.raises(ValueError, match=rf"Broken.*{message}"):
        tag_texts(Broken(array), ["ab"])


def test_a_tagger_without_labels_files_likely_characters_under_one_label():
    tags = tag_texts(Broken([0.2, 0.7]), ["ab"])[0]
    assert tags.labels.tolist() == [0, 1]
