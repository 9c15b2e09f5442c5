"""The text of an experiment: from the Hub or local files, its annotation, its canaries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from accelerate import PartialState
from datasets import Dataset, load_dataset

from swingkd import CanarySet, EnsembleTagger, RuleTagger
from swingkd.data.columns import IGNORE
from swingkd.experiments.launch import expand
from swingkd.experiments.models import lock
from swingkd.tagging import BaseTagger, CharTags, is_private, label_spans
from swingkd.tagging.base import empty_tags, paint, tag_texts


def load(spec: dict[str, Any]) -> Dataset:
    """Load a data set by the arguments of `load_dataset`; the split is `train` where none is named."""
    return load_dataset(**{"split": "train", **expand(spec)})


def load_split(spec: dict[str, Any], text_column: str, limit: int | None = None) -> Dataset:
    """Load one split by the arguments of `load_dataset`; keep the text and, where there are any, its spans."""
    data = load(spec)
    data = data.filter(lambda row: bool(row[text_column].strip()) and not row.get("is_canary", False))
    data = data.select(range(min(limit or len(data), len(data))))
    if text_column != "text":
        data = data.rename_column(text_column, "text")
    return data.select_columns([name for name in ("text", "spans") if name in data.column_names])


def load_splits(data: dict[str, Any]) -> tuple[Dataset, dict[str, Dataset]]:
    """Return the training split and the others that the configuration names."""
    limits = data.get("limit", {})
    splits: dict[str, Dataset] = {
        name: load_split(data[name], data["text_column"], limits.get(name))
        for name in ("train", "validation", "test")
        if name in data
    }
    return splits.pop("train"), splits


def load_halves(data: dict[str, Any]) -> tuple[Dataset, Dataset, dict[str, Dataset]]:
    """Return the private and the public part of the training split, and the others that the configuration names."""
    train, splits = load_splits(data)
    cut = int(len(train) * data["private_share"])
    return train.select(range(cut)), train.select(range(cut, len(train))), splits


class AnnotatedTagger(BaseTagger):
    """Human annotation as a tagger: looks a text up and returns the spans that came with it."""

    def __init__(self, *splits: Dataset):
        self.spans = {row["text"]: row["spans"] for split in splits for row in split}
        kinds = sorted({span["label"] for spans in self.spans.values() for span in spans})
        self.labels = ("", *kinds)

    def tag(self, texts: list[str]) -> list[CharTags]:
        tagged = [empty_tags(text) for text in texts]
        for text, tags in zip(texts, tagged, strict=True):
            for span in self.spans.get(text, ()):
                paint(tags, span["start"], span["end"], 1.0, self.labels.index(span["label"]))
        return tagged


class ForgetfulTagger(BaseTagger):
    """A tagger of lower recall: each *occurrence* of a span is missed independently (for the recall curve)."""

    def __init__(self, tagger: BaseTagger, recall: float, seed: int):
        self.tagger, self.recall, self.labels = tagger, recall, tagger.labels
        self.rng = np.random.default_rng(seed)

    def tag(self, texts: list[str]) -> list[CharTags]:
        tagged = self.tagger.tag(texts)
        for tags in tagged:
            for start, end, _ in label_spans(tags.labels):
                if self.rng.random() >= self.recall:
                    tags.likelihood[start:end] = 0
                    tags.labels[start:end] = 0
        return tagged


def make_tagger(*splits: Dataset, canaries: Sequence[CanarySet] = ()) -> BaseTagger:
    """Return the rules, and the data's own annotation where it has one; names in canaries are annotated then, too."""
    if "spans" in splits[0].column_names:
        return EnsembleTagger(AnnotatedTagger(*splits, *map(name_annotation, canaries)), RuleTagger())
    return RuleTagger()


def scrub(data: Dataset, tagger: BaseTagger) -> Dataset:
    """Replace what the tagger finds by placeholders such as <PHONE_NUMBER>: the plain rival of protection."""

    def replaced(text: str, tags: CharTags) -> str:
        private = np.where(is_private(tags.likelihood), tags.labels, 0)
        for start, end, label in reversed(label_spans(private)):
            text = f"{text[:start]}<{tagger.labels[label]}>{text[end:]}"
        return text

    def replace(batch):
        return {
            name: [replaced(text, tags) for text, tags in zip(texts, tag_texts(tagger, texts), strict=True)]
            for name, texts in batch.items()
        }

    return data.select_columns(_text_columns(data)).map(replace, batched=True, desc="Scrubbing")


