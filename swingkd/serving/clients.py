"""Who may ask a served teacher, and how much: counted in a file, before an answer is made, so that no end of a process
forgets one.

A budget is a number of answers: one for each token that is predicted.  Tokens of clients are kept as digests; a
client's own token is written once, into a file for its owner only.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from swingkd.files import PRIVATE, private_folder, written_whole
from swingkd.privacy import LedgerEntry, PrivacyLedger
from swingkd.privacy.ledger import TEACHER_DATA

_NAME = re.compile(r"\w[\w.-]{0,63}")
_TABLE = """
CREATE TABLE IF NOT EXISTS clients (
    name TEXT PRIMARY KEY, digest BLOB NOT NULL UNIQUE, budget INTEGER NOT NULL,
    asked INTEGER NOT NULL DEFAULT 0, admitted INTEGER NOT NULL DEFAULT 1
)
"""


class OverBudgetError(ValueError):
    """A client asked for more than it may."""


@dataclass(frozen=True)
class Client:
    """One of those who may ask.

    Args:
        name: of the client.
        budget: how many answers it may have.
        asked: how many it had.
    """

    name: str
    budget: int
    asked: int

    @property
    def left(self) -> int:
        """How many answers it may still have."""
        return max(self.budget - self.asked, 0)


class Clients:
    """Those who may ask, in `folder/_private/`; several processes may count there.

    Args:
        folder: of the server.
    """

    def __init__(self, folder: str | Path):
        self.folder = private_folder(Path(folder) / PRIVATE)
        self._file = self.folder / "clients.sqlite"
        self._file.touch(0o600)
        with closing(self._connect()) as database, database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(_TABLE)

    def _connect(self) -> sqlite3.Connection:
        # An answer that was counted stays counted, even if the machine stops.
        database = sqlite3.connect(self._file, timeout=30)
        database.execute("PRAGMA synchronous=FULL")
        return database

    def admit(self, names: Iterable[str], budget: int) -> list[Path]:
        """Let in these clients and nobody else; return the files with the tokens of those that are new.

        Args:
            names: of the clients; what those have asked that are known stays counted.
            budget: of each, in answers.

        Raises:
            ValueError: a name cannot be one, is there twice, or there is none; or the budget is nothing.
        """
        names = list(names)
        for name in names:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a client: letters, digits, points and dashes, 64 at most.")
        if not names or len(set(names)) < len(names):
            raise ValueError(f"The clients are {', '.join(names) or 'none'}: name each of them once.")
        if budget < 1:
            raise ValueError(f"budget={budget} allows no answer. Give each client at least 1.")
        files = []
        with closing(self._connect()) as database, database:
            database.execute("UPDATE clients SET admitted = 0")
            for name in names:
                told = database.execute("UPDATE clients SET admitted = 1, budget = ? WHERE name = ?", (budget, name))
                if told.rowcount:
                    continue
                token = secrets.token_urlsafe(32)
                path = private_folder(self.folder / "tokens") / name
                # Not in the data before the file is there: a client without its token could never get one.
                with written_whole(path, owner_only=True) as part:
                    part.write_text(token)
                database.execute(
                    "INSERT INTO clients (name, digest, budget) VALUES (?, ?, ?)", (name, _digest(token), budget)
                )
                files.append(path)
        return files

    def known(self, token: str) -> Client | None:
        """Return whose token this is; `None`: nobody's who may ask."""
        # By its digest: how long it takes says nothing of the token.
        with closing(self._connect()) as database:
            row = database.execute(
                "SELECT name, budget, asked FROM clients WHERE digest = ? AND admitted", (_digest(token),)
            ).fetchone()
        return Client(*row) if row else None

    def admitted(self) -> list[Client]:
        """Return those who may ask."""
        return self._where("admitted")

    def all(self) -> list[Client]:
        """Return everybody who ever might ask."""
        return self._where("1")

    def _where(self, condition: str) -> list[Client]:
        query = f"SELECT name, budget, asked FROM clients WHERE {condition} ORDER BY name"
        with closing(self._connect()) as database:
            return [Client(*row) for row in database.execute(query)]

    def spend(self, client: Client, answers: int) -> None:
        """Count answers, before they are made.

        Raises:
            OverBudgetError: they are more than the client may have; none is counted.
        """
        with closing(self._connect()) as database, database:
            counted = database.execute(
                "UPDATE clients SET asked = asked + ? WHERE name = ? AND admitted AND asked + ? <= budget",
                (answers, client.name, answers),
            )
            if counted.rowcount:
                return
            left = database.execute("SELECT budget - asked FROM clients WHERE name = ?", (client.name,)).fetchone()
        raise OverBudgetError(
            f"{answers:,} answers were asked for, and {max(left[0], 0) if left else 0:,} of the budget are left. "
            "Whoever serves the teacher can raise it."
        )

    def ledger(self, promised: Iterable[LedgerEntry]) -> PrivacyLedger:
        """Return what was released so far, of the teacher's data.

        Args:
            promised: what the teacher's training guarantees; then answers cost nothing more.
        """
        promised = list(promised)
        if promised:
            return PrivacyLedger(promised)
        entries = [
            LedgerEntry(
                f"answers to {client.name}",
                scope=TEACHER_DATA,
                releases=client.asked,
                holds=False,
                caveat=f"{client.asked:,} answers to {client.name} that two teachers agree on, each record in the "
                "training data of one; no differential privacy",
            )
            for client in self.all()
        ]
        return PrivacyLedger(entries)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
