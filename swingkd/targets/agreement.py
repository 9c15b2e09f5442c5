"""What teachers agree on: an answer moves away from a public model only as far as two of them say (ours).

Each record is in the training data of one teacher alone.  What that teacher knows by heart no other confirms, so it
stays out of the answer, whatever the record says, whatever was asked, and with no tagger to find it.  With two
teachers and the public model the answer is the median of the three, token by token.

What holds (our derivation): let one teacher be any other.  Before the answer is made to add up to one, each of its
probabilities stays between those of the public model and of the remaining teachers, none of which saw the record; so
no ratio of two answers is larger than e^(2 d), where d is the largest distance of their log-probabilities.  Where they
are of one mind, d is 0 and nothing of the record is left.  It is no differential privacy: d is no constant.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


def agreed(teachers: Iterable[torch.Tensor], public: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities [P, V] that at least two teachers answer for.

    Args:
        teachers: log-probabilities [P, V] of two or more teachers that share no record.
        public: [P, V] of a model that saw none.

    Raises:
        ValueError: there are fewer teachers than two: there is nobody to agree with.
    """
    high = torch.full_like(public, -torch.inf)
    second_high, second_low, low = high.clone(), -high, -high
    count = 0
    for log_probs in teachers:
        second_high = torch.maximum(second_high, torch.minimum(high, log_probs))
        high = torch.maximum(high, log_probs)
        second_low = torch.minimum(second_low, torch.maximum(low, log_probs))
        low = torch.minimum(low, log_probs)
        count += 1
    if count < 2:
        raise ValueError(f"{count} teacher has nobody to agree with: give two or more that share no record.")
    # What the public model rules out cannot be lowered further.
    lowered = (torch.minimum(second_low, public) - public).nan_to_num_(nan=0.0, neginf=-torch.inf)
    return (torch.maximum(second_high, public) + lowered).log_softmax(-1)
