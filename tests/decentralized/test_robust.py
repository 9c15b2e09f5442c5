"""Nobody ends a run or spoils it: answers made to break the server, clients that fail, models that are shared."""

import copy
import itertools
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from swingkd.decentralized import Client, DecentralizedDistillation, FedMD, MessengerServer, SDDist, WeightServer
from swingkd.decentralized.labelled_examples import LabelledExamples
from swingkd.decentralized.message import Message, RefusedError, named_weights
from swingkd.decentralized.messengers import packed, unpacked
from swingkd.decentralized.result import FederationResult
from swingkd.decentralized.rounds import Round
from tests.decentralized.conftest import arguments, clients, examples, network
from tests.harness import assert_same
from tests.second_device import AWAY, second_device


def answer_of(reference, tensors):
    return Message(tensors, {"seconds": 0.0, "reference": reference.fingerprint(), "round": 0})


@pytest.mark.parametrize(
    "parts",
    [
        {"messenger.places": torch.zeros(40, 2, dtype=torch.complex64)},
        {"messenger.places": torch.zeros(40, 2, dtype=torch.bool)},
        {"messenger.kept": torch.zeros(40, 2, dtype=torch.complex64)},
        {"messenger": torch.zeros(40, 3, dtype=torch.complex64)},
        {"messenger": torch.zeros(40, 3).to_sparse()},
        {"messenger": torch.tensor(math.nan)},
    ],
)
def test_whatever_a_stranger_sends_the_round_goes_on(reference, parts):
    """Some of these raise what nobody expects of a tensor."""
    server, happened = MessengerServer(SDDist(neighbours=1), reference), Round(0, ["a"])
    whole = packed(torch.rand(40, 3).softmax(1).half(), 2)
    happened.take(server, "a", Message(), answer_of(reference, whole | parts))
    assert set(happened.refused) == {"a"}
    assert len(server.repository) == 0


def test_nothing_larger_is_made_of_an_answer_than_there_are_labels():
    """A few megabytes that name a row each would become gigabytes of a large vocabulary."""
    said = {
        "messenger.kept": torch.zeros(200_000, 1, dtype=torch.float16),
        "messenger.places": torch.zeros(200_000, 1, dtype=torch.int32),
        "messenger.rest": torch.zeros(200_000, dtype=torch.float16),
    }
    with pytest.raises(RefusedError, match="40 labels of 50000 classes"):
        unpacked(said, (40, 50_000))


def test_a_last_answer_that_breaks_its_reader_is_left_out(reference):
    words = {"accuracy": 0.5, "ledger": "[" * 200_000}
    assert FederationResult.of({"a": Message({}, words)}, []).accuracies == {}


@pytest.mark.parametrize("average", ["clients", "median"])
def test_weights_that_end_in_no_number_do_not_spoil_the_average(reference, average):
    """FedDF: finite weights, of which the logits are none."""
    server = WeightServer(network(1), reference, distillation_steps=3, average=average)
    own = named_weights(server.model)
    list(server.requests(0, ["a", "b", "c"]))
    for name, factor in (("a", 1.0), ("b", 1.0), ("c", 1e38)):
        weights = {
            key: (torch.ones_like(value) * factor if factor > 1 else value.clone()) for key, value in own.items()
        }
        words = {"examples": 5, "seconds": 0.0, "frozen": ""}
        server.receive(0, name, Message(weights, words))
    server.close(0)
    after = server.last().tensors
    assert all(bool(value.isfinite().all()) for value in after.values())
    if average == "median":
        assert max(float(value.abs().max()) for value in after.values()) < 10


def test_a_client_that_failed_is_as_it_was_before(reference, tmp_path):
    """In one process nothing is reread: weights that are no numbers would fail in every round to come."""
    some = clients(reference, 3)
    before = copy.deepcopy(named_weights(some[0].model))
    losses, rounds = some[0].own_losses, []

    def fails_once(rows):
        rounds.append(1)
        # In its second round.
        return losses(rows) * (math.nan if 5 < len(rounds) <= 10 else 1.0)

    some[0].own_losses = fails_once
    run = DecentralizedDistillation(some, MessengerServer(FedMD(), reference), rounds=4)
    run.run()
    refused = [happened.refused for happened in run.history.rounds]
    assert refused == [{}, {"client-0": "it failed: ValueError"}, {}, {}]
    assert set(run.result().accuracies) == {"client-0", "client-1", "client-2"}
    assert not torch.equal(before["weight.weight"], some[0].model.weight)


