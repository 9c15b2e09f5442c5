"""Microsoft Presidio as a tagger (extra `presidio`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swingkd.tagging.base import BaseTagger, CharTags, empty_tags, paint
from swingkd.tagging.threshold import THRESHOLD

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine


def _engine(language: str, pipeline: str | None) -> AnalyzerEngine:
    """Build an analyzer: Presidio's pattern recognizers, and what a spaCy pipeline finds; nothing is downloaded."""
    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    try:
        words = spacy.load(pipeline) if pipeline else spacy.blank(language)
    except OSError as error:
        raise ValueError(
            f"There is no spaCy pipeline {pipeline!r} here: python -m spacy download {pipeline}, or give a folder."
        ) from error
    engine = SpacyNlpEngine(models=[{"lang_code": language, "model_name": pipeline or "blank"}])
    engine.nlp = {language: words}  # type: ignore[assignment]  # its annotation says None only
    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=engine)
    if not pipeline:
        registry.remove_recognizer("SpacyRecognizer")
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])


class PresidioTagger(BaseTagger):
    """Rate characters by Presidio's scores.

    Presidio's scores are no likelihoods: it gives a telephone number without a word beside it 0.4.  They are stretched
    so that `private_from` becomes 1/2, from where on something counts as private.

    Args:
        analyzer: a configured `AnalyzerEngine`; default: Presidio's pattern recognizers, which need no download.
        pipeline: a spaCy pipeline that finds names and places beside the patterns, "en_core_web_sm" say; a folder too.
        language: the language of the texts.
        entities: which entities to look for; default: all that the analyzer knows.
        score_threshold: scores below it count as nothing.
        private_from: the score from which on something is private, in (0, 1).

    Raises:
        ValueError: private_from is out of range; the pipeline is not installed, or given beside an analyzer.
        ImportError: Presidio is not installed.
    """

    def __init__(
        self,
        analyzer: AnalyzerEngine | None = None,
        *,
        pipeline: str | None = None,
        language: str = "en",
        entities: list[str] | None = None,
        score_threshold: float = 0.0,
        private_from: float = 0.4,
    ):
        if not 0 < private_from < 1:
            raise ValueError(f"private_from={private_from} must lie in (0, 1).")
        if analyzer and pipeline:
            raise ValueError(f"pipeline={pipeline!r} is not used where an analyzer is given: give one of the two.")
        try:
            import presidio_analyzer  # noqa: F401
        except ImportError as error:
            raise ImportError("PresidioTagger needs Presidio: pip install 'swingkd[presidio]'") from error
        self.analyzer = analyzer or _engine(language, pipeline)
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
