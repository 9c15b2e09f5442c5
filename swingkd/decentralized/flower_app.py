"""The same clients and the same server on Flower: `flwr run` in simulation, or a SuperLink with SuperNodes.

Nothing of the method is here: a message becomes a Flower message and back.  What a client knows lives in a folder on
its own machine, so that a node that crashed goes on where it was.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from filelock import FileLock
from flwr.app import ArrayRecord, ConfigRecord, Context, MessageType, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

from swingkd.decentralized.distillation import client_folder
from swingkd.decentralized.federation import Federation, FederationSettings
from swingkd.decentralized.message import Message, RefusedError
from swingkd.decentralized.result import FederationResult
from swingkd.decentralized.rounds import History, Round

log = logging.getLogger(__name__)

# Seconds in which a new node must say who it is.
_INTRODUCTION = 60.0

client_app = ClientApp()
server_app = ServerApp()


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


@lru_cache(maxsize=1)
def federation(path: str) -> Federation:
    """Read a configuration and its data, once a process."""
    return Federation(FederationSettings.read(path))


def own_client(context: Context) -> tuple[Federation, str]:
    """Return what this node's clients are built from, and its client's name.

    A node on a machine of its own may be told who it is ("client"), and have a configuration and a folder of its own;
    one of a simulation has a number among the clients of the common configuration.
    """
    node, run = context.node_config, context.run_config
    own = federation(str(node.get("config", run["config"])))
    if "client" in node:
        return own, str(node["client"])
    number = node.get("partition-id")
    if number is None:
        raise ValueError("This node does not say who it is: --node-config 'client=\"name\"'.")
    if not 0 <= int(number) < len(own.names):
        raise ValueError(f"partition-id={number}: there are {len(own.names)} clients, counted from 0.")
    return own, own.names[int(number)]


@client_app.query()
def introduce(request: FlowerMessage, context: Context) -> FlowerMessage:
    """Say which client this node is."""
    _, name = own_client(context)
    return FlowerMessage(record_of(Message({}, {"name": name})), reply_to=request)


@client_app.train()
def answer(request: FlowerMessage, context: Context) -> FlowerMessage:
    """Do what the server asks for; what is known is written down before the answer leaves."""
    own, name = own_client(context)
    client = own.client(name)
    folder = client_folder(Path(str(context.node_config.get("output-dir", context.run_config["output-dir"]))), name)
    folder.mkdir(parents=True, exist_ok=True)
    # A request that was given up may still be at work: the next one goes on from what it leaves.
    with FileLock(folder / "client.lock"):
        client.load(folder)
        message = client.answer(message_of(request.content))
        client.save(folder)
    return FlowerMessage(record_of(message), reply_to=request)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """Run the rounds that are left, with whoever is there."""
    own = federation(str(context.run_config["config"]))
    server, rounds = own.server(), own.rounds
    folder = Path(str(context.run_config["output-dir"]))
    history = History(folder)
    history.load(server)
    least, patience = int(context.run_config["min-nodes"]), float(context.run_config["round-timeout"])
    history.begin(server)
    run, nodes = history.run, dict[str, int]()
    while (number := len(history.rounds)) < rounds:
        nodes = available_nodes(grid, nodes, least)
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
    last = Message(server.last().tensors, {"run": run, "round": rounds, "wants": "accuracy"})
    answered: dict[str, Message] = {}
    while not answered:
        nodes = available_nodes(grid, nodes, least)
        answered = exchange(grid, {name: (node, last) for name, node in nodes.items()}, patience)
    FederationResult.of(answered, history.rounds).save(folder / "result.json")


def available_nodes(grid: Grid, known: dict[str, int], least: int) -> dict[str, int]:
    """Return the nodes that are there, by their clients' names; wait until they are enough.

    Node numbers are random, and a client that comes back has another one: each new node is asked who it is, and is
    believed.  Flower's node authentication says who may join.
    """
    while True:
        there = set(grid.get_node_ids())
        nodes = {name: node for name, node in known.items() if node in there}
        new = there - set(nodes.values())
        queries = [FlowerMessage(record_of(Message()), node, MessageType.QUERY) for node in sorted(new)]
        for node, message in _answers(grid, queries, _INTRODUCTION):
            name = message.words.get("name")
            if not isinstance(name, str) or name in nodes:
                log.warning("A node is left out: it says that it is %.40r, who is there already or nobody.", name)
            else:
                nodes[name] = node
        if len(nodes) >= least:
            return nodes
        log.info("%d nodes are there; %d are waited for.", len(nodes), least)
        known = nodes
        time.sleep(1)


def exchange(grid: Grid, requests: dict[str, tuple[int, Message]], patience: float) -> dict[str, Message]:
    """Send messages to clients' nodes, and return the answers that came in time.

    Args:
        grid: reaches the nodes.
        requests: node and message of each client.
        patience: seconds.
    """
    names = {node: name for name, (node, _) in requests.items()}
    messages = [FlowerMessage(record_of(message), node, MessageType.TRAIN) for node, message in requests.values()]
    return {names[node]: message for node, message in _answers(grid, messages, patience) if node in names}


def _answers(grid: Grid, messages: list[FlowerMessage], patience: float) -> Iterator[tuple[int, Message]]:
    """Yield node and message of each answer.

    Raises:
        RuntimeError: each of them failed: asked again, they would again.
    """
    failed = []
    for reply in grid.send_and_receive(messages, timeout=patience) if messages else []:
        try:
            if not reply.has_content():
                raise RefusedError(reply.error.reason)
            yield reply.metadata.src_node_id, message_of(reply.content)
        except RefusedError as error:
            log.warning("A client could not answer: %s", error)
            if reply.has_error() and reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION:
                failed.append(str(error))
    if messages and len(failed) == len(messages):
        raise RuntimeError(f"Every client failed. The first says: {failed[0]}")
