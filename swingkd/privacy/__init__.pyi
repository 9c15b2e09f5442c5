"""What is promised: mechanisms whose guarantee holds, and what it is about; never a model's behaviour."""

from .budget import Budget
from .check_gradients import check_modules
from .dp_sgd import DPSGD
from .label_dp import (
    best_candidates,
    multi_stage_labels,
    randomize_labels,
    randomized_response_rdp,
    response_probabilities,
)
from .ledger import (
    FLAGGED_VALUES,
    LEDGER_FILE,
    NO_DATA,
    NO_TEACHER,
    PUBLIC_DATA,
    SYNTHETIC_LABELS,
    TEACHER_DATA,
    BudgetExceededError,
    PrivacyLedger,
)
from .ledger_entry import TRANSFER_SET, LedgerEntry
from .pate import ShardAnswers, content_keys, shard
from .plan import PrivacyPlan
from .randomness import secret_generator
from .sampling import PoissonBatches
from .settings import DPSettings
from .unit_by_unit import UnitByUnit
from .weights import has_weights, module_digest

__all__ = [
    "DPSGD",
    "FLAGGED_VALUES",
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
    "UnitByUnit",
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
