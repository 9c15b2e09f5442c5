"""Labelled examples of any kind: signals, images, texts; whatever a classifier or a language model is called with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from swingkd.data.columns import IGNORE
from swingkd.decentralized.message import fingerprint
from swingkd.models.inputs import row_positions, takes
from swingkd.models.logits import logits_of

Inputs = torch.Tensor | dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class LabelledExamples:
    """Labelled examples, in memory.

    Args:
        inputs: [n, ...] what a model is called with, or a dict of such by argument name.
        labels: [n] class numbers; or [n, T] the tokens of texts, each predicted from those before it, and -100 where
            nothing is asked, as a language model takes them.
        classes: how many there are; of texts, the size of the vocabulary.
        likelihood: in [0, 1], in the shape of the labels: how likely each is private (a token of a name, say); `None`:
            not at all.

    Raises:
        ValueError: there are none, or lengths or labels do not fit.
    """

    inputs: Inputs
    labels: torch.Tensor
    classes: int
    likelihood: torch.Tensor | None = None

    def __post_init__(self) -> None:
        # Lists and arrays as well.
        object.__setattr__(self, "labels", _tensor("labels", self.labels))
        if isinstance(self.inputs, dict):
            object.__setattr__(self, "inputs", {name: _tensor(name, one) for name, one in self.inputs.items()})
        else:
            object.__setattr__(self, "inputs", _tensor("inputs", self.inputs))
        if not len(self.labels):
            raise ValueError("There are no examples.")
        if self.labels.ndim not in (1, 2) or self.labels.is_floating_point():
            raise ValueError(
                f"Labels are of shape {tuple(self.labels.shape)} and {self.labels.dtype}: whole numbers are needed, "
                "one an example, or of a text one a token."
            )
        object.__setattr__(self, "labels", self.labels.long())
        for name, tensor in self._tensors().items():
            if len(tensor) != len(self.labels):
                raise ValueError(f"{name} has {len(tensor)} rows, the labels {len(self.labels)}.")
            wrong = (~tensor.isfinite()).flatten(1).any(1) if tensor.ndim > 1 else ~tensor.isfinite()
            if bool(wrong.any()):
                raise ValueError(
                    f"{name} holds numbers that are missing or infinite in {int(wrong.sum())} of {len(wrong)} "
                    f"examples (the first: {int(wrong.nonzero()[0])}). Fill them in, or leave these examples out."
                )
        if self.are_texts:
            if bool((self.labels[:, 0] != IGNORE).any()):
                raise ValueError(f"The first token of a text follows from nothing: its label must be {IGNORE}.")
            empty = (~self.asked.any(1)).nonzero()[:, 0]
            if len(empty):
                raise ValueError(f"Text {int(empty[0])} asks for no token. Drop such rows.")
        low, high = int(self.flat_labels.min()), int(self.flat_labels.max())
        if low < 0 or high >= self.classes:
            raise ValueError(f"Labels from {low} to {high}; of {self.classes} classes the last is {self.classes - 1}.")
        if self.likelihood is not None:
            if self.likelihood.shape != self.labels.shape:
                raise ValueError(
                    f"likelihood has the shape {tuple(self.likelihood.shape)}, the labels {tuple(self.labels.shape)}."
                )
            if not bool(((self.likelihood >= 0) & (self.likelihood <= 1)).all()):
                raise ValueError("A likelihood lies outside [0, 1].")

    @property
    def are_texts(self) -> bool:
        """Whether each example has a label for each token."""
        return self.labels.ndim == 2

    @cached_property
    def asked(self) -> torch.Tensor:
        """Bool in the shape of the labels: where there is one."""
        return self.labels != IGNORE if self.are_texts else torch.ones_like(self.labels, dtype=torch.bool)

    @cached_property
    def flat_labels(self) -> torch.Tensor:
        """All labels in one row, [R]: a messenger says something of each."""
        return self.labels[self.asked]

    def places(self, rows: torch.Tensor) -> torch.Tensor:
        """Return which of the R labels are those of some examples, in their order."""
        if not self.are_texts:
            return rows
        ends = self._counts.cumsum(0)[rows]
        counts = self._counts[rows]
        return torch.cat([torch.arange(end - n, end) for end, n in zip(ends.tolist(), counts.tolist(), strict=True)])

    @cached_property
    def _counts(self) -> torch.Tensor:
        return self.asked.sum(1)

    def row_means(self, values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the mean [n] of values [r] over the labels of each of some examples."""
        if not self.are_texts:
            return values
        counts = self._counts[rows].to(values.device)
        owner = torch.arange(len(rows), device=values.device).repeat_interleave(counts)
        return values.new_zeros(len(rows)).index_add(0, owner, values) / counts

    def __len__(self) -> int:
        return len(self.labels)

    def _tensors(self) -> dict[str, torch.Tensor]:
        named = dict(self.inputs) if isinstance(self.inputs, dict) else {"inputs": self.inputs}
        return named | ({} if self.likelihood is None else {"likelihood": self.likelihood})

    def select(self, rows: torch.Tensor) -> LabelledExamples:
        """Return some of them."""
        likelihood = self.likelihood[rows] if self.likelihood is not None else None
        return LabelledExamples(self.shown(rows), self.labels[rows], self.classes, likelihood)

    def shown(self, rows: torch.Tensor) -> Inputs:
        """Return what a model is called with for some of them."""
        if isinstance(self.inputs, dict):
            return {name: tensor[rows] for name, tensor in self.inputs.items()}
        return self.inputs[rows]

    def padded(self, width: int) -> LabelledExamples:
        """Return texts that are so many tokens wide; what is added is asked nowhere."""

        def wider(tensor: torch.Tensor, value: int = 0) -> torch.Tensor:
            return F.pad(tensor, (0, width - tensor.shape[1]), value=value)

        inputs = self.inputs
        inputs = {name: wider(t) for name, t in inputs.items()} if isinstance(inputs, dict) else wider(inputs)
        likelihood = wider(self.likelihood) if self.likelihood is not None else None
        return LabelledExamples(inputs, wider(self.labels, IGNORE), self.classes, likelihood)

    def fingerprint(self) -> str:
        """Return a digest of inputs and labels: clients and server must have the same reference examples."""
        named = dict(self.inputs) if isinstance(self.inputs, dict) else {"inputs": self.inputs}
        return fingerprint(*(named[name] for name in sorted(named)), self.labels)

    @classmethod
    def joined(cls, parts: Sequence[LabelledExamples]) -> LabelledExamples:
        """Return the examples of several as one; texts are padded to the longest."""
        first = parts[0]
        if first.are_texts:
            width = max(part.labels.shape[1] for part in parts)
            parts = [part.padded(width) for part in parts]
        inputs: Inputs
        if isinstance(first.inputs, dict):
            inputs = {name: torch.cat([part.inputs[name] for part in parts]) for name in first.inputs}  # type: ignore[index]
        else:
            inputs = torch.cat([part.inputs for part in parts])  # type: ignore[misc]  # all of one kind
        known = [part.likelihood for part in parts if part.likelihood is not None]
        likelihood = torch.cat(known) if len(known) == len(parts) else None
        return cls(inputs, torch.cat([part.labels for part in parts]), first.classes, likelihood)


