"""What `swingkd.trainer` offers, and where each name lives."""

from .config import PrivateDistillationConfig
from .crossfit import train_out_of_fold
from .distillation import PrivateDistillationTrainer
from .interruption import StopOnInterrupt
from .out_of_fold import OutOfFoldTeacher
from .privacy_arguments import PrivacyArguments
from .private import private
from .sampled import SampledReport, sample_transfer
from .teacher_cache import cache_teacher

__all__ = [
    "OutOfFoldTeacher",
    "PrivacyArguments",
    "PrivateDistillationConfig",
    "PrivateDistillationTrainer",
    "SampledReport",
    "StopOnInterrupt",
    "cache_teacher",
    "private",
    "sample_transfer",
    "train_out_of_fold",
]
