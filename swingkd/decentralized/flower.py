"""Clients and a server of one's own on Flower: `flwr run` in simulation, or a SuperLink with SuperNodes.

Nothing of the method is here: a message becomes a Flower message and back.  What a client knows lives in a folder on
its own machine, so that a node that crashed goes on where it was.

    client = client_app(make_client)  # make_client(context) -> Client
    server = server_app(make_rounds)  # make_rounds(context) -> Rounds
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from filelock import FileLock
from flwr.app import ArrayRecord, ConfigRecord, Context, MessageType, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from torch import nn

from swingkd.decentralized.client import Client
from swingkd.decentralized.distillation import client_folder
from swingkd.decentralized.message import Message, RefusedError
from swingkd.decentralized.result import FederationResult
from swingkd.decentralized.rounds import History, Round
from swingkd.decentralized.server import Server

log = logging.getLogger(__name__)

# Seconds in which a new node must say who it is, where enough others are there.
_INTRODUCTION = 60.0
# Mods that change the update of a model; in a messenger there is none.
_DP_MODS = ("LocalDpMod", "fixedclipping_mod", "adaptiveclipping_mod")
_SECURE_MODS = ("secagg_mod", "secaggplus_mod")
# What a node says that would say it again; one that is gone, or whose answer is, may come back.
_BROKEN = (
    ErrorCode.UNKNOWN,
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION,
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
    ErrorCode.MOD_FAILED_PRECONDITION,
    ErrorCode.INVALID_FAB,
)
# So often is a node asked who it is before others wait for it no more.
_ASKED = 3
# Whose a model is, as long as it lives in this process.
_OWNERS: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
# Where a client keeps what it knows, unless its node or the run says it.
_FOLDER = "out/federation"


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """What a server does.

    Args:
        server: its part of the method, such as `MessengerServer(SDDist(), reference)`.
        rounds: how many.
        output_dir: where it keeps what it knows, and the result.
        min_nodes: nodes that a round waits for.
        patience: seconds that a round waits for answers.
    """

    server: Server
    rounds: int
    output_dir: Path = Path(_FOLDER)
    min_nodes: int = 2
    patience: float = 600.0


def client_app(
    make_client: Callable[[Context], Client],
    *,
    name_of: Callable[[Context], str] | None = None,
    mods: Sequence[Any] = (),
) -> ClientApp:
    """Return a ClientApp whose nodes are clients of one's own.

    Args:
        make_client: builds a node's client anew for each message: its model, its examples, the reference examples.
            What it learnt is read from its folder, `output-dir` of the node's or the run's configuration.
        name_of: says who a node is, cheaply; default: see `node_name`.  The client must have that name.
        mods: Flower's, such as `message_size_mod`; those that clip or noise updates are refused.

    Raises:
        ValueError: a mod changes what is promised.
    """
    _check_mods(mods)
    who = name_of or node_name
    app = ClientApp(mods=list(mods))

    @app.query()
    def introduce(request: FlowerMessage, context: Context) -> FlowerMessage:
        """Say which client this node is."""
        return FlowerMessage(record_of(Message({}, {"name": who(context)})), reply_to=request)

    @app.train()
    def answer(request: FlowerMessage, context: Context) -> FlowerMessage:
        """Do what the server asks for; what is known is written down before the answer leaves."""
        client, name = make_client(context), who(context)
        if client.name != name:
            raise ValueError(
                f"The client of this node is called {client.name!r}, and the node says that it is {name!r}."
            )
        _check_own(client)
        folder = client_folder(Path(str(_setting(context, "output-dir", _FOLDER))).expanduser(), name)
        folder.mkdir(parents=True, exist_ok=True)
        # A request that was given up may still be at work: the next one goes on from what it leaves.
        with FileLock(folder / "client.lock"):
            client.load(folder)
            message = client.answer(message_of(request.content))
            client.save(folder)
        return FlowerMessage(record_of(message), reply_to=request)

    return app


def _check_own(client: Client) -> None:
    """Refuse a model that another client has trained in this process: one at the top of a module, say.

    A function of its own, since Flower's simulation pickles what the app's functions read.

    Raises:
        ValueError: says whose it is.
    """
    owner = _OWNERS.setdefault(client.model, client.name)
    if owner != client.name:
        raise ValueError(
            f"make_client gave {client.name!r} the model of {owner!r}, with all that it has learnt. Build a new one "
            "in make_client, for each client."
        )


def server_app(make_rounds: Callable[[Context], Rounds]) -> ServerApp:
    """Return a ServerApp that runs the rounds that are left, with whoever is there.

    Args:
        make_rounds: says what is done, from the run's configuration.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        """Run the rounds that are left."""
        serve(grid, make_rounds(context))

    return app


