"""Rounds of learning from each other, in one process; other engines run the same clients and the same server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from swingkd.decentralized.client import Client
from swingkd.decentralized.message import Message, Word
from swingkd.decentralized.result import FederationResult
from swingkd.decentralized.rounds import History, Round
from swingkd.decentralized.server import Server

log = logging.getLogger(__name__)


class DecentralizedDistillation:
    """Let clients with different models learn from each other.

        run = DecentralizedDistillation(clients, MessengerServer(SDDist(), reference), rounds=10)
        run.run()
        print(run.result().accuracies)

    Args:
        clients: who takes part.
        server: of messengers or of weights.
        rounds: how many.
        present: says who is there in a round, by name; default: everybody.
        output_dir: where a run that was stopped goes on from; `None`: nowhere.

    Raises:
        ValueError: two clients have one name, or one model.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        server: Server,
        *,
        rounds: int,
        present: Callable[[int], Iterable[str]] | None = None,
        output_dir: str | None = None,
    ):
        self.clients = {client.name: client for client in clients}
        if len(self.clients) != len(clients):
            raise ValueError("Two clients have one name: give each its own.")
        if len({id(client.model) for client in clients}) != len(clients):
            raise ValueError(
                "Two clients have one model, and would train it in turn: give each a copy (copy.deepcopy)."
            )
        for client in clients:
            if client.plan is not None and client.args.rounds < rounds:
                raise ValueError(
                    f"{client.name} has noise for {client.args.rounds} rounds, not for {rounds}: set rounds in its "
                    "ClientArguments."
                )
        self.server, self.rounds = server, rounds
        self.present = present or (lambda number: self.clients)
        self.folder = Path(output_dir) if output_dir is not None else None
        #: What happened so far.
        self.history = History(self.folder)

    def run(self, resume_from_checkpoint: bool = False) -> None:
        """Run all rounds; afterwards every client has its model.

        Args:
            resume_from_checkpoint: go on after the last whole round in `output_dir`, if there is one.

        Raises:
            ValueError: what is there was written with other settings, or is there and shall not be gone on with.
            RuntimeError: every client that was there failed in a round.
        """
        if resume_from_checkpoint:
            self.history.load(self.server)
            for name, client in self.clients.items():
                if self.folder is not None:
                    client.load(client_folder(self.folder, name))
        self.history.begin(self.server)
        for number in range(len(self.history.rounds), self.rounds):
            happened = Round(number, sorted(set(self.present(number)) & self.clients.keys()))
            failed: list[Exception] = []
            for name, request in self.server.requests(number, happened.present):
                answer = self._ask(name, request.with_words(run=self.history.run))
                if isinstance(answer, Message):
                    happened.take(self.server, name, request, answer)
                else:
                    happened.refused[name] = f"it failed: {type(answer).__name__}"
                    failed.append(answer)
            if failed and len(failed) == len(happened.present):
                raise RuntimeError(f"Every client failed in round {number}. The first: {failed[0]}") from failed[0]
            self.server.close(number)
            self.history.add(happened, self.server)

    def result(self) -> FederationResult:
        """Return what each client's model gets right with the server's last word, and what it cost."""
        words: dict[str, Word] = {"run": self.history.run, "round": self.rounds, "wants": "accuracy"}
        last = Message(self.server.last().tensors, words)
        asked = {name: self._ask(name, last) for name in self.clients}
        answers = {name: answer for name, answer in asked.items() if isinstance(answer, Message)}
        return FederationResult.of(answers, self.history.rounds)

    def _ask(self, name: str, message: Message) -> Message | Exception:
        """Return a client's answer, once what it knows is written down; or what went wrong in it: the others go on."""
        try:
            answer = self.clients[name].answer(message)
        except Exception as error:  # a client's own code: it may be anything
            log.warning("%s failed.", name, exc_info=True)
            return error
        if self.folder is not None:
            self.clients[name].save(client_folder(self.folder, name))
        return answer


def client_folder(folder: Path, name: str) -> Path:
    """Return where a client keeps what it knows; its name may be any text."""
    # A name of dots would be another folder.
    return folder / "clients" / quote(name, safe="").replace(".", "%2E")
