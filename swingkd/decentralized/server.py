"""The server, of any engine: what each client is sent, and what becomes of what it answers."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, Protocol, TypeAlias, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from swingkd.decentralized.aggregation import Aggregation
from swingkd.decentralized.labelled_examples import LabelledExamples, answers, batches, logits_on
from swingkd.decentralized.message import Message, RefusedError, Word, frozen_digest, load_weights, named_weights
from swingkd.decentralized.messengers import Messenger, MessengerRepository, unpacked
from swingkd.files import read_as, written_whole

log = logging.getLogger(__name__)


class Server(Protocol):
    """Asks clients, round by round."""

    def requests(self, number: int, present: Sequence[str]) -> Iterator[tuple[str, Message]]:
        """Yield what each client that is there is sent in a round."""

    def receive(self, number: int, client: str, answer: Message) -> None:
        """Take a client's answer.

        Raises:
            RefusedError: it cannot be used.
        """

    def close(self, number: int) -> None:
        """End a round."""

    def last(self) -> Message:
        """Return what every client is sent after the last round, to go home with."""

    def save(self, path: str | os.PathLike) -> None:
        """Write what the next round needs."""

    def load(self, path: str | os.PathLike) -> None:
        """Read what `save` wrote."""


class MessengerServer:
    """Sends each client what a rule makes of the messengers.

    Args:
        rule: who teaches whom; `None`: nobody, each client learns alone.
        reference: the shared, labelled examples.
        warm_up_rounds: of learning alone, in the beginning.
        maximum_staleness: rounds for which a messenger is used; `None`: as long as its client has not left.
        seed: of what a rule draws.
    """

    def __init__(
        self,
        rule: Aggregation | None,
        reference: LabelledExamples,
        *,
        warm_up_rounds: int = 1,
        maximum_staleness: int | None = None,
        seed: int = 0,
    ):
        self.rule, self.reference, self.warm_up_rounds, self.seed = rule, reference, warm_up_rounds, seed
        shape = (len(reference.flat_labels), reference.classes)
        self.repository = MessengerRepository(reference.fingerprint(), shape, maximum_staleness)
        # Who is sent a target in this round.
        self._asking: list[str] = []

    def requests(self, number: int, present: Sequence[str]) -> Iterator[tuple[str, Message]]:
        """Yield a target for each client that has said something; newcomers are taught before they teach."""
        words: dict[str, Word] = {"round": number, "wants": "nothing" if self.rule is None else "messenger"}
        known, asking, teaching = self._who(number, present)
        self._asking = asking
        yield from ((client, Message({}, words)) for client in present if client not in asking)
        if self.rule is None or not asking:
            return
        places = {client: place for place, client in enumerate(known)}
        targets = self.rule.targets(
            self.repository.stacked(known),
            self.reference.flat_labels,
            torch.tensor([places[client] for client in asking]),
            torch.tensor([places[client] for client in teaching]),
            self.seed * 1_000_003 + number,
        )
        for client, target in zip(asking, targets, strict=True):
            yield client, Message({"target": target.half()}, words)

    def _who(self, number: int, present: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
        """Return whose messengers there are, who of those present is taught, and who teaches."""
        if self.rule is None or number < self.warm_up_rounds:
            return [], [], []
        known = self.repository.usable(number)
        if not self.repository.pupils:
            # The founders were taught by nobody.
            for client in known:
                self.repository.learnt(client)
        teaching = [client for client in known if client in self.repository.pupils]
        asking = [client for client in present if client in known] if teaching else []
        return known, asking, teaching

    def receive(self, number: int, client: str, answer: Message) -> None:
        """Keep a client's messenger.

        Raises:
            RefusedError: it is no answer about these examples; its last one stays.
        """
        if self.rule is None:
            return
        said = unpacked(answer.tensors, self.repository.shape)
        if not said.is_floating_point():
            raise RefusedError(f"its messenger holds {said.dtype}: probabilities are floats")
        messenger = Messenger(said, answer.text("reference"), number)
        self.repository.put(client, messenger)
        if client in self._asking:
            self.repository.learnt(client)

    def close(self, number: int) -> None:
        """Nothing to do."""

    def last(self) -> Message:
        """Return nothing: each client has its own model."""
        return Message()

    def save(self, path: str | os.PathLike) -> None:
        """Write the repository."""
        self.repository.save(path)

    def load(self, path: str | os.PathLike) -> None:
        """Read the repository.

        Raises:
            ValueError: it is about other reference examples.
        """
        repository = MessengerRepository.load(path)
        if (repository.reference, repository.shape) != (self.repository.reference, self.repository.shape):
            raise ValueError(f"{path} is about other reference examples. Use those that the run began with.")
        repository.maximum_staleness = self.repository.maximum_staleness
        self.repository = repository


#: How weights are averaged: by how many examples a client says it has, all alike, or the median of each weight.
Average: TypeAlias = Literal["examples", "clients", "median"]


class WeightServer:
    """Averages the weights of like models (FedAvg; McMahan et al. 2017, arXiv 1602.05629).

    How many examples a client has, it says itself, and what it said first bounds what it says later.  Whoever lies
    from the beginning outweighs the others: `average="clients"` believes nobody, and the median (Yin et al. 2018,
    arXiv 1803.01498) withstands weights that are wrong as well, of less than half of the clients.

    With distillation steps, the average then learns what the clients' models say together of the reference examples
    (FedDF; Lin et al. 2020, arXiv 2006.07242).  Weights leave the clients; each says more than a messenger.

    Args:
        model: what all clients begin with.
        reference: the shared examples; their labels are not used.
        distillation_steps: after each round.
        learning_rate: of Adam, in distillation.
        batch_size: reference examples a step.
        average: "examples", "clients" or "median".
        seed: of the batches.

    Raises:
        ValueError: there is no such average.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: LabelledExamples,
        *,
        distillation_steps: int = 0,
        learning_rate: float = 1e-3,
        batch_size: int = 32,
        average: Average = "examples",
        seed: int = 0,
    ):
        if average not in get_args(Average):
            raise ValueError(f"average={average!r} is none of {', '.join(get_args(Average))}.")
        self.average = average
        # How many examples each client said that it has, when it first did.
        self._claims: dict[str, int] = {}
        self.model, self.reference, self.distillation_steps = model, reference, distillation_steps
        self.learning_rate, self.batch_size, self.seed = learning_rate, batch_size, seed
        self._frozen = frozen_digest(model)
        self._answers: dict[str, tuple[int, dict[str, torch.Tensor]]] = {}

    def requests(self, number: int, present: Sequence[str]) -> Iterator[tuple[str, Message]]:
        """Yield the average's weights for everybody."""
        self._answers = {}
        message = Message(self.last().tensors, {"round": number, "wants": "weights"})
        yield from ((client, message) for client in present)

    def receive(self, number: int, client: str, answer: Message) -> None:
        """Keep a client's weights until the round ends.

        Raises:
            RefusedError: they are of another model, or not finite.
        """
        own, weights = named_weights(self.model), answer.tensors
        if _kinds(own) != _kinds(weights):
            raise RefusedError("its weights are those of another model")
        if not all(bool(t.isfinite().all()) for t in weights.values()):
            raise RefusedError("its weights are not finite")
        if answer.words.get("frozen", "") != self._frozen:
            raise RefusedError("its frozen weights are not those that all begin with")
        examples = int(answer.number("examples", low=1))
        self._answers[client] = (min(examples, self._claims.setdefault(client, examples)), weights)

    def close(self, number: int) -> None:
        """Average what came, and distil; what would not be finite is not taken."""
        if not self._answers:
            return
        before = self.last().tensors
        # In the order of names: sums of floats depend on it.
        parts = [weights for _, (_, weights) in sorted(self._answers.items())]
        counts = [examples if self.average == "examples" else 1 for _, (examples, _) in sorted(self._answers.items())]
        shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        mean = {}
        for name, own in named_weights(self.model).items():
            each = torch.stack([weights[name].double() for weights in parts])
            mixed = each.quantile(0.5, 0) if self.average == "median" else torch.tensordot(shares, each, 1)
            mean[name] = mixed.to(own.dtype) if own.is_floating_point() else mixed.round().to(own.dtype)
        if all(bool(t.isfinite().all()) for t in mean.values()):
            targets = self._together(parts) if self.distillation_steps else None
            load_weights(self.model, mean)
            if targets is not None:
                self._distil(targets, number)
        if not all(bool(t.isfinite().all()) for t in self.last().tensors.values()):
            log.warning("Round %d: what would follow is not finite, so the average stays as it was.", number)
            load_weights(self.model, before)

    def _together(self, parts: list[dict[str, torch.Tensor]]) -> torch.Tensor | None:
        """Return what clients' models say together of the reference examples, [R, C]; `None`: none says a number."""
        logits = []
        for weights in parts:
            load_weights(self.model, weights)
            said = logits_on(self.model, self.reference).float()
            # Weights may be finite and what they say not.
            logits += [said] if bool(said.isfinite().all()) else []
        if not logits:
            return None
        each = torch.stack(logits)
        return (each.quantile(0.5, 0) if self.average == "median" else each.mean(0)).softmax(-1)

    def _distil(self, targets: torch.Tensor, number: int) -> None:
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.learning_rate)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        self.model.train()
        with torch.random.fork_rng(devices=[]):
            # Dropout follows from the seed as well.
            torch.manual_seed(self.seed * 1_000_003 + number)
            for rows in islice(batches(len(self.reference), self.batch_size, generator), self.distillation_steps):
                optimizer.zero_grad(set_to_none=True)
                own = answers(self.model, self.reference, rows).log_softmax(-1)
                F.kl_div(own, targets[self.reference.places(rows)], reduction="batchmean").backward()
                optimizer.step()

    def last(self) -> Message:
        """Return the average's weights."""
        return Message({name: t.detach().clone() for name, t in named_weights(self.model).items()})

    def save(self, path: str | os.PathLike) -> None:
        """Write the average's weights, and what clients claimed."""
        tensors = {name: t.contiguous() for name, t in self.last().tensors.items()}
        with written_whole(path) as part:
            save_file(tensors, part, {"claims": json.dumps(self._claims)})

    def load(self, path: str | os.PathLike) -> None:
        """Read the average's weights, and what clients claimed."""
        with safe_open(path, "pt") as file:
            self._claims = read_as(dict[str, int], (file.metadata() or {}).get("claims", "{}"), str(path))
            load_weights(self.model, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  # no mapping


def _kinds(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
