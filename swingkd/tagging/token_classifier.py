"""A Hugging Face token classifier (NER, de-identification) as a tagger."""

from __future__ import annotations

import re

import numpy as np
import torch
from transformers import AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerBase

from swingkd.models.loading import load_pretrained, load_tokenizer
from swingkd.tagging.base import BaseTagger, CharTags, empty_tags, token_characters
from swingkd.tagging.threshold import is_private
from swingkd.tagging.windows import check_fast_tokenizer, token_windows


class TokenClassificationTagger(BaseTagger):
    """Rate characters by 1 - P("O") of a token classifier.

    Args:
        model: a token classification model, or its name on the Hub or on disk.
        tokenizer: its fast tokenizer; needed only when `model` is not a name.
        outside: the label that means "nothing private here".
        max_length: window length in tokens; default: what the model allows, at most 512.
        overlap: tokens shared by neighbouring windows of a long text; where they disagree the larger value wins.
        batch_size: windows per forward pass.

    Raises:
        ValueError: the tokenizer is slow, or no label of the model is called `outside`.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        outside: str = "O",
        max_length: int | None = None,
        overlap: int = 32,
        batch_size: int = 32,
    ):
        if isinstance(model, str):
            tokenizer = tokenizer or load_tokenizer(model)
            model = load_pretrained(AutoModelForTokenClassification, model)
        if tokenizer is None:
            raise ValueError("TokenClassificationTagger got a model object without its tokenizer: pass tokenizer=...")
        check_fast_tokenizer(tokenizer)
        names = [model.config.id2label[i] for i in range(model.config.num_labels)]
        if outside not in names:
            raise ValueError(
                f"No label of the token classifier is called {outside!r} (it has {names}). Pass outside=<the label "
                "that means nothing private>."
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = max_length or min(getattr(model.config, "max_position_embeddings", 512), 512)
        self.overlap = overlap
        self.batch_size = batch_size
        kinds = ["" if name == outside else re.sub(r"^[BIESLU][-_]", "", name) for name in names]
        self.labels = ("", *dict.fromkeys(kind for kind in kinds if kind))
        self._outside = names.index(outside)
        self._label_of_class = np.array([self.labels.index(kind) for kind in kinds], np.int16)
        #: Classes that begin a name of their own, whatever stands before them.
        self._begins = np.array([name.startswith(("B-", "B_")) for name in names])

    @torch.inference_mode()
    def tag(self, texts: list[str]) -> list[CharTags]:
        """Tag each text: likelihood and label of every character (the largest over windows and tokens)."""
        tagged = [empty_tags(text) for text in texts]
        for batch in token_windows(self.tokenizer, texts, self.max_length, self.overlap, self.batch_size):
            inputs = {key: value.to(self.model.device) for key, value in batch.inputs.items()}
            probabilities = self.model(**inputs).logits.float().softmax(-1)
            private = (1 - probabilities[..., self._outside]).clamp(0, 1).cpu().numpy()
            probabilities[..., self._outside] = -1
            classes = probabilities.argmax(-1).cpu().numpy()
            for row, text_index in enumerate(batch.text_index):
                tags = tagged[text_index]
                parts, of_part, classes_of_part = self._with_gaps(batch.offsets[row], private[row], classes[row])
                chars, part = token_characters(parts)
                likelihood = of_part[part]
                np.maximum.at(tags.likelihood, chars, likelihood)
                named = is_private(likelihood) & (likelihood == tags.likelihood[chars])
                tags.labels[chars[named]] = self._label_of_class[classes_of_part[part[named]]]
        return tagged

    def _with_gaps(
        self, offsets: np.ndarray, private: np.ndarray, classes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Add what stands between two tokens of one name: many tokenizers leave blanks out of their tokens."""
        real = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
        left, right = real[:-1], real[1:]
        labels = self._label_of_class[classes]
        one = is_private(np.minimum(private[left], private[right])) & (labels[left] == labels[right])
        gap = one & ~self._begins[classes[right]] & (offsets[right, 0] > offsets[left, 1])
        left, right = left[gap], right[gap]
        return (
            np.concatenate([offsets, np.stack([offsets[left, 1], offsets[right, 0]], 1)]),
            np.concatenate([private, np.minimum(private[left], private[right])]),
            np.concatenate([classes, classes[right]]),
        )
