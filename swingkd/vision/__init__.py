"""Images: distillation on Accelerate with a private teacher, of any classifier that returns logits."""

from swingkd.vision.data import Images
from swingkd.vision.guidance import Labels, PublishedNoise, ShardTeachers, Teacher
from swingkd.vision.guidance_noised import BatchGradient, ZerothOrder
from swingkd.vision.models import CifarResNet, ImageGenerator, RonaNet, SlimResNet
from swingkd.vision.sample_selection import DynamicSampleSelection, SampleSelectionArguments
from swingkd.vision.supervised import ClassifierArguments, ClassifierTraining

__all__ = [
    "BatchGradient",
    "CifarResNet",
    "ClassifierArguments",
    "ClassifierTraining",
    "DynamicSampleSelection",
    "ImageGenerator",
    "Images",
    "Labels",
    "PublishedNoise",
    "RonaNet",
    "SampleSelectionArguments",
    "ShardTeachers",
    "SlimResNet",
    "Teacher",
    "ZerothOrder",
]
