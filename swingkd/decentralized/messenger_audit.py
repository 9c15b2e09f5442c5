"""What messengers give away: was this example among a client's own?

The attacker sees a client's messengers and nothing else.  Some reference examples, chosen by a fair coin each, are
also given to the client, with a label drawn at random (texts as they are): what its messenger says of them is then
compared with what it says of those that it was not given.  No example is easier to find, so that the lower bound on
epsilon is a strong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from swingkd.audit import MembershipReport
from swingkd.audit.membership import judge_scores
from swingkd.audit.scores import RecordScores, score_logits
from swingkd.decentralized.labelled_examples import LabelledExamples


@dataclass(frozen=True, eq=False)
class PlantedExamples:
    """Reference examples with random labels, of which a client was given some.

    Args:
        rows: [n] their places among the reference examples.
        labels: [n] drawn at random.
        given: [n] bool, by a fair coin each.
    """

    rows: torch.Tensor
    labels: torch.Tensor
    given: torch.Tensor

    @classmethod
    def drawn(cls, reference: LabelledExamples, count: int, seed: int) -> PlantedExamples:
        """Draw places, labels and coins.

        Raises:
            ValueError: there are not so many reference examples.
        """
        if count > len(reference):
            raise ValueError(f"{count} examples cannot be planted: the reference set has {len(reference)}.")
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(reference), generator=generator)[:count]
        labels = torch.randint(reference.classes, (count,), generator=generator)
        return cls(rows, labels, torch.rand(count, generator=generator) < 0.5)

    def planted(self, private: LabelledExamples, reference: LabelledExamples, copies: int = 1) -> LabelledExamples:
        """Return a client's examples with the given ones among them.

        Args:
            private: what it has.
            reference: the reference examples.
            copies: of each.
        """
        given = reference.select(self.rows[self.given])
        if not reference.are_texts:
            given = replace(given, labels=self.labels[self.given])
        return LabelledExamples.joined([private, *([given] * copies)])


def attack_messengers(
    planted: Sequence[PlantedExamples], messengers: Sequence[torch.Tensor], reference: LabelledExamples | None = None
) -> MembershipReport:
    """Tell the given examples from the others by what each client's messenger [R, C] says of them.

    Args:
        planted: one a client.
        messengers: in the same order.
        reference: the reference examples, where they are texts: of each, the mean over its tokens counts, by how much
            it is likelier than in the other clients' messengers, which the server has as well.

    Returns:
        A report whose members were chosen by a coin, so that epsilon can be bounded from below.
    """
    given = torch.cat([p.given for p in planted])
    order = torch.cat([given.nonzero()[:, 0], (~given).nonzero()[:, 0]])
    if reference is not None and reference.are_texts:
        found = torch.cat([_said(reference, p.rows, messengers, i) for i, p in enumerate(planted)])[order].numpy()
        return judge_scores(RecordScores({"loss": found}, found, found), int(given.sum()))
    log_probs = torch.cat([m[p.rows].float().clamp_min(1e-8).log() for p, m in zip(planted, messengers, strict=True)])
    labels = torch.cat([p.labels for p in planted])
    return judge_scores(score_logits(log_probs[order], labels[order]), int(given.sum()))


def _said(
    reference: LabelledExamples, rows: torch.Tensor, messengers: Sequence[torch.Tensor], client: int
) -> torch.Tensor:
    """Return how much likelier one messenger finds some texts than the others do, [n]: mean log-probabilities.

    Models differ in what they find likely: each is compared with itself on the other texts as well.
    """
    places = reference.places(rows)
    likely = [m[places].float().gather(1, reference.flat_labels[places, None])[:, 0] for m in messengers]
    means = [reference.row_means(part.clamp_min(1e-8).log().double(), rows) for part in likely]
    others = [mean for number, mean in enumerate(means) if number != client]
    found = means[client] - (torch.stack(others).mean(0) if others else 0.0)
    return found - found.mean()
