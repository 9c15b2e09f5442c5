"""What `swingkd.trainer` offers, and where each name lives."""

from .config import PrivateDistillationConfig
from .crossfit import train_out_of_fold
from .distillation import PrivateDistillationTrainer
from .interruption import StopOnInterrupt
from .out_of_fold import OutOfFoldTeacher
from .sampled import SampledReport, sample_transfer
from .teacher_cache import cache_teacher

__all__ = [
    "OutOfFoldTeacher",
    "PrivateDistillationConfig",
    "PrivateDistillationTrainer",
    "SampledReport",
    "StopOnInterrupt",
    "cache_teacher",
    "sample_transfer",
    "train_out_of_fold",
]
