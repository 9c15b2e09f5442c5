"""What `import swingkd` offers, and where each name lives."""

from . import audit as audit
from . import decentralized as decentralized
from . import privacy as privacy
from . import report as report
from . import surrogates as surrogates
from . import tagging as tagging
from . import targets as targets
from . import tasks as tasks
from . import vision as vision
from .audit import (
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
from .data.folds import Folds
from .decentralized import DecentralizedDistillation
from .functional import collator_of, distillation_loss, distilling, prepare_rows, teacher_logits
from .models.smaller import student_from
from .models.teacher_server import TeacherServer
from .models.vocabulary import CutVocabulary
from .privacy import PrivacyLedger, PrivacyPlan
from .surrogates import Surrogates
from .tagging import (
    ConsistentTagger,
    EnsembleTagger,
    MemorisationTagger,
    PresidioTagger,
    RarityTagger,
    RuleTagger,
    TokenClassificationTagger,
)
from .trainer import (
    OutOfFoldTeacher,
    PrivacyArguments,
    PrivateDistillationConfig,
    PrivateDistillationTrainer,
    cache_teacher,
    private,
    sample_transfer,
    train_out_of_fold,
)
from .vision import DataFreeDistillation, DynamicSampleSelection

__version__: str
__all__ = [
    "AuditReport",
    "CanarySet",
    "ConsistentTagger",
    "CutVocabulary",
    "DataFreeDistillation",
    "DecentralizedDistillation",
    "DynamicSampleSelection",
    "EnsembleTagger",
    "EpsilonLowerBound",
    "ExposureReport",
    "ExtractionReport",
    "Folds",
    "MembershipReport",
    "MemorisationTagger",
    "OutOfFoldTeacher",
    "PresidioTagger",
    "PrivacyArguments",
    "PrivacyAuditCallback",
    "PrivacyLedger",
    "PrivacyPlan",
    "PrivateDistillationConfig",
    "PrivateDistillationTrainer",
    "RarityTagger",
    "RuleTagger",
    "Surrogates",
    "TeacherServer",
    "TokenClassificationTagger",
    "audit_extraction",
    "audit_membership",
    "audit_model",
    "cache_teacher",
    "collator_of",
    "distillation_loss",
    "distilling",
    "epsilon_lower_bound",
    "measure_exposure",
    "prepare_rows",
    "private",
    "sample_transfer",
    "shadow_models",
    "student_from",
    "teacher_logits",
    "train_out_of_fold",
]
