"""Rows of many clients, answered together: whatever waits while one batch is at work is the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from swingkd.serving.answers import Answer


class BusyError(Exception):
    """More rows wait than the server takes."""


class _Waiting(NamedTuple):
    row: Sequence[int]
    top_k: int
    answer: asyncio.Future[Answer]


class Batches:
    """Collects rows into batches for a model, which works in a thread of its own.

    Args:
        answer: answers about rows, so many tokens at each place.
        tokens: most tokens of a batch, those counted that fill short rows up; a longer row goes alone.
        waiting: most rows that wait.
    """

    def __init__(
        self, answer: Callable[[Sequence[Sequence[int]], int], list[Answer]], tokens: int = 2048, waiting: int = 4096
    ):
        self.answer, self.tokens, self.most = answer, tokens, waiting
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()

    @asynccontextmanager
    async def running(self):
        """Work while the block lasts."""
        with ThreadPoolExecutor(1, "teacher") as thread:
            work = asyncio.create_task(self._work(thread))
            try:
                yield
            finally:
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work

    async def ask(self, rows: Sequence[Sequence[int]], top_k: int) -> list[Answer]:
        """Return the answers about some rows.

        Args:
            rows: ids.
            top_k: how many tokens at each place.

        Raises:
            BusyError: too many rows wait already.
        """
        if len(self._waiting) + len(rows) > self.most:
            raise BusyError
        loop = asyncio.get_running_loop()
        asked = [_Waiting(row, top_k, loop.create_future()) for row in rows]
        self._waiting += asked
        self._arrived.set()
        try:
            return await asyncio.gather(*(one.answer for one in asked))
        finally:
            # Nobody waits any more for what is not answered yet.
            for one in asked:
                one.answer.cancel()

    async def _work(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._next()
            if not batch:
                self._arrived.clear()
                continue
            top_k = max(one.top_k for one in batch)
            try:
                answers = await loop.run_in_executor(thread, self.answer, [one.row for one in batch], top_k)
            except Exception as error:
                # Theirs may hold what was asked.
                found: list[Answer | RuntimeError] = [RuntimeError(type(error).__name__)] * len(batch)
            else:
                found = list(answers)
            for one, answer in zip(batch, found, strict=True):
                if one.answer.done():
                    continue
                if isinstance(answer, RuntimeError):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

    def _next(self) -> list[_Waiting]:
        """Take the rows of a batch: the oldest, and those of like length beside it, as many as fit."""
        self._waiting = [one for one in self._waiting if not one.answer.done()]
        if not self._waiting:
            return []
        oldest = self._waiting[0]
        near = sorted(self._waiting, key=lambda one: abs(len(one.row) - len(oldest.row)))
        batch: list[_Waiting] = []
        longest = 0
        for one in near:
            longest = max(longest, len(one.row))
            if batch and longest * (len(batch) + 1) > self.tokens:
                break
            batch.append(one)
        taken = {id(one) for one in batch}
        self._waiting = [one for one in self._waiting if id(one) not in taken]
        return batch
