"""A cache of a teacher that answers from a server: the likeliest tokens alone, and how much the others weigh."""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash
from datasets import Dataset
from scipy.special import logsumexp
from transformers import PreTrainedTokenizerBase

from swingkd.data.columns import flat, in_parts, labels_of, row_lengths, rows_of
from swingkd.data.teacher_columns import TEACHER_COLUMNS, CacheInfo, predicted, row_key, tokenizer_fingerprint
from swingkd.models.inputs import vocabulary_size
from swingkd.models.teacher_server import TeacherServer
from swingkd.trainer.config import PrivateDistillationConfig


class ServerWriter:
    """Asks a server about a batch of rows and returns the columns to write.

    Args:
        server: the teacher.
        args: `temperature`.
        tokenizer: of both.
        top_k: how many tokens are kept.
        exact: in 32 bits.

    Raises:
        ValueError: the server has another tokenizer, or cannot answer as it should.
    """

    #: Rows of one part of the work.
    part = 256

    def __init__(
        self,
        server: TeacherServer,
        args: PrivateDistillationConfig,
        tokenizer: PreTrainedTokenizerBase,
        top_k: int,
        exact: bool,
    ):
        vocabulary = vocabulary_size(tokenizer)
        top_k = min(top_k, vocabulary)
        # What it answers names it.
        server.check(tokenizer, top_k)
        self.info = CacheInfo(
            server.fingerprint, tokenizer_fingerprint(tokenizer), vocabulary, args.temperature, top_k, None
        )
        self.server, self.exact = server, exact

    def check(self, rows: Dataset) -> None:
        """Refuse rows that the server cannot read, before any of them is sent.

        Raises:
            ValueError: one is too long, holds several texts, or an id that is no token's.
        """
        if "position_ids" in rows.column_names:
            raise ValueError(
                "The server reads each row as one text, and these hold several. Leave packing out, or set "
                "packing_strategy='wrapped'."
            )
        longest = int(row_lengths(rows).max(initial=0))
        if self.server.max_length is not None and longest > self.server.max_length:
            raise ValueError(
                f"A row has {longest} tokens, and the server reads {self.server.max_length}. Set max_length."
            )
        for column in in_parts(rows, "input_ids"):
            if int(flat(column).to_numpy().max(initial=0)) >= self.info.vocabulary:
                raise ValueError(f"A row holds an id beyond the tokenizer's {self.info.vocabulary} tokens.")

    def name(self, part: Dataset) -> str:
        """Name a part's results by everything that they depend on."""
        digest = xxhash.xxh3_128(repr((self.info, self.exact)).encode())
        for row in part:
            digest.update(repr((row["input_ids"], row.get("labels"))).encode())
        return digest.hexdigest()

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        """Return the teacher's columns of a batch of rows."""
        rows = rows_of(batch)
        learnt = [predicted(labels_of(row)) for row in rows]
        asked = [i for i, mask in enumerate(learnt) if mask.any()]
        found = self.server.log_probs([rows[i]["input_ids"] for i in asked], self.info.top_k)
        answers = dict(zip(asked, found, strict=True))
        text = self.info.dumps()
        columns: dict[str, list] = {name: [] for name in TEACHER_COLUMNS}
        for i, row in enumerate(rows):
            ids, log_probs = answers.get(i, _NOTHING)
            at = learnt[i][1:] if i in answers else slice(0)
            columns["teacher_ids"].append(ids[at].ravel())
            columns["teacher_log_probs"].append(log_probs[at].ravel())
            columns["teacher_tails"].append(self.tails(log_probs[at]).ravel())
            columns["teacher_cache"].append(text)
            columns["teacher_row"].append(row_key(text, row["input_ids"], labels_of(row)))
        return columns

    def tails(self, log_probs: np.ndarray) -> np.ndarray:
        """Return how much the tokens weigh that were not given: at temperature 1, and at the base temperature, [N, 2].

        The first is what is missing to one.  The second is not known: it is what they would weigh if they were equally
        likely, which above temperature 1 is the most that they can (our derivation: x -> x^(1/T) is concave).

        Args:
            log_probs: [N, K].
        """
        others = self.info.vocabulary - self.info.top_k
        if not len(log_probs) or not others:
            return np.full((len(log_probs), 2), -np.inf, np.float32)
        with np.errstate(divide="ignore"):
            missing = np.log1p(-np.exp(np.minimum(logsumexp(log_probs, axis=1), 0.0)))
            share = np.log(others)
            softened = share + (missing - share) / self.info.temperature
        return np.stack([missing, softened], 1).astype(np.float32)


_NOTHING: tuple[Any, Any] = (np.zeros((0, 1), np.int64), np.zeros((0, 1)))
