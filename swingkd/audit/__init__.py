"""What is measured: attacks on any model, whoever trained it."""

from swingkd.audit.canaries import Canary, CanarySet
from swingkd.audit.exposure import CanaryExposure, ExposureReport, Interval, measure_exposure

__all__ = ["Canary", "CanaryExposure", "CanarySet", "ExposureReport", "Interval", "measure_exposure"]
