"""From a configuration to clients and a server: every engine, in every process, builds the same."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from swingkd.decentralized.aggregation import DSFL, Aggregation, Cronus, FedMD, RandomNeighbours, SDDist
from swingkd.decentralized.client import Client
from swingkd.decentralized.client_arguments import ClientArguments
from swingkd.decentralized.labelled_examples import LabelledExamples
from swingkd.decentralized.networks import MLP, CharacterLSTM, CharacterMLP, SignalCNN, SignalTransformer
from swingkd.decentralized.partition import ALPHABET, Partition, PartitionSettings, load_partition, mislabelled, scarce
from swingkd.decentralized.server import MessengerServer, Server, WeightServer
from swingkd.files import write_json
from swingkd.guards import check_not_negative, check_numbers, check_share
from swingkd.models.loading import check_options, placed

NETWORKS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (SignalCNN, SignalTransformer, MLP, CharacterMLP, CharacterLSTM)
}
RULES: dict[str, type] = {
    "sd_dist": SDDist,
    "random": RandomNeighbours,
    "fedmd": FedMD,
    "ds_fl": DSFL,
    "cronus": Cronus,
}
# What a recipe's configuration says beside that.
_OF_A_RECIPE = ("run", "output_dir", "rows", "about")
METHODS = ("local", "local_and_reference", *RULES, "fedavg", "feddf")


@dataclass(frozen=True, kw_only=True)
class FederationSettings:
    """A federation: whose data, which models, which method.

    Args:
        people: how a data set becomes clients.
        models: of the clients, dealt out in turn: {kind: a network of `swingkd.decentralized.networks`, ...}, or
            {name: a sequence classifier's configuration on the Hub or in a folder, ...} with what differs in it; of
            texts of tokens, {name: a language model with its weights, lora: {settings of an adapter, or nothing}}.
        method: one of `METHODS`.
        settings: of the method's rule or server.
        client: of `ClientArguments`.
        warm_up_rounds: of learning alone.
        maximum_staleness: rounds for which a messenger is used.
        seed: of models, batches, and what is left out or mislabelled.
        share_of_data: of each client's own examples.
        mislabelled_clients, mislabelled_share: of how many clients how many labels are wrong.

    Raises:
        ValueError: a method or a network is none that there is.
    """

    people: dict[str, Any]
    models: list[dict[str, Any]]
    method: str = "sd_dist"
    settings: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    warm_up_rounds: int = 1
    maximum_staleness: int | None = None
    seed: int = 0
    share_of_data: float = 1.0
    mislabelled_clients: float = 0.0
    mislabelled_share: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self)
        check_not_negative(self, "warm_up_rounds", "maximum_staleness")
        check_share(self, "share_of_data", "mislabelled_clients", "mislabelled_share")
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is none of {', '.join(METHODS)}.")
        for spec in self.models:
            check_options(spec)
            if "name" not in spec and spec.get("kind") not in NETWORKS:
                raise ValueError(f"models: {spec} names none of {', '.join(NETWORKS)}, and no model by name.")
        if not self.models:
            raise ValueError("models: say at least one.")

    @classmethod
    def of(cls, config: dict[str, Any]) -> FederationSettings:
        """Take what a federation needs out of a recipe's configuration.

        Raises:
            ValueError: it says something that neither has.
        """
        known = [f.name for f in fields(cls)]
        for name in config.keys() - {*known, *_OF_A_RECIPE}:
            raise ValueError(f"{name!r} is no setting of a federation. There are {', '.join(known)}.")
        return cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})

    @classmethod
    def read(cls, path: str | os.PathLike) -> FederationSettings:
        """Read a YAML file, or what `write` wrote."""
        # YAML takes 1e-05 for a word.
        parse = json.loads if str(path).endswith(".json") else yaml.safe_load
        return cls.of(parse(Path(path).read_text()))

    def write(self, path: str | os.PathLike) -> None:
        """Write a JSON file."""
        write_json(path, asdict(self))


class Federation:
    """Builds clients and server of settings; the data is read once.

    Args:
        settings: of the federation.
    """

    def __init__(self, settings: FederationSettings):
        self.settings = settings
        self.partition: Partition = load_partition(PartitionSettings(**settings.people))
        self.rounds = ClientArguments(**settings.client).rounds
        #: In the order in which models are dealt out.
        self.names = sorted(self.partition.train)
        wrong = round(settings.mislabelled_clients * len(self.names))
        order = torch.randperm(len(self.names), generator=torch.Generator().manual_seed(settings.seed))
        self._wrong = {self.names[i] for i in order[:wrong].tolist()}

    def client(self, name: str) -> Client:
        """Build a client.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.names:
            raise ValueError(f"There is no client {name!r}: there are {len(self.names)} others.")
        settings, place = self.settings, self.names.index(name)
        own = self.partition.train[name]
        if name in self._wrong:
            own = mislabelled(own, settings.mislabelled_share, settings.seed * 1_009 + place)
        if settings.share_of_data < 1:
            own = scarce(own, settings.share_of_data, settings.seed * 1_009 + place)
        like = settings.method in ("fedavg", "feddf")
        spec = settings.models[0 if like else place % len(settings.models)]
        args = ClientArguments(**{"seed": settings.seed, **settings.client})
        # A rule that blends the reference labels in would have nothing to blend in the first round.
        if settings.method == "local_and_reference" or settings.settings.get("reference_weight"):
            args = replace(args, learn_reference_labels=True)
        args = replace(args, share_weights=args.share_weights or like)
        model = placed(make_network(spec, own, settings.seed * 1_009 + (0 if like else place)))
        return Client(name, model, own, self.partition.reference, args, test=self.partition.test[name])

    def server(self) -> Server:
        """Build the server."""
        settings, reference = self.settings, self.partition.reference
        if settings.method in ("fedavg", "feddf"):
            model = make_network(settings.models[0], reference, settings.seed * 1_009)
            steps = {"distillation_steps": 20} if settings.method == "feddf" else {}
            return WeightServer(model, reference, **{**steps, "seed": settings.seed, **settings.settings})
        rule: Aggregation | None = RULES[settings.method](**settings.settings) if settings.method in RULES else None
        return MessengerServer(
            rule,
            reference,
            warm_up_rounds=settings.warm_up_rounds,
            maximum_staleness=settings.maximum_staleness,
            seed=settings.seed,
        )


def make_network(spec: dict[str, Any], examples: LabelledExamples, seed: int) -> nn.Module:
    """Build a model that fits examples, with weights that follow from a seed; a language model has its own.

    Raises:
        ValueError: it cannot read such examples.
    """
    spec = dict(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if examples.are_texts:
            return _language_model(spec)
        if "lora" in spec:
            raise ValueError("models: lora is for language models, of texts that a tokenizer reads. Leave it out.")
        if "name" in spec:
            name = os.path.expandvars(spec.pop("name"))
            config = AutoConfig.from_pretrained(name, num_labels=examples.classes, **spec)
            return AutoModelForSequenceClassification.from_config(config)
        kind = spec.pop("kind")
        if kind.startswith("Character") != isinstance(examples.inputs, dict):
            shown = "text" if isinstance(examples.inputs, dict) else "numbers"
            raise ValueError(f"models: {kind} cannot read {shown}.")
        if kind.startswith("Character"):
            return NETWORKS[kind](vocabulary=len(ALPHABET), classes=examples.classes, **spec)
        assert isinstance(examples.inputs, torch.Tensor)
        if kind == "MLP":
            return MLP(features=examples.inputs[0].numel(), classes=examples.classes, **spec)
        return NETWORKS[kind](channels=examples.inputs.shape[1], classes=examples.classes, **spec)


def _language_model(spec: dict[str, Any]) -> nn.Module:
    """Load a language model, or one with a new adapter, of which alone is learnt."""
    if "name" not in spec:
        raise ValueError(f"models: {spec.get('kind')} cannot read tokens. Name a language model.")
    lora = spec.pop("lora", None)
    model = AutoModelForCausalLM.from_pretrained(os.path.expandvars(spec.pop("name")), dtype=torch.float32, **spec)
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(**{"target_modules": "all-linear", "task_type": "CAUSAL_LM", **lora}))
