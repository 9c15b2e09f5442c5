"""The template's federation with nodes that answer what no client would: for the test of a real network."""

from __future__ import annotations

import os

from digits_app import make_client, server
from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, RecordDict

from swingkd.decentralized.flower import client_app

__all__ = ["client", "server"]


def hostile(message, context, call_next):
    """Change what an honest client answered, as a node's own runtime could."""
    reply, kind = call_next(message, context), context.node_config.get("hostile")
    if kind is None or message.metadata.message_type != MessageType.TRAIN:
        return reply
    if kind == "raises":
        raise RuntimeError("this client gives up")
    tensors, words = reply.content["tensors"], dict(reply.content["words"])
    if kind == "malformed":
        tensors = ArrayRecord(
            {name: Array(array.dtype, array.shape, array.stype, os.urandom(64)) for name, array in tensors.items()}
        )
    if kind == "lying":
        sent = tensors.to_torch_state_dict()
        tensors = ArrayRecord(torch_state_dict={name: tensor * float("nan") for name, tensor in sent.items()})
        words |= {"accuracy": 7.0, "seconds": -1.0, "examples": 10**9, "round": 99}
    reply.content = RecordDict({"tensors": tensors, "words": ConfigRecord(words)})
    return reply


client = client_app(make_client, mods=[hostile])
