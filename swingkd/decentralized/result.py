"""What became of a federation: what each client got, what it cost, and what is promised to whom."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NotRequired
from urllib.parse import quote

from typing_extensions import TypedDict

from swingkd.decentralized.message import Message
from swingkd.decentralized.rounds import Round
from swingkd.files import read_as, write_json
from swingkd.privacy import PrivacyLedger
from swingkd.report import Row, ledger_rows

log = logging.getLogger(__name__)


class _Content(TypedDict):
    """What stands in the file of a result."""

    accuracies: dict[str, float]
    losses: NotRequired[dict[str, float]]
    ledgers: dict[str, dict[str, Any]]
    rounds: list[Round]


@dataclass
class FederationResult:
    """The end of a federation.

    Args:
        accuracies: share of its own test examples that each client's model gets right.
        losses: mean cross-entropy of these, in nats.
        ledgers: of each client.
        rounds: what happened.
    """

    accuracies: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    ledgers: dict[str, PrivacyLedger] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)

    @classmethod
    def of(cls, answers: dict[str, Message], rounds: Sequence[Round]) -> FederationResult:
        """Read what clients answered when they were asked for their accuracy; what is no answer is left out."""
        result = cls(rounds=list(rounds))
        for name, answer in sorted(answers.items()):
            try:
                accuracy = answer.number("accuracy", high=1.0)
                # A client of an earlier version does not say it.
                loss = answer.number("loss") if "loss" in answer.words else None
                ledger = PrivacyLedger.from_dict(json.loads(answer.text("ledger")))
            except Exception as error:  # another machine wrote it: anything may be wrong with it
                log.warning("The last answer of %s is refused: %s.", name, error)
                continue
            result.accuracies[name], result.ledgers[name] = accuracy, ledger
            if loss is not None:
                result.losses[name] = loss
        return result

    @property
    def weakest(self) -> PrivacyLedger | None:
        """The ledger of the client to whom least is promised; `None` where there are no clients."""

        def promised(ledger: PrivacyLedger) -> float:
            epsilon = ledger.epsilon()
            return math.inf if epsilon is None else epsilon

        return max(self.ledgers.values(), key=promised, default=None)

    def rows(self, model: str, setting: str) -> list[Row]:
        """Return the rows of metrics.json: clients, their mean, the worst, bytes, seconds, the weakest promise.

        Args:
            model: what the method is called.
            setting: the words that tell this federation from others.

        Raises:
            RuntimeError: nobody told its accuracy.
        """
        if not self.accuracies:
            raise RuntimeError("No client told its accuracy: see the log for what they answered.")
        accuracies = list(self.accuracies.values())
        weakest = self.weakest
        return [
            *(
                Row(model, f"{setting} client={quote(client, safe='')}", "client_accuracy", value)
                for client, value in self.accuracies.items()
            ),
            Row(model, setting, "accuracy", sum(accuracies) / len(accuracies), n=len(accuracies)),
            Row(model, setting, "worst", min(accuracies), n=len(accuracies)),
            *(
                Row(model, setting, cost, sum(getattr(happened, cost) for happened in self.rounds))
                for cost in ("sent", "received", "seconds")
            ),
            *(ledger_rows(model, setting, weakest) if weakest is not None else []),
        ]

    def save(self, path: str | os.PathLike) -> None:
        """Write it as JSON; nothing in it is secret."""
        ledgers = {name: ledger.to_dict() for name, ledger in self.ledgers.items()}
        rounds = [asdict(r) for r in self.rounds]
        write_json(path, {"accuracies": self.accuracies, "losses": self.losses, "ledgers": ledgers, "rounds": rounds})

    @classmethod
    def load(cls, path: str | os.PathLike) -> FederationResult:
        """Read what `save` wrote.

        Raises:
            ValueError: it is something else.
        """
        content = read_as(_Content, Path(path).read_bytes(), str(path))
        ledgers = {name: PrivacyLedger.from_dict(ledger) for name, ledger in content["ledgers"].items()}
        return cls(content["accuracies"], content.get("losses", {}), ledgers, content["rounds"])