@pytest.mark.parametrize("like", [False, True])
def test_a_clients_model_may_lie_on_another_device(reference, like):
    own = examples(20, seed=0)
    here = Client("a", network(1), own, reference, arguments(), test=own)
    target = torch.rand(40, 3).softmax(1)
    words = {"round": 0, "run": "r", "wants": "weights" if like else "messenger"}
    expected = here.answer(Message({"target": target}, words)).tensors
    with second_device():
        there = Client("a", network(1).to(AWAY), own, reference, arguments(), test=own)
        found = there.answer(Message({"target": target}, words)).tensors
        assert all(tensor.device.type == "cpu" for tensor in found.values())
        told = there.answer(Message({}, {"round": 1, "run": "r", "wants": "accuracy"}))
    assert_same(found, expected, rtol=1e-3, atol=1e-3)
    assert told.words["accuracy"] >= 0


@pytest.mark.parametrize(
    ("inputs", "labels", "says"),
    [
        ([[0.0, math.nan], [1.0, 2.0]], [0, 1], r"inputs .* in 1 of 2 examples \(the first: 0\)"),
        ({"x": np.array([[0.0], [np.inf]])}, [0, 1], r"x holds numbers .* \(the first: 1\)"),
        ([[0.0], [1.0]], ["cat", "dog"], "encode names of classes"),
        ([[0.0], [1.0]], [0.0, 1.0], "whole numbers are needed"),
        ([[0.0], [1.0]], [[[0]], [[1]]], "whole numbers are needed"),
    ],
)  # fmt: skip
def test_examples_that_cannot_be_learnt_are_refused_with_counts(inputs, labels, says):
    with pytest.raises(ValueError, match=says):
        LabelledExamples(inputs, labels, 2)


def test_lists_and_arrays_are_examples_too():
    lists = LabelledExamples([[0.0, 1.0], [2.0, 3.0]], [0, 1], 2)
    arrays = LabelledExamples(np.array([[0.0, 1.0], [2.0, 3.0]], np.float32), np.array([0, 1], np.int32), 2)
    assert lists.fingerprint() == arrays.fingerprint()


def nodes_of(clients_there, silent=(), failing=()):
    """Return what stands for Flower's link: nodes that say who they are, say nothing, or fail."""
    from flwr.app import Error, RecordDict
    from flwr.app import Message as FlowerMessage
    from flwr.common.constant import ErrorCode

    from swingkd.decentralized.flower import record_of

    asked = []

    def send_and_receive(messages, timeout=None):
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            asked.append(node)
            if node in failing:
                error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "no client in its configuration")
                replies.append(FlowerMessage(error, reply_to=message))
            elif node not in silent:
                name = Message({}, {"name": clients_there[node]})
                replies.append(FlowerMessage(record_of(name) or RecordDict(), reply_to=message))
        return replies

    everybody = [*clients_there, *silent, *failing]
    return SimpleNamespace(get_node_ids=lambda: everybody, send_and_receive=send_and_receive), asked


@pytest.mark.parametrize("kind", ["silent", "failing"])
def test_a_node_that_never_says_who_it_is_ends_and_delays_nothing(kind, flower):
    grid, asked = nodes_of({1: "a", 2: "b"}, **{kind: [7]})
    known, tried = {}, Counter()
    for _ in range(6):
        known = flower.available_nodes(grid, known, 2, 60.0, tried)
        assert known == {"a": 1, "b": 2}
    assert asked.count(7) == 3


