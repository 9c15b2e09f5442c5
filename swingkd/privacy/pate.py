"""Labels from teachers on disjoint shards (PATE; Papernot et al. 2017, arXiv 1610.05755, and 2018, arXiv 1802.08908).

A record, or a user, is in one shard, so another in its place moves one teacher.  What is released about a public
example is noised once and cached: asking again costs nothing and tells nothing.

- GNMax: the class with the most votes, each count noised.  One teacher moves one vote: sensitivity sqrt(2).
- Noisy mean: the mean of the teachers' distributions, noised.  One teacher of k moves it by at most sqrt(2) / k (our
  derivation: no two distributions are further apart than sqrt(2)).

    >>> answers = ShardAnswers(noise_multiplier=20.0, form="mean")
    >>> probabilities = torch.rand(50, 3, 10).softmax(-1)  # 50 teachers, 3 examples, 10 classes
    >>> answers(["a", "b", "a"], probabilities).shape
    torch.Size([3, 10])
    >>> answers.entry(delta=1e-5).releases
    2
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file

from swingkd.files import read_as, written_whole
from swingkd.privacy.ledger import TEACHER_DATA
from swingkd.privacy.ledger_entry import LedgerEntry
from swingkd.privacy.randomness import secret_generator


def shard(units: int | np.ndarray, shards: int, generator: torch.Generator | None = None) -> np.ndarray:
    """Deal records out to disjoint shards of like size, [rows]; all rows of a unit go to one.

    Args:
        units: how many records, or [rows] the user of each.
        shards: how many.
        generator: default: a secret one.

    Raises:
        ValueError: there are fewer units than shards.
    """
    own = np.arange(units) if isinstance(units, int) else np.unique(units, return_inverse=True)[1]
    count = int(own.max()) + 1 if len(own) else 0
    if not 1 <= shards <= count:
        raise ValueError(f"{count} units cannot be dealt out to {shards} shards: choose at most {count}.")
    order = torch.randperm(count, generator=generator or secret_generator()).numpy()
    return (order % shards)[own]


def noisy_votes(probabilities: torch.Tensor, noise: float, generator: torch.Generator) -> torch.Tensor:
    """Return each example's class with the most noised votes, as a distribution [n, C] with all its mass there.

    Args:
        probabilities: [k, n, C] of k teachers; each votes for its likeliest class.
        noise: standard deviation on each count, in votes.
        generator: of the noise.
    """
    classes = probabilities.shape[-1]
    votes = torch.nn.functional.one_hot(probabilities.argmax(-1), classes).sum(0).double()
    noised = votes + torch.randn(votes.shape, generator=generator, dtype=torch.float64, device=votes.device) * noise
    return torch.nn.functional.one_hot(noised.argmax(-1), classes).double()


def noisy_mean(probabilities: torch.Tensor, noise: float, generator: torch.Generator) -> torch.Tensor:
    """Return the mean distribution with noise on each class, [n, C], put back onto the simplex.

    Args:
        probabilities: [k, n, C] of k teachers.
        noise: standard deviation on each mean probability.
        generator: of the noise.
    """
    mean = probabilities.double().mean(0)
    return onto_simplex(
        mean + torch.randn(mean.shape, generator=generator, dtype=torch.float64, device=mean.device) * noise
    )


class ShardAnswers:
    """What shard teachers say about public examples: noised once, cached, counted.

    Args:
        noise_multiplier: standard deviation of the noise, in units of the sensitivity.
        form: "mean" releases noised mean distributions, "votes" the noised winner (GNMax).
        path: a folder where the answers are kept; they are released, so it need not be private.
        unit: what a shard holds whole: "record", or the column that names users.

    Raises:
        ValueError: a setting is out of range, or the folder holds answers of other settings.
    """

    def __init__(
        self,
        noise_multiplier: float,
        form: Literal["mean", "votes"] = "mean",
        *,
        path: str | os.PathLike | None = None,
        unit: str = "record",
        generator: torch.Generator | None = None,
    ):
        if not 0 < noise_multiplier < math.inf:
            raise ValueError(
                f"noise_multiplier={noise_multiplier} must be positive and finite: without noise nothing is private."
            )
        if form not in ("mean", "votes"):
            raise ValueError(f"form={form!r} is not known. Choose 'mean' or 'votes'.")
        self.noise_multiplier, self.form, self.unit = noise_multiplier, form, unit
        self._generator = generator or secret_generator()
        self.path = Path(path) / "answers.safetensors" if path is not None else None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, torch.Tensor] = {}
        if self.path is not None and self.path.exists():
            self._load(self.path)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __len__(self) -> int:
        return len(self._known)

    def unknown(self, keys: Sequence[str]) -> list[int]:
        """Return which of the examples the teachers must be asked about, each example once."""
        first = {key: i for i, key in reversed(list(enumerate(keys))) if key not in self._known}
        return sorted(first.values())

    def __call__(self, keys: Sequence[str], probabilities: torch.Tensor | None = None) -> torch.Tensor:
        """Answer examples, [n, C] float32.

        Args:
            keys: [n] what tells the examples apart, see `content_keys`.
            probabilities: [k, n, C] of the k teachers; not needed where all answers are known.

        Raises:
            ValueError: the probabilities are no distributions, or are missing.
        """
        new = self.unknown(keys)
        if new:
            if probabilities is None:
                raise ValueError(f"{len(new)} examples were never answered: pass the teachers' probabilities.")
            if len(probabilities.shape) == 3 and probabilities.shape[1] != len(keys):
                raise ValueError(f"{len(keys)} keys, but probabilities for {probabilities.shape[1]} examples.")
            self._answer([keys[i] for i in new], _distributions(probabilities)[:, new].cpu())
        return torch.stack([self._known[key] for key in keys])

    def _answer(self, keys: list[str], votes: torch.Tensor) -> None:
        """Noise the answers to new examples, and keep them before anybody sees them."""
        with FileLock(self.path.with_suffix(".lock")) if self.path is not None else nullcontext():
            # Another process may have answered some of them meanwhile: its answers are the ones.
            if self.path is not None and self.path.exists():
                self._load(self.path)
            new = self.unknown(keys)
            if not new:
                return
            votes = votes[:, new]
            if self.form == "votes":
                answers = noisy_votes(votes, self.noise_multiplier * math.sqrt(2), self._generator)
            else:
                answers = noisy_mean(votes, self.noise_multiplier * math.sqrt(2) / len(votes), self._generator)
            self._known |= {keys[i]: answer.float() for i, answer in zip(new, answers, strict=True)}
            self._save()

    def entry(self, delta: float) -> LedgerEntry:
        """Return what all answers so far cost the teachers' data."""
        return LedgerEntry(
            "GNMax" if self.form == "votes" else "noisy mean of soft labels",
            scope=TEACHER_DATA,
            unit=self.unit,
            releases=len(self._known),
            delta=delta,
            noise_multiplier=self.noise_multiplier,
            neighbours="replace one",
        )

    @property
    def _settings(self) -> dict[str, str]:
        return {"noise_multiplier": repr(self.noise_multiplier), "form": self.form, "unit": self.unit}

    def _save(self) -> None:
        if self.path is None:
            return
        metadata = self._settings | {"keys": json.dumps(list(self._known))}
        with written_whole(self.path) as part:
            save_file({"answers": torch.stack(list(self._known.values()))}, part, metadata)

    def _load(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            metadata, answers = file.metadata(), file.get_tensor("answers")
        if {name: metadata.get(name) for name in self._settings} != self._settings:
            raise ValueError(
                f"{path} holds answers of other settings ({metadata.get('form')}, noise_multiplier="
                f"{metadata.get('noise_multiplier')}). Use those, or another folder; both cost privacy."
            )
        self._known = dict(zip(read_as(list[str], metadata["keys"], str(path)), answers, strict=True))


def content_keys(examples: torch.Tensor) -> list[str]:
    """Return a key of each example's content, [n]: the same image or token ids have the same key."""
    rows = examples.detach().cpu().contiguous().flatten(1).numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in rows]


def _distributions(probabilities: torch.Tensor) -> torch.Tensor:
    if probabilities.ndim != 3 or not bool(probabilities.isfinite().all()) or bool((probabilities < 0).any()):
        raise ValueError(
            f"probabilities of shape {tuple(probabilities.shape)}: finite, [teachers, examples, classes], "
            "and none negative is needed."
        )
    sums = probabilities.double().sum(-1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise ValueError("A teacher's probabilities do not sum to one: pass softmax outputs, not logits.")
    # Exactly one: the sensitivity is that of distributions.
    return probabilities.double() / sums[..., None]


def onto_simplex(rows: torch.Tensor) -> torch.Tensor:
    """Return the nearest distribution to each row (Duchi et al. 2008): small noise is cut off, not renormalised up."""
    falling = rows.sort(dim=-1, descending=True).values
    over = (falling.cumsum(-1) - 1) / torch.arange(1, rows.shape[-1] + 1, device=rows.device)
    kept = (falling > over).sum(-1, keepdim=True)
    return (rows - over.gather(-1, kept - 1)).clamp_min(0)
