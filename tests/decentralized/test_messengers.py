"""What is accepted as a messenger, what is refused, and how long it lasts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swingkd.decentralized.message import RefusedError, fingerprint
from swingkd.decentralized.messengers import Messenger, MessengerRepository

SHAPE = (6, 3)
REFERENCE = fingerprint(torch.arange(6.0), torch.arange(6))


def messenger(number: int = 0, seed: int = 0, **fields) -> Messenger:
    logits = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    given = {"probabilities": logits.softmax(1), "reference": REFERENCE, "round": number}
    return Messenger(**(given | fields))


def broken(place: tuple[int, int], value: float) -> torch.Tensor:
    found = messenger().probabilities.clone()
    found[place] = value
    return found


@given(st.integers(2, 300), st.floats(0.1, 30), st.integers(0, 10**6))
def test_every_softmax_is_accepted_in_half_precision(classes, scale, seed):
    logits = scale * torch.randn(4, classes, generator=torch.Generator().manual_seed(seed))
    Messenger(logits.softmax(1), "x", 0).check("x", (4, classes))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"reference": "other"}, "about other reference examples"),
        ({"probabilities": torch.full((6, 4), 0.25)}, r"shape is \(6, 4\)"),
        ({"probabilities": broken((0, 0), torch.nan)}, "not finite"),
        ({"probabilities": broken((0, 0), torch.inf)}, "not finite"),
        ({"probabilities": broken((2, 1), 2.0)}, "1 of its rows do not sum to one"),
        ({"probabilities": torch.tensor([[1.5, -0.5, 0.0]]).expand(6, 3)}, "negative"),
    ],
)
def test_what_is_no_answer_is_refused_and_the_last_one_stays(fields, says):
    repository = MessengerRepository(REFERENCE, SHAPE)
    repository.put("a", messenger(1))
    with pytest.raises(RefusedError, match=says):
        repository.put("a", messenger(2, **fields))
    assert repository.rounds() == {"a": 1}


def test_an_older_messenger_does_not_replace_a_newer_one():
    repository = MessengerRepository(REFERENCE, SHAPE)
    repository.put("a", messenger(3))
    with pytest.raises(RefusedError, match="of round 2, and one of round 3"):
        repository.put("a", messenger(2))
    repository.put("a", messenger(3, seed=1))


def test_staleness_leaving_and_newcomers():
    repository = MessengerRepository(REFERENCE, SHAPE, maximum_staleness=2)
    repository.put("b", messenger(1))
    repository.put("a", messenger(3))
    assert repository.usable(3) == ["a", "b"]
    assert repository.usable(4) == ["a"]
    repository.learnt("a")
    assert repository.pupils == {"a"}
    repository.leave("a")
    repository.leave("never seen")
    assert "a" not in repository
    assert repository.usable(3) == ["b"]
    repository.put("a", messenger(6))
    assert not repository.pupils, "who comes back after leaving is a newcomer"
    repository.maximum_staleness = None
    assert repository.usable(1000) == ["a", "b"]


def test_a_messenger_is_a_copy_and_so_is_what_is_asked_for():
    given = messenger().probabilities.float()
    kept, repository = Messenger(given, REFERENCE, 0), MessengerRepository(REFERENCE, SHAPE)
    repository.put("a", kept)
    before = kept.probabilities.clone()
    given.zero_()
    repository.stacked(["a"]).zero_()
    assert torch.equal(repository.stacked(["a"])[0], before)


def test_it_is_read_back_as_it_was(tmp_path):
    repository = MessengerRepository(REFERENCE, SHAPE, maximum_staleness=7)
    for number, name in enumerate(("b", "a", "c d/é")):
        repository.put(name, messenger(number, seed=number))
    repository.put("a", messenger(5))
    repository.learnt("a")
    path = tmp_path / "state" / "messengers.safetensors"
    repository.save(path)
    again = MessengerRepository.load(path)
    assert again.rounds() == repository.rounds()
    assert again.maximum_staleness == 7
    assert torch.equal(again.stacked(again.usable(9)), repository.stacked(repository.usable(9)))
    assert again.pupils == {"a"}
    assert [path.name for path in path.parent.iterdir()] == ["messengers.safetensors"]


def test_a_fingerprint_is_of_values_order_shape_and_type():
    x = torch.arange(6.0)
    others = [x.flip(0), x.view(2, 3), x.double(), x + 1]
    assert len({fingerprint(x), *(fingerprint(other) for other in others)}) == 5
    assert fingerprint(x) == fingerprint(x.clone())


def test_its_size_is_two_bytes_a_number():
    assert messenger().bytes == 2 * 6 * 3
