"""Clients that learn from each other, in one process."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from swingkd.decentralized.aggregation import DSFL, Cronus, FedMD, RandomNeighbours, SDDist
from swingkd.decentralized.client import Client
from swingkd.decentralized.distillation import DecentralizedDistillation
from swingkd.decentralized.labelled_examples import LabelledExamples, logits_on
from swingkd.decentralized.message import Message, RefusedError
from swingkd.decentralized.messengers import MessengerRepository
from swingkd.decentralized.result import FederationResult
from swingkd.decentralized.server import MessengerServer, WeightServer
from swingkd.report.table import RunTable
from tests.decentralized.conftest import arguments, clients, examples, network
from tests.harness import flat


def federation(reference, rule=None, rounds=4, members=None, **fields) -> DecentralizedDistillation:
    members = members or clients(reference, **{k: v for k, v in fields.items() if k not in ("present", "output_dir")})
    others = {k: v for k, v in fields.items() if k in ("present", "output_dir")}
    return DecentralizedDistillation(members, MessengerServer(rule, reference), rounds=rounds, **others)


@pytest.mark.parametrize("rule", [None, SDDist(), RandomNeighbours(2), FedMD(), DSFL(), Cronus()], ids=str)
def test_every_rule_runs_and_the_same_seed_is_the_same_run(reference, rule):
    runs = [federation(reference, rule) for _ in range(2)]
    for run in runs:
        run.run()
    assert runs[0].result().accuracies == runs[1].result().accuracies
    for name, client in runs[0].clients.items():
        assert torch.equal(flat(client.model), flat(runs[1].clients[name].model))
    other = federation(reference, rule, seed=1)
    other.run()
    assert not torch.equal(flat(other.clients["client-0"].model), flat(runs[0].clients["client-0"].model))
    messenger = 2 * 40 * 3
    sent = [0, 0, 0, 0] if rule is None else [0, 5 * messenger, 5 * messenger, 5 * messenger]
    assert [happened.sent for happened in runs[0].history.rounds] == sent
    assert [happened.received for happened in runs[0].history.rounds] == (
        [0] * 4 if rule is None else [5 * messenger] * 4
    )


def test_a_client_follows_the_loss_that_is_written_down(reference):
    (client, _) = clients(reference, 2, rho=0.3, temperature=2.0, steps_per_round=1, batch_size=20)
    model = copy.deepcopy(client.model)
    client.args = arguments(rho=0.3, temperature=2.0, steps_per_round=1, batch_size=20, reference_batch_size=40)
    target = torch.randn(40, 3, generator=torch.Generator().manual_seed(5)).softmax(-1)
    client.learn(2, target)
    own = F.cross_entropy(model(client.private.inputs), client.private.labels)
    total = 0.0
    for logits, t in zip(model(reference.inputs), target, strict=True):
        q = (logits / 2).softmax(-1)
        p = t**0.5 / (t**0.5).sum()
        total = total + 4 * (p * (p / q).log()).sum()
    optimizer = torch.optim.AdamW(model.parameters(), lr=client.args.learning_rate, weight_decay=0.0)
    (0.7 * own + 0.3 * total / 40).backward()
    optimizer.step()
    for expected, found in zip(model.parameters(), client.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_reference_examples_leave_no_trace_in_batch_norms(reference):
    far = LabelledExamples(reference.inputs + 100, reference.labels, 3)
    runs = []
    for shared in (reference, far):
        client = Client("a", network(2), examples(20, seed=1), shared, arguments(learning_rate=1e-9))
        client.learn(0, torch.full((40, 3), 1 / 3))
        runs.append(client.model[0].running_mean)
    assert torch.equal(*runs)


def test_who_comes_late_or_goes_away(reference):
    def present(number):
        everyone = [f"client-{n}" for n in range(5)]
        return everyone[:4] if number < 2 else everyone[1:]

    run = federation(reference, SDDist(1.0, 3), rounds=5, present=present)
    asked, teachers = [], {}
    original, who = run.server.requests, run.server._who
    run.server.requests = lambda number, there: (
        asked.append((number, name, "target" in request.tensors)) or (name, request)
        for name, request in original(number, there)
    )
    run.server._who = lambda number, there: teachers.setdefault(number, who(number, there))
    run.run()
    targets = {(number, name): target for number, name, target in asked}
    assert not any(targets[0, f"client-{n}"] for n in range(4)), "the first round is learnt alone"
    assert all(targets[1, f"client-{n}"] for n in range(4))
    assert not targets[2, "client-4"], "a newcomer has said nothing yet"
    assert targets[3, "client-4"], "a newcomer is taught"
    assert teachers[3][2] == ["client-0", "client-1", "client-2", "client-3"], "before it teaches"
    assert "client-4" in teachers[4][2]
    assert run.server.repository.rounds() == {"client-0": 1, **{f"client-{n}": 4 for n in range(1, 5)}}
    assert len(run.result().accuracies) == 5


class Poisoner(Client):
    """Is sure of one class, whatever it is shown."""

    def messenger(self):
        return torch.eye(3)[torch.zeros(40, dtype=torch.int64)].half()


class Broken(Client):
    """Answers what is no answer."""

    def answer(self, message):
        answer = super().answer(message)
        kind = int(message.words["round"]) % 3
        wrong = {
            0: {"messenger": torch.full((40, 3), torch.nan)},
            1: {"messenger": torch.full((40, 5), 0.2)},
            2: dict(answer.tensors),
        }[kind]
        return Message(wrong, answer.words | ({"reference": "other"} if kind == 2 else {}))


def test_broken_and_poisoning_clients_are_survived_and_named(reference, caplog):
    honest = clients(reference, 6)
    bad = [
        kind(name, network(1), examples(20, seed=50), reference, arguments(), test=examples(50, seed=150))
        for kind, name in ((Poisoner, "poisoner"), (Broken, "broken"))
    ]
    run = federation(reference, SDDist(0.7, 3), rounds=6, members=[*honest, *bad])
    with caplog.at_level("WARNING"):
        run.run()
    assert [set(happened.refused) for happened in run.history.rounds] == [{"broken"}] * 6
    assert "not finite" in run.history.rounds[0].refused["broken"]
    assert "shape" in run.history.rounds[1].refused["broken"]
    assert "about other reference examples ('other', not" in run.history.rounds[2].refused["broken"]
    assert "the answer of broken is refused" in caplog.text
    clean = federation(reference, SDDist(0.7, 3), rounds=6, members=clients(reference, 6))
    clean.run()
    found, expected = run.result().accuracies, clean.result().accuracies
    mean = sum(found[name] for name in expected) / 6
    assert mean > sum(expected.values()) / 6 - 0.05


def test_a_client_that_fails_is_named_and_the_others_go_on(reference, tmp_path, caplog):
    class Failing(Client):
        def answer(self, message):
            if int(message.number("round")) in (1, 2):
                raise KeyError("4711")
            return super().answer(message)

    members = clients(reference, 3)
    members[1].__class__ = Failing
    run = federation(reference, SDDist(), members=members, output_dir=str(tmp_path))
    with caplog.at_level("WARNING"):
        run.run()
    assert [happened.refused.get("client-1") for happened in run.history.rounds] == [
        None,
        "it failed: KeyError",
        "it failed: KeyError",
        None,
    ]
    assert "client-1 failed" in caplog.text
    # What it said is kept from everybody's list of rounds: it may be a value.
    assert "4711" not in (tmp_path / "rounds.json").read_text()
    assert set(run.result().accuracies) == {"client-0", "client-1", "client-2"}


def test_where_every_client_fails_the_run_says_why(reference):
    class Failing(Client):
        def answer(self, message):
            raise KeyError("no such file")

    members = clients(reference, 2)
    for member in members:
        member.__class__ = Failing
    with pytest.raises(RuntimeError, match=r"Every client failed in round 0\. The first: 'no such file'"):
        federation(reference, SDDist(), members=members).run()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool, torch.int64])
def test_a_messenger_of_another_kind_is_refused(reference, dtype):
    server = MessengerServer(SDDist(), reference)
    list(server.requests(0, ["a"]))
    answer = Message({"messenger": torch.ones(40, 3).to(dtype)}, {"reference": reference.fingerprint()})
    with pytest.raises(RefusedError, match="probabilities are floats"):
        server.receive(0, "a", answer)


def averaged(reference, average, claims, folder=None):
    """Weights of three clients, the third of which lies; what the average becomes of them, round by round."""
    server = WeightServer(network(0), reference, average=average)
    means = []
    for number, said in enumerate(claims):
        list(server.requests(number, ["a", "b", "c"]))
        for client, claimed, value in zip("abc", said, (1.0, 2.0, 100.0), strict=True):
            weights = {name: torch.full_like(t, value) for name, t in server.last().tensors.items()}
            server.receive(number, client, Message(weights, {"examples": claimed}))
        server.close(number)
        means.append(float(flat(server.model)[0]))
        if folder is not None:
            # Killed and started again, it remembers.
            server.save(folder / "server.safetensors")
            server = WeightServer(network(0), reference, average=average)
            server.load(folder / "server.safetensors")
    return means


def test_what_a_client_claimed_first_bounds_what_it_claims_later(reference, tmp_path):
    honest = (1 + 2 + 100) / 3
    assert averaged(reference, "examples", [(10, 10, 10), (10, 10, 10**6)], tmp_path) == pytest.approx(
        [honest, honest]
    )
    # Less it may say.
    assert averaged(reference, "examples", [(10, 10, 10), (10, 10, 1)])[1] == pytest.approx((10 + 20 + 100) / 21)


def test_means_that_believe_nobody(reference):
    claims = [(10, 10, 10**6)]
    assert averaged(reference, "examples", claims)[0] > 99
    assert averaged(reference, "clients", claims)[0] == pytest.approx((1 + 2 + 100) / 3)
    assert averaged(reference, "median", claims)[0] == pytest.approx(2)
    with pytest.raises(ValueError, match="average='mode' is none of examples, clients, median"):
        WeightServer(network(0), reference, average="mode")


@pytest.mark.parametrize("steps", [0, 5])
def test_weights_are_averaged_as_written(reference, steps):
    members = clients(reference, 3, alike=True)
    members[2].private = examples(60, seed=7)
    server = WeightServer(network(1), reference, distillation_steps=steps)
    start = copy.deepcopy(server.model)
    run = DecentralizedDistillation(members, server, rounds=1)
    run.run()
    shares, models = [0.2, 0.2, 0.6], [client.model for client in members]
    mean = copy.deepcopy(start)
    for name, tensor in mean.state_dict().items():
        tensor.copy_(sum(share * model.state_dict()[name] for share, model in zip(shares, models, strict=True)))
    same = all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(mean.parameters(), server.model.parameters(), strict=True)
    )
    assert same == (steps == 0)
    if steps:
        target = torch.stack([logits_on(model, reference) for model in models]).mean(0).softmax(-1)
        before, after = (
            float(F.kl_div(logits_on(model, reference).log_softmax(-1), target, reduction="batchmean"))
            for model in (mean, server.model)
        )
        assert after < before
    # Everybody goes home with the average.
    run.result()
    assert all(torch.equal(flat(client.model), flat(members[0].model)) for client in members)
    assert run.history.rounds[0].received == 3 * run.history.rounds[0].sent // 3 > 0


def test_weights_that_are_none_are_refused(reference):
    members = clients(reference, 3, alike=True)
    server = WeightServer(network(1), reference)
    run = DecentralizedDistillation(members, server, rounds=2)
    members[1].model[0].weight.data[0, 0] = math.nan
    members[1].learn = lambda *_: members[1].model[0].weight.data.fill_(math.nan)
    run.run()
    assert [happened.refused for happened in run.history.rounds] == [{"client-1": "its weights are not finite"}] * 2
    assert all(bool(t.isfinite().all()) for t in server.model.state_dict().values())


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("kind", ["messengers", "weights"])
def test_a_stopped_run_goes_on_to_the_same_end(reference, tmp_path, stop, kind):
    def make(folder, rounds):
        alike = kind == "weights"
        server = WeightServer(network(1), reference) if alike else MessengerServer(SDDist(), reference)
        return DecentralizedDistillation(
            clients(reference, alike=alike), server, rounds=rounds, output_dir=str(folder)
        )

    whole = make(tmp_path / "whole", 4)
    whole.run()
    make(tmp_path / "parts", stop).run()
    again = make(tmp_path / "parts", 4)
    again.run(resume_from_checkpoint=True)
    assert again.result().accuracies == whole.result().accuracies
    for name, client in whole.clients.items():
        assert torch.equal(flat(client.model), flat(again.clients[name].model))
    assert [h.present for h in again.history.rounds] == [h.present for h in whole.history.rounds]


@pytest.mark.parametrize("after", [1, 3, 5])
@pytest.mark.parametrize("kind", ["messengers", "weights"])
def test_a_run_killed_within_a_round_goes_on_to_the_same_end(reference, tmp_path, after, kind):
    def make(folder):
        alike = kind == "weights"
        server = WeightServer(network(1), reference) if alike else MessengerServer(SDDist(), reference)
        return DecentralizedDistillation(clients(reference, alike=alike), server, rounds=3, output_dir=str(folder))

    whole, killed = make(tmp_path / "whole"), make(tmp_path / "killed")
    whole.run()
    answers = iter(range(5 + after))
    original = Client.save

    def save(client, folder):
        original(client, folder)
        if next(answers, None) is None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "save", save)
        with pytest.raises(KeyboardInterrupt):
            killed.run()
    assert len(killed.history.rounds) == 1 + (after == 5)
    again = make(tmp_path / "killed")
    again.run(resume_from_checkpoint=True)
    assert again.result().accuracies == whole.result().accuracies
    for name, client in whole.clients.items():
        assert torch.equal(flat(client.model), flat(again.clients[name].model))


def test_clients_with_dp_keep_ledgers_and_the_target_moves_them(reference, tmp_path):
    members = clients(reference, 3, alike=True, target_epsilon=8.0, batch_size=4)
    run = federation(reference, SDDist(), members=members, output_dir=str(tmp_path))
    run.run()
    for client in members:
        assert client.private_steps == 4 * 5
        assert client.ledger.epsilon() == pytest.approx(8.0, rel=0.01)
        assert "each of the other clients keeps a ledger of its own" in str(client.ledger)
    again = clients(reference, 3, alike=True, target_epsilon=8.0, batch_size=4)
    resumed = federation(reference, SDDist(), members=again, output_dir=str(tmp_path))
    resumed.run(resume_from_checkpoint=True)
    assert [client.private_steps for client in again] == [20, 20, 20]
    with pytest.raises(ValueError, match=r"written with target_epsilon=8.0, now it is None"):
        federation(
            reference, SDDist(), members=clients(reference, 3, alike=True, batch_size=4), output_dir=str(tmp_path)
        ).run(True)


def test_one_model_is_one_clients(reference):
    members = clients(reference, 2)
    members[1].model = members[0].model
    with pytest.raises(ValueError, match="Two clients have one model"):
        federation(reference, SDDist(), members=members)


def test_names_and_classes_must_fit(reference):
    twice = [clients(reference, 1)[0], clients(reference, 1)[0]]
    with pytest.raises(ValueError, match="Two clients have one name"):
        federation(reference, members=twice)
    with pytest.raises(ValueError, match="has 4 classes, the reference examples 3"):
        Client("a", network(0), examples(9, 0, classes=4), reference, arguments())
    with pytest.raises(ValueError, match="is a batch norm"):
        Client("a", network(2), examples(9, 0), reference, arguments(target_epsilon=8.0), test=examples(9, 1))
    with pytest.raises(ValueError, match="Linear has 4 classes, not 3"):
        Client("a", network(0, classes=4), examples(9, 0), reference, arguments())


def test_swing_softens_what_is_said_of_private_references_and_learns_private_examples_less(reference):
    from dataclasses import replace

    likelihood = torch.linspace(0, 1, 40)
    tagged = replace(reference, likelihood=likelihood)
    own = replace(examples(20, 0), likelihood=torch.linspace(0, 1, 20))
    client = Client("a", network(1), own, tagged, arguments(max_temperature=10.0))
    logits = logits_on(client.model, reference).double()
    for row, said in enumerate(client.messenger().double()):
        temperature = 10 if likelihood[row] >= 0.5 else 1
        assert torch.allclose(said, (logits[row] / temperature).softmax(-1), atol=1e-3)
    rows = torch.arange(20)
    naive = [
        float(own.likelihood[n] < 0.5)
        * float(-client.model(own.inputs[n]).detach().double().log_softmax(-1)[own.labels[n]])
        for n in range(20)
    ]
    assert torch.allclose(client.own_losses(rows).double(), torch.tensor(naive, dtype=torch.float64), atol=1e-6)
    # Without it, likelihoods change nothing.
    plain = Client("a", client.model, own, tagged, arguments())
    assert torch.allclose(plain.messenger().double(), logits.softmax(-1), atol=1e-3)
    assert torch.allclose(plain.own_losses(rows)[-1], F.cross_entropy(plain.model(own.inputs)[-1:], own.labels[-1:]))


@pytest.mark.parametrize(("warm_up", "first"), [(0, 1), (1, 1), (3, 3)])
def test_learning_alone_lasts_as_long_as_is_said(reference, warm_up, first):
    members = clients(reference, 3)
    server = MessengerServer(FedMD(), reference, warm_up_rounds=warm_up)
    run = DecentralizedDistillation(members, server, rounds=5)
    run.run()
    # With no warm-up the first round is alone as well: nobody has said anything yet.
    assert [happened.sent > 0 for happened in run.history.rounds] == [number >= first for number in range(5)]


def test_a_newcomer_that_was_away_is_taught_before_it_teaches(reference):
    there = {0: [0, 1], 1: [0, 1, 2], 2: [0, 1], 3: [0, 1, 2], 4: [0, 1, 2]}
    server, teachers = MessengerServer(FedMD(), reference), {}
    who = server._who
    server._who = lambda number, present: teachers.setdefault(number, who(number, present))
    present = lambda number: [f"client-{n}" for n in there[number]]  # noqa: E731
    DecentralizedDistillation(clients(reference, 3), server, rounds=5, present=present).run()
    assert ["client-2" in teachers[number][2] for number in range(5)] == [False, False, False, False, True]


def test_noise_is_planned_for_all_rounds_and_not_for_more(reference):
    members = clients(reference, 2, alike=True, target_epsilon=8.0, batch_size=4, rounds=2)
    with pytest.raises(ValueError, match="has noise for 2 rounds, not for 3"):
        DecentralizedDistillation(members, MessengerServer(SDDist(), reference), rounds=3)
    run = DecentralizedDistillation(members, MessengerServer(SDDist(), reference), rounds=2)
    run.run()
    with pytest.raises(ValueError, match="noise for 2 rounds, and they are over"):
        members[0].answer(Message({}, {"run": run.history.run, "round": 2, "wants": "messenger"}))
    assert members[0].private_steps == 10
    assert members[0].ledger.epsilon() <= 8


def test_what_a_client_does_not_give_it_refuses(reference):
    client = clients(reference, 1, share_weights=False)[0]
    ask_for = {"run": "a", "round": 0, "wants": "messenger"}
    stolen = {f"weight.{name}": t for name, t in client.model.state_dict().items()}
    for message, says in (
        (Message({}, ask_for | {"wants": "weights"}), "keeps its weights"),
        (Message(stolen, ask_for), "keeps its weights"),
        (Message({"target": torch.full((40, 3), torch.nan)}, ask_for), "the target is not finite"),
        (Message({"target": torch.ones(7, 3)}, ask_for), r"a target of shape \(7, 3\)"),
    ):
        with pytest.raises(ValueError, match=says):
            client.answer(message)
    client.answer(Message({}, ask_for))
    with pytest.raises(ValueError, match="takes part in another run"):
        client.answer(Message({}, ask_for | {"run": "b", "round": 1}))
    sharing = clients(reference, 1)[0]
    with pytest.raises(ValueError, match="weights that are not finite"):
        sharing.answer(Message({name: t * torch.nan for name, t in stolen.items()}, ask_for | {"wants": "weights"}))
    with pytest.raises(ValueError, match="needs test examples"):
        Client("a", network(1), examples(9, 0), reference, arguments(target_epsilon=8.0))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"reference": None}, "does not say reference"),
        ({"seconds": "soon"}, "it says seconds='soon'"),
        ({"seconds": float("nan")}, "it says seconds='nan'"),
    ],
)
def test_an_answer_with_wrong_words_is_refused_and_the_run_goes_on(reference, words, says):
    class Babbler(Client):
        def answer(self, message):
            answer = super().answer(message)
            return Message(answer.tensors, {k: v for k, v in (answer.words | words).items() if v is not None})

    members = clients(reference, 3)
    members[1].__class__ = Babbler
    run = federation(reference, SDDist(), members=members)
    run.run()
    assert all(says in happened.refused["client-1"] for happened in run.history.rounds)
    assert "client-1" not in run.server.repository


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"accuracy": 5.0}, "it says accuracy='5.0': a number from 0 to 1"),
        ({"accuracy": "much"}, "it says accuracy='much'"),
        ({"ledger": "{"}, "is refused"),
        ({"ledger": "[]"}, "is refused"),
    ],
)
def test_a_last_answer_that_is_none_is_left_out(reference, caplog, words, says):
    good = clients(reference, 1)[0].answer(Message({}, {"run": "a", "round": 1, "wants": "accuracy"}))
    found = FederationResult.of({"good": good, "bad": good.with_words(**words)}, [])
    assert list(found.accuracies) == list(found.ledgers) == ["good"]
    assert says in caplog.text
    with pytest.raises(RuntimeError, match="No client told its accuracy"):
        FederationResult.of({}, []).rows("a", "b")


def test_least_is_promised_by_who_promises_nothing(reference):
    private = Client(
        "p", network(1), examples(20, 0), reference, arguments(target_epsilon=8.0, batch_size=4), test=examples(9, 1)
    )
    plain = clients(reference, 1)[0]
    found = FederationResult({"p": 1.0, "q": 1.0}, ledgers={"p": private.ledger, "q": plain.ledger})
    assert found.weakest is plain.ledger or found.weakest.epsilon() is None
    assert "how many examples there are" in str(private.ledger.to_dict())


def test_a_client_may_be_called_anything(reference, tmp_path):
    members = clients(reference, 4)
    for client, name in zip(members, ("Ann Smith", "__metadata__", "..", "a/b=c"), strict=True):
        client.name = name
    run = DecentralizedDistillation(members, MessengerServer(FedMD(), reference), rounds=2, output_dir=str(tmp_path))
    run.run()
    assert sorted(p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("client.safetensors")) == ["clients"] * 4
    found = MessengerRepository.load(tmp_path / "server-2.safetensors")
    assert set(found.rounds()) == {client.name for client in members}
    table = RunTable(run.result().rows("fedmd", "table=main seed=0"))
    assert len(table.clients(("fedmd", "table=main"))) == 4


def test_a_used_folder_is_gone_on_with_or_refused(reference, tmp_path):
    run = federation(reference, FedMD(), output_dir=str(tmp_path))
    run.run()
    with pytest.raises(ValueError, match=r"holds a run\. Resume it"):
        federation(reference, FedMD(), output_dir=str(tmp_path)).run()
    other = clients(reference, 5)
    other[0].private = examples(20, seed=77)
    with pytest.raises(ValueError, match="written with other examples of client-0"):
        federation(reference, FedMD(), members=other, output_dir=str(tmp_path)).run(True)


def test_tied_weights_are_saved_and_feddf_follows_from_its_seed_with_dropout(reference, tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
            self.second.weight = self.first.weight
            self.layers = torch.nn.Sequential(self.first, torch.nn.Dropout(0.5), self.second, torch.nn.Linear(2, 3))

        def forward(self, inputs):
            return self.layers(inputs)

    found = []
    for _ in range(2):
        torch.manual_seed(0)
        start = Tied()
        members = [
            Client(f"c{n}", copy.deepcopy(start), examples(20, n), reference, arguments(), examples(9, 7))
            for n in range(2)
        ]
        torch.manual_seed(len(found))
        server = WeightServer(copy.deepcopy(start), reference, distillation_steps=3)
        folder = tmp_path / str(len(found))
        DecentralizedDistillation(members, server, rounds=2, output_dir=str(folder)).run()
        found.append(server.last().tensors)
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@pytest.mark.reported
def test_a_clients_file_that_was_edited_is_refused(reference, tmp_path):
    """With fewer private steps in it, a client would spend more than it says."""
    (client, _) = clients(reference, 2, target_epsilon=8.0)
    client.learn(0)
    client.save(tmp_path)
    path = tmp_path / "client.safetensors"
    with safe_open(path, "pt") as file:
        words = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    first = next(name for name in sorted(tensors) if tensors[name].is_floating_point())
    edits = (
        (words | {"private_steps": 0}, tensors),
        (words | {"answered": 7}, tensors),
        (words, tensors | {first: tensors[first] + 1}),
    )
    for said, held in edits:
        save_file(held, path, {"state": json.dumps(said)})
        with pytest.raises(ValueError, match="was changed after it was written, so what client-0 spent is not known"):
            clients(reference, 2, target_epsilon=8.0)[0].load(tmp_path)
    save_file(tensors, path, {"state": json.dumps(words)})
    assert clients(reference, 2, target_epsilon=8.0)[0].load(tmp_path)


@pytest.mark.reported
def test_a_servers_file_that_was_edited_is_refused(reference, tmp_path):
    federation(reference, SDDist(), rounds=1, output_dir=str(tmp_path)).run()
    (path,) = tmp_path.glob("server-*.safetensors")
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(ValueError, match="is gone, or was changed after"):
        federation(reference, SDDist(), rounds=2, output_dir=str(tmp_path)).run(resume_from_checkpoint=True)
