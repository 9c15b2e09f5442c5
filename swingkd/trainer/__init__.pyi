"""What `swingkd.trainer` offers, and where each name lives."""

from .config import PrivateDistillationConfig
from .distillation import PrivateDistillationTrainer
from .interruption import StopOnInterrupt
from .teacher_cache import cache_teacher

__all__ = ["PrivateDistillationConfig", "PrivateDistillationTrainer", "StopOnInterrupt", "cache_teacher"]