def _tensor(name: str, values: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} is {type(values).__name__}, of which no tensor can be made ({error}). Give numbers; encode names "
            "of classes as 0, 1, ..."
        ) from error


def answers(
    model: nn.Module, examples: LabelledExamples, rows: torch.Tensor, *, row_by_row: bool = False
) -> torch.Tensor:
    """Return what a model says of some examples, [r, classes] logits: a row for each of their labels.

    Args:
        model: of images, numbers or texts.
        examples: those.
        rows: their numbers, [n].
        row_by_row: say where each text's tokens stand, since what a whole batch shares (learnt positions) has no
            gradient of one row.

    Raises:
        ValueError: what it returns are no such logits.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if not examples.are_texts:
        return logits_of(model, _on(device, examples.shown(rows)))
    asked = examples.asked[rows]
    # Without what pads all of these: a longer text elsewhere costs nothing here.
    width = int(asked.any(0).nonzero()[-1]) + 1
    inputs = _on(device, _narrower(examples.shown(rows), width, asked.shape[1]))
    if row_by_row and isinstance(inputs, dict) and "position_ids" not in inputs and takes(model, "position_ids"):
        inputs["position_ids"] = row_positions(model, inputs["input_ids"])
    logits = logits_of(model, inputs, dims=3)
    if logits.shape[2] < examples.classes:
        raise ValueError(f"{type(model).__name__} knows {logits.shape[2]} tokens, the texts {examples.classes}.")
    # A token is predicted where the one before it stands; heads may be padded beyond the vocabulary.
    return logits[:, :-1, : examples.classes][asked[:, 1:width].to(logits.device)]


def _on(device: torch.device, inputs: Inputs) -> Inputs:
    if isinstance(inputs, torch.Tensor):
        return inputs.to(device)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def _narrower(inputs: Inputs, width: int, whole: int) -> Inputs:
    """Return the first so many tokens of inputs that have one place a token."""
    if isinstance(inputs, torch.Tensor):
        return inputs[:, :width]
    return {name: t[:, :width] if t.ndim > 1 and t.shape[1] == whole else t for name, t in inputs.items()}


@torch.no_grad()
def check_causal(model: nn.Module, examples: LabelledExamples) -> None:
    """Refuse a model that reads a token before it predicts it: it would seem the best of all, and teach the others.

    Raises:
        ValueError: another last token changes what it says of those before.
    """
    one, training = examples.select(torch.tensor([0])), model.training
    last = int(one.asked[0].nonzero()[-1])
    ids = one.inputs["input_ids"] if isinstance(one.inputs, dict) else one.inputs
    ids = ids.clone()
    ids[0, last] = (ids[0, last] + 1) % examples.classes
    other = replace(one, inputs={**one.inputs, "input_ids": ids} if isinstance(one.inputs, dict) else ids)
    model.eval()
    said, changed = (answers(model, shown, torch.tensor([0])) for shown in (one, other))
    model.train(training)
    if not torch.allclose(said, changed, atol=1e-5, rtol=1e-5):
        raise ValueError(
            f"{type(model).__name__} sees the tokens that it is to predict. Give a causal language model (a decoder)."
        )


@torch.no_grad()
def logits_on(model: nn.Module, examples: LabelledExamples) -> torch.Tensor:
    """Return what a model says of examples, [R, classes], in evaluation mode."""
    training = model.training
    model.eval()
    parts = torch.arange(len(examples)).split(32 if examples.are_texts else 512)
    logits = torch.cat([answers(model, examples, part) for part in parts])
    model.train(training)
    return logits


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield batches for ever, in passes over all rows in random order.

    Those of a pass are of like length, between `size` and twice that: a last one of two or three would be a bad one
    for batch norm.
    """
    while True:
        yield from torch.randperm(count, generator=generator).tensor_split(max(1, count // size))
