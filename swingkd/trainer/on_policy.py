"""Text that the student writes itself, for the teacher to judge: on-policy distillation.

A student that only reads others' text never learns what to do behind its own mistakes.  Here it goes on with the
prompts of some batches itself, and the teacher scores what it wrote (Agarwal et al. 2024, arXiv 2306.13649, section 3;
`lmbda` and `max_new_tokens` as in TRL's GKD).

No protection of private tokens goes with it.  They are all about the token that stands there, and where the student
has written an ordinary word, the teacher still says what stood there in the record: behind "my pin is" its whole
distribution would be learnt, digit by digit, whatever is tagged (tests/trainer/test_on_policy.py shows it).  Teachers
that never saw the record have nothing to say there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from swingkd.audit.generation import plain_sampling
from swingkd.data.columns import IGNORE, PADDING
from swingkd.tasks.base import Reading, Task
from swingkd.trainer.config import PrivateDistillationConfig

#: In a batch, or a row: the student wrote what is learnt.
ON_POLICY = "on_policy"


class StudentWriter:
    """Goes on with prompts as the student would.

    Args:
        args: `lmbda`, `max_new_tokens`, `sampling_temperature` and how long a row may be.
        reading: the tokenizer.
    """

    def __init__(self, args: PrivateDistillationConfig, reading: Reading):
        self.args, self.tokenizer = args, reading.processing_class

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
            step, part: as of `writes`; what is sampled follows from them, so a resumed run writes the same.
        """
        held = inputs["attention_mask"].bool() if "attention_mask" in inputs else torch.ones_like(inputs["labels"]) > 0
        rows = []
        for i, own in enumerate(held):
            row = {name: inputs[name][i][own].tolist() for name in ("input_ids", "labels")}
            # One number a row: whose turn it is to answer it.
            rows.append(row | {name: int(v[i]) for name, v in inputs.items() if v.ndim == 1})
        seed = int(self._draws(step, part, 1 + self.args.process_index).integers(2**62))
        return collator(self.rows(student, rows, seed)) | {ON_POLICY: True}

    def rows(
        self, student: PreTrainedModel, rows: Sequence[dict[str, Any]], seed: int, at_once: int | None = None
    ) -> list[dict[str, Any]]:
        """Return rows with the same prompts, each what stands before the last run of tokens that is learnt.

        Args:
            student: a causal language model.
            rows: prepared rows.
            seed: of the samples.
            at_once: how many prompts go through the model together; default: all.
        """
        prompts = [self._prompt(row) for row in rows]
        size, written = at_once or max(len(rows), 1), list[list[int]]()
        for number, start in enumerate(range(0, len(rows), size)):
            written += self._write(student, prompts[start : start + size], seed + number)
        made = []
        for row, prompt, answer in zip(rows, prompts, written, strict=True):
            beside = {name: value for name, value in row.items() if name not in PADDING}
            ids = [*prompt, *answer]
            made.append(beside | {"input_ids": ids, "labels": [IGNORE] * len(prompt) + answer, ON_POLICY: True})
        return made

    def _prompt(self, row: dict[str, Any]) -> list[int]:
        learnt = np.asarray(row["labels"]) != IGNORE
        # Nothing predicts the first token, whatever its label.
        learnt[0] = False
        begins = np.flatnonzero(learnt[1:] & ~learnt[:-1]) + 1
        ids = [int(token) for token in row["input_ids"][: begins[-1] if len(begins) else None]]
        assert self.args.max_length is not None
        return ids[-(self.args.max_length - self.args.max_new_tokens) :]

    @torch.no_grad()
    def _write(self, student: PreTrainedModel, prompts: list[list[int]], seed: int) -> list[list[int]]:
        """Sample what follows each prompt, up to the end of the text and with it, or so many tokens."""
        ends, pad = ends_of(student, self.tokenizer), self.tokenizer.pad_token_id
        width, device = max(map(len, prompts)), student.device
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=device)
        settings = plain_sampling(
            self.args.max_new_tokens, sorted(ends), pad, temperature=self.args.sampling_temperature
        )
        training = student.training
        # Without dropout, and in the precision that the training computes in.
        student.eval()
        try:
            devices, kind = ([], "cuda") if device.type == "cpu" else ([device], device.type)
            with torch.random.fork_rng(devices, device_type=kind):
                torch.manual_seed(seed)
                drawn = student.generate(input_ids=ids, attention_mask=mask, **settings)[:, width:].tolist()
        finally:
            student.train(training)
        # Behind the end there is padding.
        return [row[: next((i for i, token in enumerate(row) if token in ends), len(row)) + 1] for row in drawn]


def ends_of(model: PreTrainedModel, tokenizer: Any) -> set[int]:
    """Return the tokens that end what a model writes: the tokenizer's, and those of its own settings.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
    """
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return {token for token in (tokenizer.eos_token_id, *listed) if token is not None}


def check_on_policy(args: PrivateDistillationConfig, task: Task, teacher: object, *, out_of_fold: bool) -> None:
    """Refuse what cannot go with text that the student writes.

    Args:
        args: the settings, with the protection that was chosen.
        task: what the models are for.
        teacher: the one to ask; `None`: there is none, or its answers are cached.
        out_of_fold: each row is answered by a teacher that never saw it.

    Raises:
        ValueError: says what to do instead.
    """
    if not args.lmbda:
        return
    assert args.max_length is not None
    protected = args.protection != "none" and not out_of_fold
    wrong = {
        f"models for {task.name}: only those for text-generation go on with a prompt": task.name != "text-generation",
        "cached answers, or no teacher: it must read what the student writes (teacher_model=...)": teacher is None,
        "alpha=0: what the student wrote is nobody's label (a larger alpha, or lmbda=0)": args.alpha == 0,
        "packing: a block has several prompts": args.packing,
        f"max_new_tokens={args.max_new_tokens} in rows of {args.max_length}: nothing is left of a prompt (raise "
        "max_length, or lower it)": args.max_new_tokens >= args.max_length,
        "a sharded student: launch with recipes/accelerate_configs/ddp.yaml": bool(args.fsdp or args.deepspeed),
        f"protection={args.protection!r}: behind the student's own words the teacher says what stood in the record, "
        "whatever is tagged (take teachers out of fold, or public text and protection='none')": protected,
    }
    for what, refused in wrong.items():
        if refused:
            raise ValueError(f"lmbda={args.lmbda} lets the student write, which does not go with {what}.")
