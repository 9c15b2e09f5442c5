"""Images: distillation on Accelerate with a private teacher, of any classifier that returns logits."""

from swingkd.vision.classifier_training import ClassifierArguments, ClassifierTraining
from swingkd.vision.data import Images
from swingkd.vision.data_free import DataFreeArguments, DataFreeDistillation
from swingkd.vision.generator_loss import GeneratorLoss
from swingkd.vision.guidance import Labels, PublishedNoise, ShardTeachers, Teacher
from swingkd.vision.labelling import ExactTeacher, NoisyDifferences, RandomizedTeacher, ShardLabels
from swingkd.vision.models import CifarResNet, ImageGenerator, RonaNet, SlimResNet
from swingkd.vision.noised_guidance import BatchGradient, ZerothOrder
from swingkd.vision.sample_selection import DynamicSampleSelection, SampleSelectionArguments

__all__ = [
    "BatchGradient",
    "CifarResNet",
    "ClassifierArguments",
    "ClassifierTraining",
    "DataFreeArguments",
    "DataFreeDistillation",
    "DynamicSampleSelection",
    "ExactTeacher",
    "GeneratorLoss",
    "ImageGenerator",
    "Images",
    "Labels",
    "NoisyDifferences",
    "PublishedNoise",
    "RandomizedTeacher",
    "RonaNet",
    "SampleSelectionArguments",
    "ShardLabels",
    "ShardTeachers",
    "SlimResNet",
    "Teacher",
    "ZerothOrder",
]
