"""How a cached teacher is written beside the tokens: columns of the data set, so that rows can be shuffled and picked.

For each predicted token of a row: the teacher's likeliest tokens, their log-probabilities at T = 1, and two numbers
about all the others (`swingkd.targets.CachedTeacher`).  Each row also says what wrote it (`CacheInfo`) and carries a
key of its own tokens, so that targets never meet other tokens than those they were made for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from datasets import Features, List, Value
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.data.columns import IGNORE, labels_of
from swingkd.files import read_as
from swingkd.targets import ProtectionName

TEACHER_COLUMNS = ("teacher_ids", "teacher_log_probs", "teacher_tails", "teacher_row", "teacher_cache")


@dataclass(frozen=True)
class CacheInfo:
    """What wrote a cache.

    Args:
        teacher: fingerprint of the teacher's weights and configuration.
        tokenizer: fingerprint of the tokenizer.
        vocabulary: its length.
        temperature: the base temperature whose tail was kept.
        top_k: how many tokens were kept.
        protection: what protected the targets when they were written; `None`: they are the teacher's own.
        private_threshold: from which likelihood on they were.
        out_of_fold: each row was answered by a teacher that was trained without it.
    """

    teacher: str
    tokenizer: str
    vocabulary: int
    temperature: float
    top_k: int
    protection: ProtectionName | None = None
    private_threshold: float | None = None
    out_of_fold: bool = False

    def dumps(self) -> str:
        """Write it as one line of JSON."""
        known = asdict(self)
        if not self.out_of_fold:  # as caches said it before there were such teachers
            del known["out_of_fold"]
        return json.dumps(known, sort_keys=True)

    @classmethod
    def loads(cls, text: str) -> CacheInfo:
        """Read what `dumps` wrote.

        Raises:
            ValueError: it is something else.
        """
        return read_as(cls, text, "The cached teacher's description")


# Of a configuration: where the model came from, and how it is run.
_NOT_ITS_OWN = {
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "pad_token_id",
    "transformers_version",
    "use_cache",
}


def model_fingerprint(model: PreTrainedModel) -> str:
    """Hash a model's weights, their names, shapes and types, and its configuration: a soft cap is no weight."""
    known = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_ITS_OWN}
    digest = xxhash.xxh3_128(json.dumps(known, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_meta:
            raise ValueError(f"{name} is offloaded, so the teacher has no fingerprint. Load it whole to cache it.")
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash which id means which token."""
    return xxhash.xxh3_128_hexdigest(json.dumps(sorted(tokenizer.get_vocab().items())).encode())


def row_key(info: str, ids: Sequence[int], labels: Sequence[int]) -> int:
    """Hash a row's tokens and which of them are predicted, together with what wrote its targets."""
    digest = hashlib.blake2b(info.encode(), digest_size=8)
    digest.update(np.asarray(ids, np.int64).tobytes())
    digest.update(predicted(labels).tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)


def predicted(labels: Sequence[int]) -> np.ndarray:
    """Return which tokens of a row are predicted: those with a label, but never the first."""
    mask = np.asarray(labels) != IGNORE
    mask[:1] = False
    return mask


def teacher_features(info: CacheInfo, exact: bool) -> Features:
    """Return the types of the columns: 16 bits where they do."""
    ids = "uint16" if info.vocabulary <= 2**16 else "int32"
    return Features(
        teacher_ids=List(Value(ids)),
        teacher_log_probs=List(Value("float32" if exact else "float16")),
        teacher_tails=List(Value("float32")),
        teacher_row=Value("int64"),
        teacher_cache=Value("string"),
    )


def read_teacher(rows: list[dict[str, Any]], width: int, expected: CacheInfo | None) -> dict[str, torch.Tensor]:
    """Return the cached targets of a batch, padded to [rows, width, ...], each at the token that it predicts.

    Args:
        rows: rows with cached targets.
        width: tokens of the longest row.
        expected: what must have written them; `None`: whatever wrote the first.

    Raises:
        ValueError: the targets of a row were made for other tokens, or by another cache.
    """
    info = expected or CacheInfo.loads(rows[0]["teacher_cache"])
    if any(row.get("teacher_cache") != info.dumps() for row in rows):
        raise ValueError(
            "A row carries the targets of another cache than the first one did, or none. Cache one teacher, with one "
            "setting, on all rows."
        )
    shapes = {"teacher_ids": (info.top_k, np.int32), "teacher_log_probs": (info.top_k, np.float32)}
    shapes["teacher_tails"] = (2, np.float32)
    batch = {name: np.zeros((len(rows), width, size), kind) for name, (size, kind) in shapes.items()}
    for i, row in enumerate(rows):
        ids, labels = row["input_ids"], labels_of(row)
        if row_key(row["teacher_cache"], ids, labels) != row["teacher_row"]:
            raise ValueError(
                f"The cached teacher's targets of a row with {len(ids)} tokens were made for other tokens or labels. "
                "Cache the teacher again on the data as it is now: swingkd cache-teacher."
            )
        at = np.flatnonzero(predicted(labels))
        for name, (size, kind) in shapes.items():
            batch[name][i, at] = np.asarray(row[name], kind).reshape(len(at), size)
    return {name: torch.from_numpy(values) for name, values in batch.items()}
