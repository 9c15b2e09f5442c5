"""Text that the student writes itself, for the teacher to judge: on-policy distillation.

A student that only reads others' text never learns what to do behind its own mistakes.  Here it goes on with the
prompts of some batches itself, and the teacher scores what it wrote (Agarwal et al. 2024, arXiv 2306.13649, section 3;
`lmbda` and `max_new_tokens` as in TRL's GKD).  It is tagged after it was written, and protected as given text is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from swingkd.audit.generation import plain_sampling
from swingkd.data import column_names
from swingkd.data.columns import IGNORE, PADDING
from swingkd.data.prepare import tokenised
from swingkd.data.rendering import Rendered
from swingkd.tagging import Tagger, is_private
from swingkd.tasks.base import Reading, Task
from swingkd.trainer.config import PrivateDistillationConfig

#: In a batch, or a row: the student wrote what is learnt.
ON_POLICY = "on_policy"


class StudentWriter:
    """Goes on with prompts as the student would.

    Args:
        args: `lmbda`, `max_new_tokens`, `sampling_temperature`, and what protects private tokens.
        reading: the tokenizer, and the tagger that reads what was written.
    """

    def __init__(self, args: PrivateDistillationConfig, reading: Reading):
        self.args, self.tokenizer, self.tagger = args, reading.processing_class, reading.tagger
        self.settings = reading.settings

    def writes(self, step: int, part: int = 0) -> bool:
        """Tell whether the student writes a batch: the same in all processes, and in a resumed run.

        Args:
            step: how many updates there were.
            part: which batch of this update it is.
        """
        return self._draws(step, part).random() < self.args.lmbda

    def _draws(self, *turn: int) -> np.random.Generator:
        return np.random.default_rng((self.args.seed, *turn))

    def batch(
        self, student: PreTrainedModel, inputs: dict[str, Any], collator: Any, step: int, part: int = 0
    ) -> dict[str, Any]:
        """Return a batch with the same prompts, whose answers the student has written.

        Args:
            student: a causal language model.
            inputs: a batch of the collator.
            collator: makes batches of rows.
            step, part: as of `writes`.
        """
        held = inputs["attention_mask"].bool() if "attention_mask" in inputs else torch.ones_like(inputs["labels"]) > 0
        rows = []
        for i, own in enumerate(held):
            row = {name: inputs[name][i][own].tolist() for name in ("input_ids", "labels")}
            # One number a row: whose turn it is to answer it.
            rows.append(row | {name: int(v[i]) for name, v in inputs.items() if v.ndim == 1})
        return collator(self.rows(student, rows, self._seed(step, part))) | {ON_POLICY: True}

    def _seed(self, step: int, part: int) -> int:
        """Return what a process's samples of a batch follow from, so that a resumed run writes the same."""
        return int(self._draws(step, part, 1 + self.args.process_index).integers(2**62))

    def rows(self, student: PreTrainedModel, rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
        """Return rows with the same prompts, each what stands before the first token that is learnt.

        Args:
            student: a causal language model.
            rows: prepared rows.
            seed: of the samples.
        """
        if not rows:
            return []
        longest = self.args.max_length or self.settings.max_length
        new = min(self.args.max_new_tokens, longest // 2)
        prompts = [self._prompt(row)[-(longest - new) :] for row in rows]
        written = self._write(student, prompts, new, seed)
        starts, ends = self._texts(prompts), self._texts(written)
        both = zip(starts, ends, strict=True)
        texts = [Rendered(start + end, learn_from=len(start), templated=True) for start, end in both]
        made = tokenised(texts, self.tokenizer, self.tagger, self.settings)
        if self.args.protection == "surrogate":
            made = [self._without_values(row) for row in made]
        beside = [{name: value for name, value in row.items() if name not in PADDING} for row in rows]
        return [own | row | {ON_POLICY: True} for own, row in zip(beside, made, strict=True)]

    @staticmethod
    def _prompt(row: dict[str, Any]) -> list[int]:
        learnt = np.flatnonzero(np.asarray(row["labels"])[1:] != IGNORE)
        # Nothing predicts the first token, whatever its label.
        return [int(token) for token in row["input_ids"][: learnt[0] + 1 if len(learnt) else None]]

    def _texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return texts in which special tokens stand as they are written, so that they are read again."""
        return self.tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    @torch.no_grad()
    def _write(self, student: PreTrainedModel, prompts: list[list[int]], new: int, seed: int) -> list[list[int]]:
        """Sample what follows each prompt, up to the end of the text and with it, or so many tokens."""
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts], device=student.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=student.device)
        settings = plain_sampling(new, [end], pad, temperature=self.args.sampling_temperature)
        training = student.training
        # Without dropout, and in the precision that the training computes in.
        student.eval()
        try:
            with torch.random.fork_rng([] if student.device.type == "cpu" else [student.device]):
                torch.manual_seed(seed)
                drawn = student.generate(input_ids=ids, attention_mask=mask, **settings)[:, width:].tolist()
        finally:
            student.train(training)
        # Behind the end there is padding.
        return [row[: row.index(end) + 1] if end in row else row for row in drawn]

    def _without_values(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row whose private tokens are not learnt: no value of it is made up, and no teacher may say one."""
        if "pii_likelihood" not in row:
            return row
        private = is_private(np.asarray(row["pii_likelihood"]) / 255, self.args.private_threshold)
        return row | {"labels": np.where(private, IGNORE, row["labels"])}


def check_on_policy(
    args: PrivateDistillationConfig, task: Task, teacher: object, dataset: Any, tagger: Tagger | None
) -> None:
    """Refuse what cannot go with text that the student writes.

    Args:
        args: the settings.
        task: what the models are for.
        teacher: the one to ask; `None`: there is none, or its answers are cached.
        dataset: the training rows, as they were given.
        tagger: what would read what is written.

    Raises:
        ValueError: says what to do instead.
    """
    if not args.lmbda:
        return
    rated = dataset is not None and "pii_likelihood" in column_names(dataset)
    wrong = {
        f"models for {task.name}: only those for text-generation go on with a prompt": task.name != "text-generation",
        "cached answers, or no teacher: it must read what the student writes (teacher_model=...)": teacher is None,
        "packing: a block has several prompts": args.packing,
        "rows that are tagged already: pass a tagger, which reads what the student writes": rated and tagger is None,
        "a sharded student: launch with recipes/accelerate_configs/ddp.yaml": bool(args.fsdp or args.deepspeed),
    }
    for what, refused in wrong.items():
        if refused:
            raise ValueError(f"lmbda={args.lmbda} lets the student write, which does not go with {what}.")