def read_by(plan: dict[str, Any], text: Dataset, tagger: BaseTagger) -> tuple[Dataset, BaseTagger | None]:
    """Return the text that a student reads, and what tags it, if anything does.

    Args:
        plan: the student's row in the configuration, with `untagged`, `scrub`, `deduplicated` or `prompt_lines`.
        text: the transfer text.
        tagger: of all students.
    """
    reads = None if plan.get("untagged") or plan.get("scrub") else tagger
    if plan.get("scrub"):
        text = scrub(text, tagger)
    if plan.get("prompt_lines"):
        text = prompted(text, plan["prompt_lines"])
    return deduplicated(text) if plan.get("deduplicated") else text, reads


def prompted(data: Dataset, lines: int) -> Dataset:
    """Make prompts of the first lines of texts, which a student reads, or goes on with; one line is left at least.

    Args:
        data: rows of text.
        lines: how many.
    """

    def split(row: dict[str, Any]) -> dict[str, str]:
        parts = row["text"].splitlines(keepends=True)
        first = min(lines, len(parts) - 1)
        return {"prompt": "".join(parts[:first]), "completion": "".join(parts[first:])}

    return data.map(split, remove_columns=["text"])


def finds_nothing(data: Dataset, tagger: BaseTagger) -> bool:
    """Tell whether a tagger finds nothing private in a text."""
    column = _text_columns(data)[-1]
    batches = (tag_texts(tagger, batch[column]) for batch in data.select_columns([column]).iter(1000))
    return not any(is_private(tags.likelihood).any() for tagged in batches for tags in tagged)


def deduplicated(data: Dataset) -> Dataset:
    """Keep each text once: the plain rival against copies."""
    texts = zip(*(data[name][:] for name in _text_columns(data)), strict=True)
    first = {text: row for row, text in reversed(list(enumerate(texts)))}
    return data.select(sorted(first.values()))


def _text_columns(data: Dataset) -> list[str]:
    return ["text"] if "text" in data.column_names else ["prompt", "completion"]


def goldfish(rows: Dataset, one_in: int, context: int = 13) -> Dataset:
    """Take the label from one of so many tokens, chosen by a hash of those before it (Hans et al. 2024,
    arXiv 2406.10209): no text is learnt whole, and copies of one lack the same tokens.

    Args:
        rows: tokenised.
        one_in: of how many tokens one is left out.
        context: how many tokens before it choose.
    """

    def leave_out(row: dict[str, Any]) -> dict[str, Any]:
        ids, labels = row["input_ids"], list(row["labels"])
        for place in range(context, len(ids)):
            before = np.asarray(ids[place - context : place], np.int64).tobytes()
            if xxhash.xxh3_64_intdigest(before) % one_in == 0:
                labels[place] = IGNORE
        return {"labels": labels}

    return rows.map(leave_out, desc="Leaving out tokens")


def make_canaries(spec: dict[str, Any], path: Path) -> CanarySet:
    """Draw the run's canaries, or read those it began with."""
    with PartialState().main_process_first(), lock(path):
        if not path.exists():
            CanarySet.generate(**{**spec, "repetitions": tuple(spec["repetitions"])}).save(path)
    return CanarySet.load(path)


def name_annotation(canaries: CanarySet) -> Dataset:
    """Annotate the names in the canaries' sentences, as the data's own annotation does in dialogues."""
    before = canaries.template.partition("{secret}")[0]
    start, after = before.index("{name}"), len(before.partition("{name}")[2])
    rows = [
        {"text": c.text, "spans": [{"start": start, "end": len(c.prefix) - after, "label": "NAME"}]}
        for c in canaries.canaries
    ]
    return Dataset.from_list(rows)


def fresh_sentences(spec: dict[str, Any]) -> Dataset:
    """Return never-seen sentences of the canaries' form: how well does a model know the *form* of a secret?"""
    fresh = CanarySet.generate(**(spec | {"count": 200, "repetitions": (1,), "controls": 0, "seed": 12345}))
    return Dataset.from_dict({"text": [canary.text for canary in fresh.canaries]})
