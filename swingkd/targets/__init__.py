"""What the teacher's distribution becomes before the student sees it."""

from swingkd.models.head import Head
from swingkd.targets.base import Drop, LabelsAlone, PrivatePositions, Protection, ProtectionName, Soften
from swingkd.targets.facts import FACT_TYPES, TokenFacts
from swingkd.targets.mollify import MollifiedTarget
from swingkd.targets.noise import NoisedTarget, NoiseKey
from swingkd.targets.population import PopulationBuilder, PopulationTable, PopulationTarget
from swingkd.targets.teacher import CachedTeacher, LiveTeacher, ProtectedTargets, TopTokens
from swingkd.targets.temperature import TemperatureSettings, TokenTemperatures

__all__ = [
    "FACT_TYPES",
    "CachedTeacher",
    "Drop",
    "Head",
    "LabelsAlone",
    "LiveTeacher",
    "MollifiedTarget",
    "NoiseKey",
    "NoisedTarget",
    "PopulationBuilder",
    "PopulationTable",
    "PopulationTarget",
    "PrivatePositions",
    "ProtectedTargets",
    "Protection",
    "ProtectionName",
    "Soften",
    "TemperatureSettings",
    "TokenFacts",
    "TokenTemperatures",
    "TopTokens",
]
