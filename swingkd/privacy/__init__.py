"""What is promised: mechanisms whose guarantee holds, and what it is about; never a model's behaviour."""

from swingkd.privacy.budget import Budget
from swingkd.privacy.check_gradients import check_modules
from swingkd.privacy.dp_sgd import DPSGD
from swingkd.privacy.label_dp import (
    best_candidates,
    multi_stage_labels,
    randomize_labels,
    randomized_response_rdp,
    response_probabilities,
)
from swingkd.privacy.ledger import (
    LEDGER_FILE,
    NO_DATA,
    NO_TEACHER,
    PUBLIC_DATA,
    SYNTHETIC_LABELS,
    TEACHER_DATA,
    TRANSFER_SET,
    BudgetExceededError,
    LedgerEntry,
    PrivacyLedger,
)
from swingkd.privacy.pate import ShardAnswers, content_keys, shard
from swingkd.privacy.plan import PrivacyPlan
from swingkd.privacy.randomness import secret_generator
from swingkd.privacy.sampling import PoissonBatches
from swingkd.privacy.settings import DPSettings
from swingkd.privacy.weights import has_weights, module_digest

__all__ = [
    "DPSGD",
    "LEDGER_FILE",
    "NO_DATA",
    "NO_TEACHER",
    "PUBLIC_DATA",
    "SYNTHETIC_LABELS",
    "TEACHER_DATA",
    "TRANSFER_SET",
    "Budget",
    "BudgetExceededError",
    "DPSettings",
    "LedgerEntry",
    "PoissonBatches",
    "PrivacyLedger",
    "PrivacyPlan",
    "ShardAnswers",
    "best_candidates",
    "check_modules",
    "content_keys",
    "has_weights",
    "module_digest",
    "multi_stage_labels",
    "randomize_labels",
    "randomized_response_rdp",
    "response_probabilities",
    "secret_generator",
    "shard",
]
