"""What is measured: attacks on any model, whoever trained it."""

from swingkd.audit.callback import PrivacyAuditCallback
from swingkd.audit.canaries import Canary, CanarySet
from swingkd.audit.exposure import CanaryExposure, ExposureReport, measure_exposure
from swingkd.audit.extraction import ExtractionReport, audit_extraction
from swingkd.audit.intervals import Interval
from swingkd.audit.lower_bound import EpsilonLowerBound, epsilon_lower_bound
from swingkd.audit.membership import MembershipReport, MembershipResult, audit_membership, evaluate_attack
from swingkd.audit.records import read_records
from swingkd.audit.shadows import shadow_models
from swingkd.audit.suite import AuditReport, audit_canary_membership, audit_model, canary_records

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