def node_name(context: Context) -> str:
    """Return who a node is: `client` of its configuration, or, in a simulation, its number.

    Raises:
        ValueError: it says neither.
    """
    node = context.node_config
    if "client" not in node and "partition-id" not in node:
        raise ValueError("This node does not say who it is: --node-config 'client=\"name\"'.")
    return str(node["client"]) if "client" in node else f"client-{node['partition-id']}"


def _setting(context: Context, name: str, default: Any) -> Any:
    """Return what the node's configuration says, or the run's."""
    return context.node_config.get(name, context.run_config.get(name, default))


def _check_mods(mods: Sequence[Any]) -> None:
    """Refuse mods that clip, noise or mask the update of a model: there is none in a messenger."""
    for mod in mods:
        # By their names: Flower has each in two modules, as other objects.
        names = {getattr(mod, "__name__", ""), *(kind.__name__ for kind in type(mod).__mro__)}
        name = getattr(mod, "__name__", type(mod).__name__)
        if names & set(_DP_MODS):
            raise ValueError(
                f"{name} clips or noises updates of weights, and a messenger is none: what it would promise does not "
                "hold here. Train clients by DP-SGD: ClientArguments(target_epsilon=...)."
            )
        if names & set(_SECURE_MODS):
            raise ValueError(
                f"{name} hides each client's update in the sum of all, and SD-Dist needs each messenger for itself: "
                "who resembles whom decides who teaches whom. Leave it out; what a messenger gives away is bounded by "
                "ClientArguments(target_epsilon=...)."
            )


def record_of(message: Message) -> RecordDict:
    """Return a message as Flower carries it."""
    return RecordDict(
        {"tensors": ArrayRecord(torch_state_dict=message.tensors), "words": ConfigRecord({**message.words})}
    )


def message_of(record: RecordDict) -> Message:
    """Return what Flower carried.

    Raises:
        RefusedError: it is something else.
    """
    tensors, words = record.get("tensors"), record.get("words")
    if not isinstance(tensors, ArrayRecord) or not isinstance(words, ConfigRecord):
        raise RefusedError("it is no message")
    plain = {key: value for key, value in words.items() if isinstance(value, str | int | float)}
    try:
        return Message(dict(tensors.to_torch_state_dict()), plain)
    except Exception as error:  # another machine wrote it: anything may be wrong with it
        raise RefusedError(f"its tensors cannot be read ({type(error).__name__})") from error


def serve(grid: Grid, plan: Rounds) -> None:
    """Run the rounds that are left, and write the result.

    Args:
        grid: reaches the nodes.
        plan: what is done.
    """
    server, least, patience = plan.server, plan.min_nodes, plan.patience
    history = History(plan.output_dir)
    history.load(server)
    history.begin(server)
    run, nodes, asked = history.run, dict[str, int](), Counter[int]()
    while (number := len(history.rounds)) < plan.rounds:
        nodes = available_nodes(grid, nodes, least, patience, asked)
        happened = Round(number, sorted(nodes))
        requests = dict(server.requests(number, happened.present))
        sent = {name: (nodes[name], message.with_words(run=run)) for name, message in requests.items()}
        answers = exchange(grid, sent, patience)
        if not answers:
            # Whoever learnt all the same answers at once when it is asked again: no round is learnt twice.
            log.warning("Round %d: nobody answered within %g seconds; it is tried again.", number, patience)
            continue
        for name, request in requests.items():
            if name in answers:
                happened.take(server, name, request, answers[name])
            else:
                happened.refused[name] = "no answer came"
        server.close(number)
        history.add(happened, server)
    last = Message(server.last().tensors, {"run": run, "round": plan.rounds, "wants": "accuracy"})
    answered: dict[str, Message] = {}
    while not answered:
        nodes = available_nodes(grid, nodes, least, patience, asked)
        answered = exchange(grid, {name: (node, last) for name, node in nodes.items()}, patience)
    FederationResult.of(answered, history.rounds).save(plan.output_dir / "result.json")


