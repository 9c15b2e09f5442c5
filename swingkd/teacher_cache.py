"""Ask the teacher once: write what it says into columns of the data set, and train from those without it.

Two kinds.  The teacher's own targets: protection is applied when they are read; they are as private as the text that
stands beside them.  *Protected* targets: protection is applied before they are written, on public text only, so that
they may be handed to somebody who must not ask the teacher.  What those do not promise: there is no differential
privacy in them, whatever the tagger missed is unprotected, and ordinary tokens carry the teacher's own answers.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
import xxhash
from datasets import Dataset, Features, concatenate_datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd import checks
from swingkd.cached_columns import (
    TEACHER_COLUMNS,
    CacheInfo,
    model_fingerprint,
    row_key,
    teacher_features,
    tokenizer_fingerprint,
)
from swingkd.config import PrivateDistillationConfig
from swingkd.data import PII_COLUMNS, DistillationCollator, prepare_dataset
from swingkd.objective import Objective
from swingkd.protections import build_protection
from swingkd.tagging import Tagger

# Rows of one part of the work: what is done when a process is killed stays done.
_PART = 2048


def cache_teacher(
    teacher_model: PreTrainedModel,
    args: PrivateDistillationConfig,
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    *,
    tagger: Tagger | None = None,
    public_model: PreTrainedModel | None = None,
    top_k: int = 64,
    exact: bool = False,
    protect: bool = False,
    private_dataset: Dataset | None = None,
) -> Dataset:
    """Return the tokenised data with the teacher's targets beside the tokens.

    Train on it with `PrivateDistillationTrainer(teacher_model=None, ...)` and the same `temperature`.  Finished parts
    are kept in `output_dir/_private/teacher_cache/`, so a second call goes on where the first one was stopped.

    Args:
        teacher_model: the teacher.
        args: `temperature`, the data settings, `per_device_eval_batch_size`; with `protect` the protection as well.
        dataset: what `PrivateDistillationTrainer` takes as `train_dataset`, map-style.
        processing_class: the tokenizer of teacher and student.
        tagger: what rates the text; its findings are written too.
        public_model: for `protection="mollify"`.
        top_k: how many of the teacher's likeliest tokens are kept for each token.
        exact: keep log-probabilities in 32 bits instead of 16.
        protect: write protected targets, to be handed out.
        private_dataset: with `protect`: the text that the teacher was trained on, to refuse it as `dataset`.

    Raises:
        ValueError: the models do not fit the tokenizer, or protected targets are asked for on private text.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError("A stream cannot be cached: make it a map-style data set first, Dataset.from_generator(...).")
    if top_k < 1:
        raise ValueError(f"top_k={top_k} keeps nothing of the teacher: use at least 1 (64 is a good start).")
    checks.fits_tokenizer("teacher", teacher_model, processing_class)
    if protect:
        _refuse_private_text(args, dataset, private_dataset)
    rows = prepare_dataset(
        dataset, processing_class, tagger, args.data_settings, num_proc=args.dataset_num_proc, description="cache"
    )
    rows = rows.remove_columns([name for name in TEACHER_COLUMNS if name in rows.column_names])
    checks.rows_fit(rows, {"teacher": teacher_model})
    if protect:
        checks.something_private(rows, args.protection)
    writer = _Writer(teacher_model, public_model, args, rows, processing_class, top_k, exact, protect)
    folder = Path(args.output_dir) / "_private" / "teacher_cache"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(rows), _PART):
        part = rows.select(range(start, min(start + _PART, len(rows))))
        name = writer.name(part)
        parts.append(
            part.map(
                writer,
                batched=True,
                batch_size=args.per_device_eval_batch_size,
                features=Features({**part.features, **teacher_features(writer.info, exact)}),
                cache_file_name=str(folder / f"{name}.arrow"),
                load_from_cache_file=True,
                # Known already: hashing the models again for each part would take longer than asking them.
                new_fingerprint=name,
                desc=f"Asking the teacher ({start // _PART + 1} of {-(-len(rows) // _PART)})",
            )
        )
    # Whoever gets protected targets needs to know where they are, not what was found there.
    surplus = [name for name in PII_COLUMNS[1:] if protect and name in rows.column_names]
    return concatenate_datasets(parts).remove_columns(surplus)


