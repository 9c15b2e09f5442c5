"""What clients say of the shared reference examples, and where the latest of it is kept.

A messenger is a client's soft labels of the reference examples.  It is not private by itself: what it says follows
from the client's data.  An epsilon holds for it only where the client's model was trained by DP-SGD.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typing_extensions import TypedDict

from swingkd.decentralized.message import RefusedError
from swingkd.files import read_as, written_whole

# Of a row in half precision: what rounding may add up to.
_TOLERANCE = 4e-3


class _About(TypedDict):
    """What a repository's file says beside its tensors."""

    reference: str
    shape: tuple[int, int]
    maximum_staleness: int | None
    rounds: dict[str, int]
    pupils: list[str]


@dataclass(frozen=True, eq=False)
class Messenger:
    """A client's soft labels of the reference examples.

    Args:
        probabilities: [R, C], kept as float16.
        reference: the `fingerprint` of the examples.
        round: in which it was made.
    """

    probabilities: torch.Tensor
    reference: str
    round: int

    def __post_init__(self) -> None:
        # A copy: whoever made it may go on with what it was made of.
        object.__setattr__(self, "probabilities", self.probabilities.detach().cpu().half().clone())

    @property
    def bytes(self) -> int:
        """How many bytes its soft labels take."""
        return self.probabilities.numel() * self.probabilities.element_size()

    def check(self, reference: str, shape: tuple[int, int]) -> None:
        """Refuse what is no answer about these examples.

        Args:
            reference: fingerprint of the examples.
            shape: how many there are, and how many classes.

        Raises:
            RefusedError: it is about other examples, of another shape, not finite, or its rows are no distributions.
        """
        if self.reference != reference:
            raise RefusedError(
                f"it is about other reference examples ({self.reference[:40]!r}, not {reference!r}). The same rows in "
                "the same order are needed"
            )
        if tuple(self.probabilities.shape) != shape:
            raise RefusedError(f"its shape is {tuple(self.probabilities.shape)}, not {shape}")
        if not bool(self.probabilities.isfinite().all()):
            raise RefusedError("it holds numbers that are not finite")
        off = (self.probabilities.float().sum(1) - 1).abs()
        if bool((self.probabilities < 0).any()) or bool((off > _TOLERANCE).any()):
            raise RefusedError(f"{int((off > _TOLERANCE).sum())} of its rows do not sum to one, or are negative")


def likeliest(probabilities: torch.Tensor, count: int | None) -> torch.Tensor:
    """Return probabilities [R, C] of which all but the likeliest are alike; their sum stays.

    Args:
        probabilities: of all classes.
        count: how many keep theirs; `None`: all.
    """
    if count is None or count >= probabilities.shape[1]:
        return probabilities
    kept, places = probabilities.topk(count, dim=1)
    others = probabilities.shape[1] - count
    rest = (1 - kept.sum(1, keepdim=True)).clamp_min(0) / others
    # As a messenger keeps it: what rounding does to so many alike would add up.
    rest = rest.half().to(kept)
    kept = kept * ((1 - others * rest) / kept.sum(1, keepdim=True))
    return rest.expand_as(probabilities).scatter(1, places, kept)


def packed(probabilities: torch.Tensor, count: int | None) -> dict[str, torch.Tensor]:
    """Return what a message holds of soft labels [R, C]: of those of `likeliest`, only what differs."""
    if count is None or count >= probabilities.shape[1]:
        return {"messenger": probabilities}
    # One more: what all others are like.
    kept, places = probabilities.topk(count + 1, dim=1)
    return {
        "messenger.kept": kept[:, :-1].contiguous(),
        "messenger.places": places[:, :-1].int().contiguous(),
        "messenger.rest": kept[:, -1].contiguous(),
    }


