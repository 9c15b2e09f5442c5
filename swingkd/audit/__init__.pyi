"""What is measured: attacks on any model, whoever trained it."""

from .callback import PrivacyAuditCallback
from .canaries import Canary, CanarySet
from .exposure import CanaryExposure, ExposureReport, measure_exposure
from .extraction import ExtractionReport, audit_extraction
from .intervals import Interval
from .lower_bound import EpsilonLowerBound, epsilon_lower_bound
from .membership import MembershipReport, MembershipResult, audit_membership, evaluate_attack
from .records import read_records
from .shadows import shadow_models
from .suite import AuditReport, audit_canary_membership, audit_model, canary_records

__all__ = [
    "AuditReport",
    "Canary",
    "CanaryExposure",
    "CanarySet",
    "EpsilonLowerBound",
    "ExposureReport",
    "ExtractionReport",
    "Interval",
    "MembershipReport",
    "MembershipResult",
    "PrivacyAuditCallback",
    "audit_canary_membership",
    "audit_extraction",
    "audit_membership",
    "audit_model",
    "canary_records",
    "epsilon_lower_bound",
    "evaluate_attack",
    "measure_exposure",
    "read_records",
    "shadow_models",
]
