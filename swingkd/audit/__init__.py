"""What is measured: attacks on any model, whoever trained it."""

from swingkd.audit.canaries import Canary, CanarySet
from swingkd.audit.exposure import CanaryExposure, ExposureReport, Interval, measure_exposure
from swingkd.audit.lower_bound import EpsilonLowerBound, epsilon_lower_bound

__all__ = [
    "Canary",
    "CanaryExposure",
    "CanarySet",
    "EpsilonLowerBound",
    "ExposureReport",
    "Interval",
    "epsilon_lower_bound",
    "measure_exposure",
]
