"""A likelihood is a probability, not a dose; what was found once is private at every mention."""

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from swingkd import PrivateDistillationTrainer, RuleTagger, cache_teacher
from swingkd.data.columns import likelihoods, stored
from swingkd.tagging import BaseTagger, ConsistentTagger
from swingkd.tagging.base import empty_tags, paint
from swingkd.tagging.threshold import decided
from tests.harness import TEXTS, batch_of, tiny_model


class Sure(BaseTagger):
    """Finds the digits of each text, and is as sure as it is told."""

    labels = ("", "PIN")

    def __init__(self, likelihood):
        self.likelihood = likelihood

    def tag(self, texts):
        every = [empty_tags(text) for text in texts]
        for text, tags in zip(texts, every, strict=True):
            for at, character in enumerate(text):
                if character.isdigit():
                    paint(tags, at, at + 1, self.likelihood, 1)
        return every


@pytest.fixture
def make(student, teacher, tokenizer, texts, config):
    def make(tagger, *, public=False, data=texts, **fields):
        return PrivateDistillationTrainer(
            student,
            config(population_min_spans=2, **fields),
            teacher_model=teacher,
            public_model=tiny_model(len(tokenizer), seed=9) if public else None,
            train_dataset=data,
            processing_class=tokenizer,
            tagger=tagger,
        )

    return make


@given(likelihood=st.floats(0, 1), threshold=st.floats(0.001, 1))
def test_nothing_that_is_likely_enough_is_lost_in_a_column(likelihood, threshold):
    column = likelihoods(torch.from_numpy(stored([likelihood])))
    for dtype in (torch.float32, torch.float64):
        told = float(decided(column.to(dtype), threshold))
        assert told in (0.0, 1.0)
        if likelihood >= threshold:
            assert told == 1
        if likelihood < threshold - 1 / 254:
            assert told == 0
    # As it is, not from a column.
    for dtype in (torch.float32, torch.float64):
        as_it_is = torch.tensor([likelihood], dtype=dtype)
        if abs(likelihood - threshold) > 1e-5 or likelihood == threshold:
            assert float(decided(as_it_is, threshold)) == (likelihood >= threshold)


@pytest.mark.parametrize("protection", ["noise", "mollify", "population", "drop", "none"])
@pytest.mark.parametrize("fused", [False, True])
def test_from_the_threshold_on_the_whole_protection_applies_and_below_none(make, protection, fused):
    def loss(likelihood, **fields):
        trainer = make(
            Sure(likelihood),
            public=protection == "mollify",
            protection=protection,
            fused_loss=fused,
            noise_distribution="gaussian",
            **fields,
        )
        return float(trainer.compute_loss(trainer.model, dict(batch_of(trainer))).detach())

    sure = loss(1.0)
    assert loss(0.6) == loss(0.5) == sure
    assert loss(0.6, private_threshold=0.6) == sure
    dose = loss(0.6, likelihood_is_dose=True)
    # Where nothing is learnt, there is nothing to measure out.
    assert (dose == pytest.approx(sure, rel=1e-5)) is (protection == "drop")
    assert loss(1.0, likelihood_is_dose=True) == sure
    # Nobody is told that something is protected which is not.
    with pytest.raises(ValueError, match=r"found nothing private.*0\.5 or more"):
        loss(0.4)


def test_tokens_below_the_threshold_are_ordinary(make, texts):
    class Both(Sure):
        def tag(self, texts):
            every = super().tag(texts)
            for text, tags in zip(texts, every, strict=True):
                paint(tags, text.index("thank"), text.index("thank") + 5, 0.3, 1)
            return every

    trainer = make(Both(1.0), protection="drop", tag_dilation=0)
    plain = make(Sure(1.0), protection="drop", tag_dilation=0)
    losses = [float(t.compute_loss(t.model, dict(batch_of(t))).detach()) for t in (trainer, plain)]
    assert losses[0] == losses[1]
    assert trainer.protected["flagged"] == plain.protected["flagged"]


def test_a_cache_that_was_protected_from_another_threshold_on_is_refused(make, teacher, tokenizer, texts, config):
    args = config(protection="noise", private_threshold=0.8)
    private = Dataset.from_dict({"text": ["something else altogether"]})
    known = {"tagger": Sure(0.7), "protect": True, "private_dataset": private}
    with pytest.raises(ValueError, match="found nothing private"):
        cache_teacher(teacher, args, texts, tokenizer, **known)
    cached = cache_teacher(teacher, args, texts, tokenizer, **known | {"tagger": Sure(0.9)})
    again = {"train_dataset": cached, "processing_class": tokenizer}
    with pytest.raises(ValueError, match=r"set private_threshold=0\.8"):
        PrivateDistillationTrainer(tiny_model(len(tokenizer)), config(), **again)
    PrivateDistillationTrainer(tiny_model(len(tokenizer)), config(private_threshold=0.8), **again)


@pytest.mark.parametrize("protection", ["surrogate", "population", "drop"])
def test_second_mentions_are_private_and_counted(make, protection, tokenizer, capfd):
    text = "hello ann, my account number is 48213774. " + "thank you. " * 8 + "so 48213774 it was."
    rows = Dataset.from_dict({"text": [*TEXTS[:10], text, "48213774, said ann."]})
    tagger = RuleTagger()
    trainer = make(tagger, data=rows, protection=protection, tag_dilation=0, max_length=256, max_steps=1)
    assert trainer.setup.mentions >= 2
    trainer.train()
    assert "Mentions that it missed, of values that it had found elsewhere" in "".join(capfd.readouterr())
    for row in list(trainer.train_dataset)[-2:]:
        tokens = zip(row["input_ids"], row["pii_likelihood"], strict=True)
        digits = [likelihood > 0 for number, likelihood in tokens if _is_digit(number, tokenizer)]
        assert digits
        assert all(digits)
    # A tagger of the user's own is left as it was.
    given = ConsistentTagger(RuleTagger())
    make(given, data=rows, protection=protection)
    assert not given._everywhere
    assert trainer.setup.reading.tagger.tagger is tagger


def _is_digit(number, tokenizer):
    return tokenizer.decode([number]).strip().isdigit()
