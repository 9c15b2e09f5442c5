"""swingkd: distil a model without distilling its secrets."""

from swingkd.audit import (
    AuditReport,
    CanarySet,
    EpsilonLowerBound,
    ExposureReport,
    ExtractionReport,
    MembershipReport,
    PrivacyAuditCallback,
    audit_extraction,
    audit_membership,
    audit_model,
    epsilon_lower_bound,
    measure_exposure,
    shadow_models,
)
from swingkd.config import PrivateDistillationConfig
from swingkd.decentralized import DecentralizedDistillation
from swingkd.plug_in import distillation_loss, teacher_logits
from swingkd.privacy import PrivacyLedger, PrivacyPlan
from swingkd.tagging import EnsembleTagger, PresidioTagger, RarityTagger, RuleTagger, TokenClassificationTagger
from swingkd.teacher_cache import cache_teacher
from swingkd.trainer import PrivateDistillationTrainer
from swingkd.vision import DataFreeDistillation, DynamicSampleSelection

__version__ = "0.1.0"
__all__ = [
    "AuditReport",
    "CanarySet",
    "DataFreeDistillation",
    "DecentralizedDistillation",
    "DynamicSampleSelection",
    "EnsembleTagger",
    "EpsilonLowerBound",
    "ExposureReport",
    "ExtractionReport",
    "MembershipReport",
    "PresidioTagger",
    "PrivacyAuditCallback",
    "PrivacyLedger",
    "PrivacyPlan",
    "PrivateDistillationConfig",
    "PrivateDistillationTrainer",
    "RarityTagger",
    "RuleTagger",
    "TokenClassificationTagger",
    "audit_extraction",
    "audit_membership",
    "audit_model",
    "cache_teacher",
    "distillation_loss",
    "epsilon_lower_bound",
    "measure_exposure",
    "shadow_models",
    "teacher_logits",
]
