"""The app of `swingkd federate --engine flower`: clients and server of a configuration."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from swingkd.decentralized import flower
from swingkd.decentralized.client import Client
from swingkd.decentralized.federation import Federation, FederationSettings


@lru_cache(maxsize=1)
def _federation(path: str) -> Federation:
    """Read a configuration and its data, once a process."""
    return Federation(FederationSettings.read(path))


def _own(context: Context) -> Federation:
    """Return what this node's client is built from: a node on a machine of its own may have another configuration."""
    return _federation(str(context.node_config.get("config", context.run_config["config"])))


def _name(context: Context) -> str:
    """Return who a node is: it is told so ("client"), or has a number among the clients of the configuration."""
    names, number = _own(context).names, context.node_config.get("partition-id")
    if "client" in context.node_config or number is None:
        return flower.node_name(context)
    if not 0 <= int(number) < len(names):
        raise ValueError(f"partition-id={number}: there are {len(names)} clients, counted from 0.")
    return names[int(number)]


def _client(context: Context) -> Client:
    return _own(context).client(_name(context))


def _rounds(context: Context) -> flower.Rounds:
    run = context.run_config
    own = _federation(str(run["config"]))
    return flower.Rounds(
        server=own.server(),
        rounds=own.rounds,
        output_dir=Path(str(run["output-dir"])),
        min_nodes=int(run["min-nodes"]),
        patience=float(run["round-timeout"]),
    )


client_app = flower.client_app(_client, name_of=_name)
server_app = flower.server_app(_rounds)
