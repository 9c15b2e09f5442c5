"""Taggers put a likelihood of being private on every character of a text."""

from swingkd.tagging.base import (
    BaseTagger,
    CharTags,
    LabelledTagger,
    Tagger,
    align,
    dilate,
    label_spans,
    private_spans,
    tag_texts,
)
from swingkd.tagging.ensemble import EnsembleTagger
from swingkd.tagging.memorisation import MemorisationTagger, Remembered
from swingkd.tagging.presidio import PresidioTagger
from swingkd.tagging.propagation import ConsistentTagger
from swingkd.tagging.rarity import RarityTagger
from swingkd.tagging.rule import Rule
from swingkd.tagging.rules import DEFAULT_RULES, RuleTagger
from swingkd.tagging.threshold import THRESHOLD, is_private
from swingkd.tagging.token_classifier import TokenClassificationTagger

__all__ = [
    "DEFAULT_RULES",
    "THRESHOLD",
    "BaseTagger",
    "CharTags",
    "ConsistentTagger",
    "EnsembleTagger",
    "LabelledTagger",
    "MemorisationTagger",
    "PresidioTagger",
    "RarityTagger",
    "Remembered",
    "Rule",
    "RuleTagger",
    "Tagger",
    "TokenClassificationTagger",
    "align",
    "dilate",
    "is_private",
    "label_spans",
    "private_spans",
    "tag_texts",
]