class _Writer:
    """Asks the teacher about a batch of rows and returns the columns to write."""

    def __init__(
        self,
        teacher: PreTrainedModel,
        public: PreTrainedModel | None,
        args: PrivateDistillationConfig,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        top_k: int,
        exact: bool,
        protect: bool,
    ):
        vocabulary = len(tokenizer)
        self.info = CacheInfo(
            model_fingerprint(teacher),
            tokenizer_fingerprint(tokenizer),
            vocabulary,
            args.temperature,
            min(top_k, vocabulary),
            args.protection if protect else None,
        )
        self.args, self.exact = args, exact
        self.collator = DistillationCollator(tokenizer.pad_token_id)
        models = [model.eval().requires_grad_(False).to(args.device) if model else None for model in (teacher, public)]
        half = torch.bfloat16 if args.bf16 else torch.float16
        self.objective = Objective(
            args, models[0], models[1], vocabulary, tokenizer.eos_token_id,
            autocast=partial(torch.autocast, args.device.type, half, enabled=args.bf16 or args.fp16),
        )  # fmt: skip
        self.protection = build_protection(args, self.objective, rows, self.collator) if protect else None

    def name(self, part: Dataset) -> str:
        """Name a part's results by everything that they depend on; the noise key lies beside them."""
        fields = self.args.to_dict()
        settings = {k: v for k, v in sorted(fields.items()) if k.startswith(("noise", "mollify", "population"))}
        digest = xxhash.xxh3_64(repr((self.info, self.exact, settings, self.args.bf16, self.args.fp16)).encode())
        for row in part:
            digest.update(repr((row["input_ids"], row.get("labels"), row.get("pii_likelihood"))).encode())
        return digest.hexdigest()

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        """Return the teacher's columns of a batch of rows."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        inputs = {key: value.to(self.args.device) for key, value in self.collator(rows).items()}
        tokens = self.objective.tokens(inputs)
        temperature = self.args.temperature_settings.for_tokens(tokens.likelihood).teacher
        protection = self.protection
        targets, _ = self.objective.targets(inputs, tokens, temperature, (lambda: protection) if protection else None)
        assert targets is not None  # there is a teacher
        count, size = len(tokens.labels), self.info.top_k
        found = {
            "teacher_ids": np.empty((count, size), np.int32),
            "teacher_log_probs": np.empty((count, size), np.float32),
            "teacher_tails": np.empty((count, 2), np.float32),
        }
        private = tokens.likelihood > (0 if protection else torch.inf)
        for at in ~private, private:
            for part in at.nonzero()[:, 0].split(self.objective.rows_at_once):
                if not len(part):
                    continue
                log_probs = targets.private(part) if at is private else targets.teacher.plain(part, None)
                assert isinstance(log_probs, torch.Tensor)  # of a live teacher
                for name, values in self._kept(log_probs).items():
                    found[name][part.cpu()] = values.cpu()
        ends = tokens.at.sum(1).cumsum(0).tolist()
        columns: dict[str, list] = {
            name: [values[start:end].ravel() for start, end in zip([0, *ends], ends, strict=False)]
            for name, values in found.items()
        }
        text = self.info.dumps()
        columns["teacher_cache"] = [text] * len(rows)
        columns["teacher_row"] = [row_key(text, row["input_ids"], row.get("labels", row["input_ids"])) for row in rows]
        return columns

    def _kept(self, log_probs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the likeliest tokens, and what is kept of the others."""
        known, ids = log_probs.topk(self.info.top_k)
        others = log_probs.scatter(1, ids, -torch.inf)
        tails = torch.stack([others.logsumexp(1), (others / self.info.temperature).logsumexp(1)], 1)
        return {"teacher_ids": ids.int(), "teacher_log_probs": known, "teacher_tails": tails}


def _refuse_private_text(args: PrivateDistillationConfig, dataset: Dataset, private: Dataset | None) -> None:
    """Refuse to write targets to be handed out for text that the teacher was trained on."""
    if private is None:
        raise ValueError(
            "protect=True writes targets to be handed out, with the text beside them. Pass private_dataset=<the text "
            "that the teacher was trained on>, so that it can be refused as transfer set."
        )
    if args.protection not in ("noise", "mollify", "population", "drop"):
        raise ValueError(
            f"protect=True with protection={args.protection!r} protects nothing. Name one: 'noise', 'mollify', "
            "'population' or 'drop'."
        )
    if args.temperature_mode != "teacher_only":
        raise ValueError("protect=True needs temperature_mode='teacher_only'; the symmetric form protects nothing.")
    column = next((name for name in (args.dataset_text_field, "input_ids") if name in dataset.column_names), None)
    if column is None or column not in private.column_names:
        raise ValueError(
            f"Cannot compare the transfer set (columns {dataset.column_names}) with the private data (columns "
            f"{private.column_names}): both need {args.dataset_text_field!r}, or 'input_ids'."
        )
    secret = {_normal(value) for value in private[column]}
    shared = sum(_normal(value) in secret for value in dataset[column])
    if shared:
        raise ValueError(
            f"{shared} of {len(dataset)} rows of the transfer set are private text of the teacher. Targets to be "
            "handed out can be made on public text only; leave protect=False to train on these rows yourself."
        )


def _normal(value: str | list[int]) -> str:
    return " ".join(value.casefold().split()) if isinstance(value, str) else repr(list(value))
