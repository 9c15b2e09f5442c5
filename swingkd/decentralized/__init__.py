"""Decentralised distillation: clients with different models teach each other on shared reference examples."""

from swingkd.decentralized.building import Federation, FederationSettings
from swingkd.decentralized.client import Client, ClientArguments
from swingkd.decentralized.engines import federate
from swingkd.decentralized.examples import Examples
from swingkd.decentralized.federation import DecentralizedDistillation
from swingkd.decentralized.leak import PlantedExamples, attack_messengers
from swingkd.decentralized.messengers import Messenger, MessengerRepository
from swingkd.decentralized.outcome import Outcome
from swingkd.decentralized.parcel import Parcel, RefusedError
from swingkd.decentralized.people import People, PeopleSettings, load_people
from swingkd.decentralized.selection import DSFL, Cronus, FedMD, RandomNeighbours, SDDist
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
