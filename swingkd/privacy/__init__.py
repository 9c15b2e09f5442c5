"""What is promised: mechanisms whose guarantee holds, and what it is about; never a model's behaviour."""

from swingkd.privacy.label_dp import (
    best_candidates,
    multi_stage_labels,
    randomize_labels,
    randomized_response_rdp,
    response_probabilities,
)
from swingkd.privacy.plan import PrivacyPlan
from swingkd.privacy.randomness import secret_generator

__all__ = [
    "PrivacyPlan",
    "best_candidates",
    "multi_stage_labels",
    "randomize_labels",
    "randomized_response_rdp",
    "response_probabilities",
    "secret_generator",
]
