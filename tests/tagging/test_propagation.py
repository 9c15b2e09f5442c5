"""What was found once is private wherever it stands again."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swingkd import RuleTagger
from swingkd.tagging import BaseTagger, ConsistentTagger, private_spans
from swingkd.tagging.base import empty_tags, paint
from swingkd.tagging.known_values import KnownValues
from swingkd.tagging.spelling import written_alike

FAR = "that is all I wanted to say to you today, and now I shall go home and have a rest. " * 2
UNCASED = "張伟"


class Finds(BaseTagger):
    """Finds the first mention of each of some values, and nothing else."""

    labels = ("", "PERSON", "ID_NUMBER")

    def __init__(self, *values, likelihood=1.0, label=1):
        self.values, self.likelihood, self.label = values, likelihood, label

    def tag(self, texts):
        every = []
        for text in texts:
            every.append(empty_tags(text))
            for value in self.values:
                if (start := text.find(value)) >= 0:
                    paint(every[-1], start, start + len(value), self.likelihood, self.label)
        return every


def found(tagger, text):
    return [text[start:end] for start, end, _ in private_spans(tagger.tag([text])[0], 0.5)]


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        (f"my account number is 48213. {FAR} so 48213 it is, 148213 or 48213x are others", ["48213", "48213"]),
        ("call +49 30 1234567 now, or 0049 (30) 123-4567", ["+49 30 1234567", "0049 (30) 123-4567"]),
        ("ann.lee@example.org writes; mail ANN.LEE@EXAMPLE.ORG", ["ann.lee@example.org", "ANN.LEE@EXAMPLE.ORG"]),
    ],
)
def test_every_mention_of_what_a_rule_found_is_private(text, mentions):
    assert found(ConsistentTagger(RuleTagger()), text) == mentions


@pytest.mark.parametrize(
    ("value", "text", "mentions"),
    [
        ("Ann Smith", "Ann Smith came. Ms Smith spoke, SMITH said; a smith works", ["Ann Smith", "Smith", "SMITH"]),
        ("Mark May", "Mark May came. in may we mark it", ["Mark May"]),
        ("Ann", "Ann lives in Hannover; ann does", ["Ann", "ann"]),
        ("José", "José kommt. Jose\u0301 geht", ["José", "Jose\u0301"]),
        (UNCASED, f"他叫{UNCASED}是的{UNCASED}", [UNCASED, UNCASED]),
        ("דנה כהן", "דנה כהן הגיעה. דנה כהן הלכה", ["דנה כהן", "דנה כהן"]),
        ("4 May 1970", "born 4 May 1970, that is 1970-05-04", ["4 May 1970", "1970-05-04"]),
        ("12", "12 men, and 12 women", ["12"]),
    ],
)
def test_names_and_writing(value, text, mentions):
    assert found(ConsistentTagger(Finds(value)), text) == mentions


def test_what_is_rather_not_private_spreads_nowhere():
    assert found(ConsistentTagger(Finds("48213", likelihood=0.4)), "48213 and 48213") == []
    tags = ConsistentTagger(Finds("48213", likelihood=0.6, label=2)).tag(["48213 and 48213"])[0]
    assert tags.likelihood[[0, 10]].tolist() == pytest.approx([0.6, 0.6])
    assert tags.labels[[0, 10]].tolist() == [2, 2]


def test_long_values_of_a_corpus_are_private_in_every_record():
    corpus = ["my account number is 4821377", "my pin is 4711", "Ann Smith came", "ann@example.org"]

    class Both(BaseTagger):
        labels = (*RuleTagger().labels, "PERSON")

        def tag(self, texts):
            every = RuleTagger().tag(texts)
            for text, tags in zip(texts, every, strict=True):
                if text.startswith("Ann Smith"):
                    paint(tags, 0, 9, 1.0, len(self.labels) - 1)
            return every

    other = "about 4821377 and 4711 for Ann Smith"
    tagger = ConsistentTagger(Both())
    assert tagger.learn(corpus) == ["4821377", "4711", "Ann Smith", "ann@example.org"]
    assert found(tagger, other) == ["4821377"]
    assert tagger.added == 1
    named = ConsistentTagger(Both(), names=True)
    named.learn(corpus)
    assert found(named, other) == ["4821377", "Ann Smith"]


def test_the_taggers_own_arrays_are_left_alone():
    tags = Finds("48213").tag(["48213 and 48213"])

    class Once(Finds):
        def tag(self, texts):
            return tags

    ConsistentTagger(Once("48213")).tag(["48213 and 48213"])
    assert tags[0].likelihood.sum() == 5


WORDS = st.sampled_from(["48213", "482-13", "48 213", "Ann Lee", "ann  lee", "AnnLee", "Lee", "x", "48", "213", "é"])


@given(st.lists(st.tuples(WORDS, st.sampled_from([" ", ", ", "-", ". ", "/", "\n"])), max_size=8), st.booleans())
def test_it_finds_what_comparing_every_part_of_the_text_finds(words, number):
    text = "".join(word + gap for word, gap in words)
    value = "48213" if number else "Ann Lee"
    tags = ConsistentTagger(Finds(value)).tag([text])[0]
    before = Finds(value).tag([text])[0]
    assert (tags.likelihood >= before.likelihood).all()
    expected = before.likelihood > 0
    if expected.any():
        for match in re.finditer(r"\b(?=\w)", text):
            for end in range(match.start() + 1, len(text) + 1):
                part = text[match.start() : end]
                whole = re.fullmatch(r"\w", part[-1]) and not re.match(r"\w", text[end : end + 1])
                name = not number and part in ("Lee", "Ann")
                if whole and (written_alike(part) == written_alike(value) or name):
                    expected[match.start() : end] = True
    np.testing.assert_array_equal(tags.likelihood > 0, expected)


def test_mentions_stand_where_they_say():
    known = KnownValues(["José", UNCASED, "0049 30 1234567"])
    text = "ﬁn Jose\u0301, +49 30 123 4567; 他叫" + UNCASED
    assert sorted(text[m.start : m.end] for m in known.mentions(text)) == sorted(
        ["Jose\u0301", "+49 30 123 4567", UNCASED]
    )


def test_a_name_that_is_a_word_too_is_private_where_it_is_a_name():
    text = "Will said he will come. will you, Will?"
    assert found(ConsistentTagger(Finds("Will", label=1)), text) == ["Will", "Will"]
    # One that was written small is looked for as it is.
    assert found(ConsistentTagger(Finds("ann", label=1)), "ann said: Ann, ann") == ["ann", "Ann", "ann"]


def test_a_tagger_around_another_one():
    given = ConsistentTagger(Finds("4821377", likelihood=0.4, label=2), names=True, threshold=0.5)
    given.learn(["4821377"])
    around = ConsistentTagger.around(given, 0.3)
    assert (around.threshold, around.names, around.tagger) == (0.3, True, given.tagger)
    sure = ConsistentTagger(Finds("4821377", label=2))
    sure.learn(["4821377"])
    text = "and 4821377, or 4821377"
    nothing = ConsistentTagger(Finds("nothing"))
    nothing._everywhere = sure._everywhere
    assert len(found(ConsistentTagger.around(nothing), text)) == 2
    # Where no record may change how another one is read.
    assert found(ConsistentTagger.around(nothing, alone=True), text) == []
