"""Microsoft Presidio as a tagger (extra `presidio`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swingkd.tagging.base import BaseTagger, CharTags, empty_tags, paint
from swingkd.tagging.threshold import THRESHOLD

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine


def _pattern_engine(language: str) -> AnalyzerEngine:
    """Build an analyzer with Presidio's pattern recognizers only: no language model to download."""
    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    engine = SpacyNlpEngine(models=[{"lang_code": language, "model_name": "blank"}])
    engine.nlp = {language: spacy.blank(language)}  # type: ignore[assignment]  # its annotation says None only
    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=engine)
    registry.remove_recognizer("SpacyRecognizer")
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])


class PresidioTagger(BaseTagger):
    """Rate characters by Presidio's scores.

    Presidio's scores are no likelihoods: it gives a telephone number without a word beside it 0.4.  They are stretched
    so that `private_from` becomes 1/2, from where on something counts as private.

    Args:
        analyzer: a configured `AnalyzerEngine`; default: Presidio's pattern recognizers, which need no download.
            For names and places pass an engine with a language model.
        language: the language of the texts.
        entities: which entities to look for; default: all that the analyzer knows.
        score_threshold: scores below it count as nothing.
        private_from: the score from which on something is private, in (0, 1).

    Raises:
        ValueError: private_from is out of range.
        ImportError: Presidio is not installed.
    """

    def __init__(
        self,
        analyzer: AnalyzerEngine | None = None,
        *,
        language: str = "en",
        entities: list[str] | None = None,
        score_threshold: float = 0.0,
        private_from: float = 0.4,
    ):
        if not 0 < private_from < 1:
            raise ValueError(f"private_from={private_from} must lie in (0, 1).")
        try:
            import presidio_analyzer  # noqa: F401
        except ImportError as error:
            raise ImportError("PresidioTagger needs Presidio: pip install 'swingkd[presidio]'") from error
        self.analyzer = analyzer or _pattern_engine(language)
        self.language = language
        self.entities = entities
        self.score_threshold = score_threshold
        self.private_from = private_from
        self.labels = ("", *sorted(entities or self.analyzer.get_supported_entities(language)))

    def tag(self, texts: list[str]) -> list[CharTags]:
        """Tag each text: likelihood and label of every character."""
        tagged = []
        for text in texts:
            tags = empty_tags(text)
            for entity in self.analyzer.analyze(
                text, self.language, entities=self.entities, score_threshold=self.score_threshold
            ):
                if entity.entity_type in self.labels:
                    label = self.labels.index(entity.entity_type)
                    paint(tags, entity.start, entity.end, self._likelihood(entity.score), label)
            tagged.append(tags)
        return tagged

    def _likelihood(self, score: float) -> float:
        return float(np.interp(score, (0.0, self.private_from, 1.0), (0.0, THRESHOLD, 1.0)))