def test_a_node_that_comes_back_is_asked_again_however_often(flower):
    """With Flower's node authentication it keeps its number."""
    grid, asked = nodes_of({1: "a", 2: "b", 3: "c"})
    known, tried = {}, Counter()
    for number in range(12):
        grid.get_node_ids = lambda number=number: [1, 2, 3] if number % 2 else [1, 2]
        known = flower.available_nodes(grid, known, 2, 60.0, tried)
        assert len(known) == (3 if number % 2 else 2)
    assert asked.count(3) == 6


def test_where_nobody_but_broken_nodes_is_there_the_run_ends_and_says_why(flower):
    """A simulation that has too few processors for one client failed for ever, in a log that nobody reads."""
    grid, asked = nodes_of({}, failing=[3, 4])
    with pytest.raises(RuntimeError, match="The first says: no client in its configuration"):
        flower.available_nodes(grid, {}, 2, 60.0, Counter())
    assert Counter(asked) == {3: 3, 4: 3}


def test_a_model_that_another_client_has_trained_is_refused(flower, reference, tmp_path):
    """A model at the top of a module is one for all clients of a worker."""
    from flwr.app import Context, RecordDict

    shared = network(1)

    def app_of(model_of):
        return flower.client_app(
            lambda context: Client(
                flower.node_name(context), model_of(), examples(20, seed=0), reference, arguments(), test=reference
            )
        )

    def ask(app, number):
        request = flower.FlowerMessage(
            flower.record_of(Message({}, {"round": 0, "run": "r", "wants": "nothing"})), number, "train"
        )
        context = Context(1, number, {"partition-id": number, "output-dir": str(tmp_path)}, RecordDict(), {})
        return app(request, context)

    app = app_of(lambda: shared)
    assert ask(app, 0).has_content()
    with pytest.raises(ValueError, match="'client-1' the model of 'client-0'"):
        ask(app, 1)
    own = app_of(lambda: network(1))
    assert ask(own, 2).has_content()
    assert ask(own, 3).has_content()


def test_an_app_can_be_sent_to_other_processes(flower):
    """Flower's simulation does so with Ray's pickle, and all that the app's functions read."""
    from ray import cloudpickle

    app = flower.client_app(lambda context: None)
    assert cloudpickle.loads(cloudpickle.dumps(app))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *itertools.product(
            ["flwr.clientapp.mod", "flwr.client.mod"], ["fixedclipping_mod", "adaptiveclipping_mod", "LocalDpMod"]
        ),
        ("flwr.client.mod", "secagg_mod"),
        ("flwr.client.mod", "secaggplus_mod"),
    ],
)
def test_mods_that_change_weights_are_refused_wherever_they_come_from(module, name, flower):
    found = getattr(pytest.importorskip(module), name)
    # One that is built on it promises the same.
    mod = type("Mine", (found,), {})(1.0, 1.0, 1.0, 1e-5) if name == "LocalDpMod" else found
    with pytest.raises(ValueError, match="target_epsilon"):
        flower.client_app(lambda context: None, mods=[mod])


@pytest.fixture
def flower(monkeypatch):
    """The module that needs Flower."""
    pytest.importorskip("flwr")
    from flwr.supercore.task_identity import TaskIdentity

    from swingkd.decentralized import flower

    # Flower's own processes are told by whoever starts them.
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(flower.time, "sleep", lambda seconds: None)
    return flower


def test_a_node_without_a_number_that_there_is_says_so(flower):
    def context(**node):
        return SimpleNamespace(node_config=node, run_config={})

    assert flower.node_name(context(**{"partition-id": 3})) == "client-3"
    with pytest.raises(ValueError, match="does not say who it is"):
        flower.node_name(context())


def test_the_templates_clients_share_no_example(flower):
    import runpy
    from pathlib import Path

    app = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "flower_app" / "digits_app.py"))

    def client(number, count):
        return app["make_client"](
            SimpleNamespace(node_config={"partition-id": number, "num-partitions": count}, run_config={"rounds": 2})
        )

    own = [client(number, 4) for number in range(4)]
    shown = [row.numpy().tobytes() for one in own for part in (one.private, one.test) for row in part.inputs]
    assert len(shown) == len(app["examples"]()[1])
    with pytest.raises(ValueError, match="of 4 clients the last is 3"):
        client(4, 4)
