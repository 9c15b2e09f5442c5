"""PrivateDistillationTrainer, its settings, and the teacher asked once."""

from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.distillation import PrivateDistillationTrainer
from swingkd.trainer.interruption import StopOnInterrupt
from swingkd.trainer.teacher_cache import cache_teacher

__all__ = ["PrivateDistillationConfig", "PrivateDistillationTrainer", "StopOnInterrupt", "cache_teacher"]
