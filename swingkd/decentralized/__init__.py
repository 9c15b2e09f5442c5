"""Decentralised distillation: clients with different models teach each other on shared reference examples."""

from swingkd.decentralized.aggregation import DSFL, Cronus, FedMD, RandomNeighbours, SDDist
from swingkd.decentralized.client import Client
from swingkd.decentralized.client_arguments import ClientArguments
from swingkd.decentralized.distillation import DecentralizedDistillation
from swingkd.decentralized.federate import federate
from swingkd.decentralized.federation import Federation, FederationSettings
from swingkd.decentralized.labelled_examples import LabelledExamples
from swingkd.decentralized.message import Message, RefusedError
from swingkd.decentralized.messenger_audit import PlantedExamples, attack_messengers
from swingkd.decentralized.messengers import Messenger, MessengerRepository
from swingkd.decentralized.partition import Partition, PartitionSettings, load_partition
from swingkd.decentralized.result import FederationResult
from swingkd.decentralized.server import MessengerServer, WeightServer
from swingkd.decentralized.text_examples import text_examples

__all__ = [
    "DSFL",
    "Client",
    "ClientArguments",
    "Cronus",
    "DecentralizedDistillation",
    "FedMD",
    "Federation",
    "FederationResult",
    "FederationSettings",
    "LabelledExamples",
    "Message",
    "Messenger",
    "MessengerRepository",
    "MessengerServer",
    "Partition",
    "PartitionSettings",
    "PlantedExamples",
    "RandomNeighbours",
    "RefusedError",
    "SDDist",
    "WeightServer",
    "attack_messengers",
    "federate",
    "load_partition",
    "text_examples",
]
