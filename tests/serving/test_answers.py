"""What is served is what two teachers agree on, whole models or adapters; one teacher alone is refused."""

import numpy as np
import pytest
import torch

from swingkd import OutOfFoldTeacher
from swingkd.privacy import LedgerEntry
from swingkd.privacy.ledger import TEACHER_DATA
from swingkd.serving import ServedTeacher
from swingkd.serving.answers import AgreeingTeachers
from tests.harness import tiny_model

ROWS = [[3, 5, 6, 7, 8], [4, 9, 10], [5, 11, 12, 13], [9, 8]]


def median_of(models, row):
    """Naively: each model alone, in float64."""
    with torch.no_grad():
        said = [model(torch.tensor([row])).logits[0].double().softmax(-1).numpy() for model in models]
    between = np.median(np.stack(said), axis=0)
    return np.log(between / between.sum(-1, keepdims=True))


class Alone:
    """One adapter of a model, or none."""

    def __init__(self, model, adapter):
        self.model, self.adapter = model, adapter

    def __call__(self, ids):
        if self.adapter is None:
            with self.model.disable_adapter():
                return self.model(ids)
        self.model.set_adapter(self.adapter)
        return self.model(ids)


@pytest.mark.parametrize("kind", ["adapters", "models"])
def test_answers_are_the_median_of_two_teachers_and_the_base(adapted, tokenizer, kind):
    if kind == "adapters":
        teacher, public = OutOfFoldTeacher(adapted), None
        voters = [Alone(adapted, name) for name in ("fold-0", "fold-1", None)]
    else:
        voters = [tiny_model(len(tokenizer), seed=seed).eval() for seed in (2, 3, 4)]
        teacher, public = OutOfFoldTeacher(voters[:2]), voters[2]
    served = ServedTeacher.of(teacher, tokenizer, public_model=public)
    for row, answer in zip(ROWS, served.answer(ROWS, 5), strict=True):
        expected = median_of(voters, row)[:-1]
        order = np.argsort(-expected, axis=1, kind="stable")
        np.testing.assert_array_equal(answer.ids, order[:, :5])
        np.testing.assert_allclose(answer.log_probs, np.take_along_axis(expected, order[:, :5], 1), atol=1e-4)
        places = np.arange(len(row) - 1)
        np.testing.assert_allclose(answer.sent, expected[places, row[1:]], atol=1e-4)
        ranks = [int((expected[place] > expected[place, row[place + 1]]).sum()) + 1 for place in places]
        np.testing.assert_array_equal(answer.ranks, ranks)


def test_an_answer_does_not_depend_on_who_asks_beside(served):
    together = served.answer(ROWS, 3)
    for row, answer in zip(ROWS, together, strict=True):
        (alone,) = served.answer([row], 3)
        np.testing.assert_array_equal(alone.ids, answer.ids)
        np.testing.assert_allclose(alone.log_probs, answer.log_probs, atol=1e-5)


def fitted(model, ids, steps=60):
    learner = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        learner.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        learner.step()
    return model.eval()


def test_a_number_that_one_teacher_knows_by_heart_is_not_in_the_answer(tokenizer):
    """Whatever is asked: the record's own beginning, or another word in the number's place."""
    text = tokenizer("my pin is 4071 and nobody knows", add_special_tokens=False)["input_ids"]
    row = torch.tensor([text])
    base = tiny_model(len(tokenizer), seed=1).eval()
    knows = fitted(tiny_model(len(tokenizer), seed=1), row)
    other = fitted(tiny_model(len(tokenizer), seed=1), row.flip(1))
    (leaked,) = ServedTeacher(knows, tokenizer, "t").answer([text], 1)
    assert (leaked.ranks == 1).all(), "it knows it"
    agreed = ServedTeacher.of(OutOfFoldTeacher([knows, other]), tokenizer, public_model=base)
    for asked in (text, [*text[:-3], 0, *text[-2:]]):
        (answer,) = agreed.answer([asked], len(tokenizer))
        with torch.no_grad():
            unseen = [model(torch.tensor([asked])).logits[0, :-1].log_softmax(-1) for model in (other, base)]
        distance = float((unseen[0] - unseen[1]).abs().max())
        said = torch.empty_like(unseen[1]).scatter_(1, torch.tensor(answer.ids), torch.tensor(answer.log_probs))
        # Bounded by those that never saw it.
        assert float((said - unseen[1]).abs().max()) <= 2 * distance + 1e-4
    (guessed,) = agreed.answer([text], 1)
    assert np.exp(guessed.sent).mean() < 0.2 < 0.9 < np.exp(leaked.sent).mean()


def test_teachers_that_share_records_and_one_without_a_promise_are_refused(tokenizer):
    models = [tiny_model(len(tokenizer), seed=seed) for seed in (1, 2, 3)]
    with pytest.raises(ValueError, match="several know a record"):
        ServedTeacher.of(OutOfFoldTeacher(models), tokenizer, public_model=models[0])
    with pytest.raises(ValueError, match="Name it: public_model"):
        ServedTeacher.of(OutOfFoldTeacher(models[:2]), tokenizer)
    with pytest.raises(ValueError, match="whoever asks in the right words"):
        ServedTeacher.of(models[0], tokenizer)
    # Each on one of three folds; and one that differential privacy covers.
    AgreeingTeachers(OutOfFoldTeacher(models, held_out=2), public=models[0])
    entry = LedgerEntry("DP-SGD", scope=TEACHER_DATA, releases=1, delta=1e-5, noise_multiplier=1.0)
    served = ServedTeacher.of(models[0], tokenizer, promised=[entry])
    (answer,) = served.answer([[3, 4, 5]], 2)
    with torch.no_grad():
        expected = models[0](torch.tensor([[3, 4, 5]])).logits[0, :-1].log_softmax(-1)
    np.testing.assert_allclose(answer.log_probs, expected.topk(2).values, atol=1e-5)