def unpacked(tensors: dict[str, torch.Tensor], shape: tuple[int, int]) -> torch.Tensor:
    """Return the soft labels [R, C] that a message holds; nothing larger than these is made of what it says.

    Args:
        tensors: of the message.
        shape: R, C.

    Raises:
        RefusedError: it holds none, or parts that do not fit.
    """
    labels, classes = shape
    if "messenger" in tensors:
        return tensors["messenger"]
    kept, places, rest = (tensors.get(f"messenger.{part}") for part in ("kept", "places", "rest"))
    if kept is None or places is None or rest is None:
        raise RefusedError("it brings no messenger")
    fits = kept.ndim == 2 and len(kept) == labels and kept.shape[1] < classes
    if not fits or kept.shape != places.shape or rest.shape != kept.shape[:1] or kept.dtype != rest.dtype:
        raise RefusedError(
            f"its messenger is of parts {tuple(kept.shape)}, {tuple(places.shape)}, {tuple(rest.shape)}, and there "
            f"are {labels} labels of {classes} classes"
        )
    if places.dtype != torch.int32:
        raise RefusedError(f"its messenger names classes by {places.dtype}: int32 is needed")
    if bool(((places < 0) | (places >= classes)).any()):
        raise RefusedError(f"its messenger speaks of classes beyond the {classes} that there are")
    return rest[:, None].repeat(1, classes).scatter(1, places.long(), kept)


class MessengerRepository:
    """The latest messenger of every client, whether it is there or not.

    Args:
        reference: fingerprint of the reference examples.
        shape: how many there are, and how many classes.
        maximum_staleness: rounds for which a messenger is used; `None`: as long as its client has not left.
    """

    def __init__(self, reference: str, shape: tuple[int, int], maximum_staleness: int | None = None):
        if maximum_staleness is not None and maximum_staleness < 1:
            raise ValueError(f"maximum_staleness={maximum_staleness}: messengers are of the last round, 1, or older.")
        self.reference, self.shape, self.maximum_staleness = reference, shape, maximum_staleness
        self._latest: dict[str, Messenger] = {}
        #: Who may teach.
        self.pupils: set[str] = set()

    def __len__(self) -> int:
        return len(self._latest)

    def __contains__(self, client: str) -> bool:
        return client in self._latest

    def put(self, client: str, messenger: Messenger) -> None:
        """Keep a client's messenger in place of its last one.

        Raises:
            RefusedError: it is refused; the last one stays.
        """
        messenger.check(self.reference, self.shape)
        known = self._latest.get(client)
        if known is not None and messenger.round < known.round:
            raise RefusedError(f"it is of round {messenger.round}, and one of round {known.round} is there")
        self._latest[client] = messenger

    def leave(self, client: str) -> None:
        """Forget a client, if it is known."""
        self._latest.pop(client, None)
        self.pupils.discard(client)

    def usable(self, now: int) -> list[str]:
        """Return whose messengers are not too old in a round, in the order of their names."""
        oldest = -1 if self.maximum_staleness is None else now - self.maximum_staleness
        return sorted(client for client, messenger in self._latest.items() if messenger.round >= oldest)

    def learnt(self, client: str) -> None:
        """Note that a client's messenger follows from a target: newcomers are taught before they teach."""
        self.pupils.add(client)

    def stacked(self, clients: Iterable[str]) -> torch.Tensor:
        """Return the messengers of clients, [N, R, C], as a copy."""
        return torch.stack([self._latest[client].probabilities for client in clients])

    def rounds(self) -> dict[str, int]:
        """Return the round of every client's messenger."""
        return {client: messenger.round for client, messenger in sorted(self._latest.items())}

    def save(self, path: str | os.PathLike) -> None:
        """Write all of it into one safetensors file; what was there stays until the new one is whole."""
        about = {
            "reference": self.reference,
            "shape": list(self.shape),
            "maximum_staleness": self.maximum_staleness,
            "rounds": self.rounds(),
            "pupils": sorted(self.pupils),
        }
        # By number: some names mean something to safetensors.
        tensors = {str(n): self._latest[client].probabilities for n, client in enumerate(self.rounds())}
        with written_whole(path) as part:
            save_file(tensors, part, {"about": json.dumps(about)})

    @classmethod
    def load(cls, path: str | os.PathLike) -> MessengerRepository:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is none of it.
            RefusedError: a messenger in it is damaged.
        """
        with safe_open(path, "pt") as file:
            about = read_as(_About, (file.metadata() or {}).get("about", ""), str(path))
            repository = cls(about["reference"], about["shape"], about["maximum_staleness"])
            for n, (client, number) in enumerate(about["rounds"].items()):
                repository.put(client, Messenger(file.get_tensor(str(n)), about["reference"], number))
        repository.pupils = set(about["pupils"])
        return repository
