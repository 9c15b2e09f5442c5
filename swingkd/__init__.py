"""swingkd: distil a model without distilling its secrets."""

from swingkd.audit import CanarySet, EpsilonLowerBound, ExposureReport, epsilon_lower_bound, measure_exposure
from swingkd.config import PrivateDistillationConfig
from swingkd.tagging import EnsembleTagger, PresidioTagger, RarityTagger, RuleTagger, TokenClassificationTagger
from swingkd.teacher_cache import cache_teacher
from swingkd.trainer import PrivateDistillationTrainer

__version__ = "0.1.0"
__all__ = [
    "CanarySet",
    "EnsembleTagger",
    "EpsilonLowerBound",
    "ExposureReport",
    "PresidioTagger",
    "PrivateDistillationConfig",
    "PrivateDistillationTrainer",
    "RarityTagger",
    "RuleTagger",
    "TokenClassificationTagger",
    "cache_teacher",
    "epsilon_lower_bound",
    "measure_exposure",
]