def available_nodes(
    grid: Grid, known: dict[str, int], least: int, patience: float, asked: Counter[int] | None = None
) -> dict[str, int]:
    """Return the nodes that are there, by their clients' names; wait until they are enough.

    Node numbers are random, and a client that comes back has another one: each new node is asked who it is, and is
    believed.  Flower's node authentication says who may join.

    Args:
        grid: reaches the nodes.
        known: of the round before.
        least: how many are needed.
        patience: seconds to wait for answers, where they are too few.
        asked: how often each was asked in vain; it is added to.  Where enough are there, nobody waits for a node that
            never says who it is.

    Raises:
        RuntimeError: nobody is there but nodes that fail whenever they are asked.
    """
    asked, broken = Counter() if asked is None else asked, 0
    while True:
        there = set(grid.get_node_ids())
        nodes = {name: node for name, node in known.items() if node in there}
        enough = len(nodes) >= least
        new = {node for node in there - set(nodes.values()) if not enough or asked[node] < _ASKED}
        queries = [FlowerMessage(record_of(Message()), node, MessageType.QUERY) for node in sorted(new)]
        # Where a machine starts several nodes at once, each takes its time: nothing is lost by waiting for them.
        wait = _INTRODUCTION if enough else max(patience, _INTRODUCTION)
        asked.update(new)
        answers, failed = _answers(grid, queries, wait)
        for node, message in answers:
            name = message.words.get("name")
            # It said who it is: when it comes back, it is asked again.
            asked[node] = 0
            if not isinstance(name, str) or name in nodes:
                log.warning("A node is left out: it says that it is %.40r, who is there already or nobody.", name)
            else:
                nodes[name] = node
        if len(nodes) >= least:
            return nodes
        broken = broken + 1 if queries and not nodes and len(failed) == len(queries) else 0
        if broken == _ASKED:
            raise RuntimeError(f"Every node fails before it says who it is. The first says: {failed[0]}")
        log.info("%d nodes are there; %d are waited for.", len(nodes), least)
        known = nodes
        time.sleep(1)


def exchange(grid: Grid, requests: dict[str, tuple[int, Message]], patience: float) -> dict[str, Message]:
    """Send messages to clients' nodes, and return the answers that came in time.

    Args:
        grid: reaches the nodes.
        requests: node and message of each client.
        patience: seconds.

    Raises:
        RuntimeError: each of them failed: asked again, they would again.
    """
    names = {node: name for name, (node, _) in requests.items()}
    messages = [FlowerMessage(record_of(message), node, MessageType.TRAIN) for node, message in requests.values()]
    answers, failed = _answers(grid, messages, patience)
    if messages and len(failed) == len(messages):
        raise RuntimeError(f"Every client failed. The first says: {failed[0]}")
    return {names[node]: message for node, message in answers if node in names}


def _answers(
    grid: Grid, messages: list[FlowerMessage], patience: float
) -> tuple[list[tuple[int, Message]], list[str]]:
    """Return node and message of each answer, and what those say that failed."""
    answers, failed = [], []
    for reply in grid.send_and_receive(messages, timeout=patience) if messages else []:
        try:
            if not reply.has_content():
                raise RefusedError(reply.error.reason)
            answers.append((reply.metadata.src_node_id, message_of(reply.content)))
        except RefusedError as error:
            log.warning("A client could not answer: %s", error)
            if reply.has_error() and reply.error.code in _BROKEN:
                failed.append(str(error))
    return answers, failed
