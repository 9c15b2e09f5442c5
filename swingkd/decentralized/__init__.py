"""Decentralised distillation: clients with different models teach each other on shared reference examples."""

from swingkd.decentralized.aggregation import DSFL, Cronus, FedMD, RandomNeighbours, SDDist
from swingkd.decentralized.client import Client, ClientArguments
from swingkd.decentralized.distillation import DecentralizedDistillation
from swingkd.decentralized.federate import federate
from swingkd.decentralized.federation import Federation, FederationSettings
from swingkd.decentralized.labelled_examples import Examples
from swingkd.decentralized.message import Parcel, RefusedError
from swingkd.decentralized.messenger_audit import PlantedExamples, attack_messengers
from swingkd.decentralized.messengers import Messenger, MessengerRepository
from swingkd.decentralized.partition import People, PeopleSettings, load_people
from swingkd.decentralized.result import Outcome
from swingkd.decentralized.server import MessengerServer, WeightServer

__all__ = [
    "DSFL",
    "Client",
    "ClientArguments",
    "Cronus",
    "DecentralizedDistillation",
    "Examples",
    "FedMD",
    "Federation",
    "FederationSettings",
    "Messenger",
    "MessengerRepository",
    "MessengerServer",
    "Outcome",
    "Parcel",
    "People",
    "PeopleSettings",
    "PlantedExamples",
    "RandomNeighbours",
    "RefusedError",
    "SDDist",
    "WeightServer",
    "attack_messengers",
    "federate",
    "load_people",
]
