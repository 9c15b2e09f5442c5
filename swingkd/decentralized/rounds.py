"""The rounds of a federation: what happened in each, and what a stopped run goes on from."""

from __future__ import annotations

import logging
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints
from typing_extensions import TypedDict

from swingkd.decentralized.message import Message, RefusedError
from swingkd.decentralized.server import Server
from swingkd.files import digest_of, read_as, write_json

log = logging.getLogger(__name__)
# The server's state has the number of rounds in its name: it and the list of rounds are never of different rounds.
_STATE, _SERVER = "rounds.json", "server-{}.safetensors"


@dataclass
class Round:
    """What happened in a round.

    Args:
        number: from 0.
        present: who was there.
        sent, received: bytes of tensors to and from all clients.
        seconds: of the clients' processors, together.
        refused: whose answer was not used, and why.
    """

    number: int
    present: list[str]
    sent: int = 0
    received: int = 0
    seconds: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)

    def take(self, server: Server, client: str, request: Message, answer: Message) -> None:
        """Hand a client's answer to the server and write down what it cost."""
        self.sent += request.bytes
        self.received += answer.bytes
        try:
            seconds = answer.number("seconds")
            server.receive(self.number, client, answer)
            self.seconds += seconds
        except RefusedError as error:
            self.refused[client] = str(error)
            log.warning("Round %d: the answer of %s is refused: %s.", self.number, client, error)
        except Exception as error:  # another machine wrote it: anything may be wrong with it
            self.refused[client] = f"it cannot be read ({type(error).__name__})"
            log.warning("Round %d: the answer of %s cannot be read.", self.number, client, exc_info=True)


class _Content(TypedDict):
    """What stands in rounds.json."""

    run: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    rounds: list[Round]
    server: str


class History:
    """The rounds so far, and the server's part of what a stopped run goes on from.

    Args:
        folder: where it is kept; `None`: nowhere.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.rounds: list[Round] = []
        #: Tells this run from others: a client takes part in one.
        self.run = secrets.token_hex(8)

    def load(self, server: Server) -> None:
        """Go on after the last round that was written down, if there is one.

        Raises:
            ValueError: what the server knew was changed since.
        """
        if self.folder is None or not (self.folder / _STATE).exists():
            return
        content = self._read(self.folder)
        self.run, self.rounds = content["run"], content["rounds"]
        path = self.folder / _SERVER.format(len(self.rounds))
        if not path.exists() or digest_of(path) != content["server"]:
            raise ValueError(f"{path} is gone, or was changed after it was written. Choose another folder.")
        server.load(path)

    @staticmethod
    def _read(folder: Path) -> _Content:
        return read_as(_Content, (folder / _STATE).read_bytes(), str(folder / _STATE))

    def begin(self, server: Server) -> None:
        """Write down that the run has begun, before any client takes part in it.

        Raises:
            ValueError: the folder holds another run.
        """
        if self.folder is None or self.rounds:
            return
        if (self.folder / _STATE).exists() and self._read(self.folder)["run"] != self.run:
            raise ValueError(f"{self.folder} holds a run. Resume it, choose another folder, or delete it.")
        self._write(server)

    def add(self, happened: Round, server: Server) -> None:
        """Write a round down: first what the server knows after it, then that it happened."""
        self.rounds.append(happened)
        if self.folder is not None:
            self._write(server)

    def _write(self, server: Server) -> None:
        assert self.folder is not None
        path = self.folder / _SERVER.format(len(self.rounds))
        server.save(path)
        rounds = [asdict(happened) for happened in self.rounds]
        write_json(self.folder / _STATE, {"run": self.run, "rounds": rounds, "server": digest_of(path)})
        (self.folder / _SERVER.format(len(self.rounds) - 1)).unlink(missing_ok=True)
