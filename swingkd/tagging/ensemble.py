"""Several taggers as one: private if any of them says so."""

from __future__ import annotations

import numpy as np

from swingkd.tagging.base import BaseTagger, CharTags, LabelledTagger, Tagger, tag_texts


class EnsembleTagger(BaseTagger):
    """Combine taggers by noisy-or: s = 1 - prod(1 - s_m); the label is that of the surest member.

    Args:
        taggers: two or more taggers.

    Raises:
        ValueError: no tagger given.
    """

    def __init__(self, *taggers: Tagger):
        if not taggers:
            raise ValueError("EnsembleTagger needs at least one tagger, got none.")
        self.taggers = taggers
        own = [t.labels if isinstance(t, LabelledTagger) else ("", "PRIVATE") for t in taggers]
        self.labels = ("", *dict.fromkeys(label for labels in own for label in labels if label))
        self._translate = [np.array([self.labels.index(label) for label in labels], np.int16) for labels in own]

    def tag(self, texts: list[str]) -> list[CharTags]:
        """Tag each text: likelihood and label of every character."""
        members = [tag_texts(tagger, texts) for tagger in self.taggers]
        tagged = []
        for i, text in enumerate(texts):
            innocent = np.ones(len(text), np.float32)
            surest = np.zeros(len(text), np.float32)
            labels = np.zeros(len(text), np.int16)
            for tags, translate in zip((member[i] for member in members), self._translate, strict=True):
                innocent *= 1 - tags.likelihood
                surer = (tags.likelihood > surest) & (tags.labels > 0)
                surest[surer] = tags.likelihood[surer]
                labels[surer] = translate[tags.labels[surer]]
            tagged.append(CharTags(1 - innocent, labels))
        return tagged
