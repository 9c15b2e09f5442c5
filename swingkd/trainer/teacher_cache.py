"""Ask the teacher once: write what it says into columns of the data set, and train from those without it.

Two kinds.  The teacher's own targets: protection is applied when they are read; they are as private as the text that
stands beside them.  *Protected* targets: protection is applied before they are written, on public text only, so that
they may be handed to somebody who must not ask the teacher.  What those do not promise: there is no differential
privacy in them, whatever the tagger missed is unprotected, and ordinary tokens carry the teacher's own answers.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xxhash
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.data import PII_COLUMNS, DistillationCollator, prepare_dataset
from swingkd.data.columns import FOLD, labels_of, rows_of
from swingkd.data.teacher_columns import (
    TEACHER_COLUMNS,
    CacheInfo,
    model_fingerprint,
    row_key,
    teacher_features,
    tokenizer_fingerprint,
)
from swingkd.files import PRIVATE, private_folder
from swingkd.models.inputs import OF_TOKENS, padding, vocabulary_size
from swingkd.models.teacher_server import TeacherServer
from swingkd.models.whole import check_finite_weights
from swingkd.tagging import Tagger
from swingkd.tasks import TASKS, Reading, Task
from swingkd.trainer.check_cache import FEWEST_WORDS, ID_ROWS, shares_text, word_ids
from swingkd.trainer.check_columns import check_columns
from swingkd.trainer.check_data import check_rows, check_something_private
from swingkd.trainer.check_models import check_public, check_tokenizer, longest_row
from swingkd.trainer.check_packing import check_packing
from swingkd.trainer.config import LONGEST, PrivateDistillationConfig
from swingkd.trainer.made_up_rows import check_made_up, consistent, with_surrogates
from swingkd.trainer.objective import Objective, frozen_model
from swingkd.trainer.out_of_fold import OutOfFoldTeacher
from swingkd.trainer.protections import PROTECTIONS, build_protection, protection_of
from swingkd.trainer.server_cache import ServerWriter

# What the teacher's answers depend on.
_READ = ("input_ids", "labels", "attention_mask", FOLD, *OF_TOKENS, *PII_COLUMNS)


def cache_teacher(
    teacher_model: PreTrainedModel | OutOfFoldTeacher | TeacherServer,
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
        teacher_model: the teacher, or those of several folds; frozen and moved to `args.device`.  Or a server that
            has it, which gives only as many tokens as it is set to (vLLM: 20), and no protected targets.
        args: `temperature`, the data settings, `per_device_eval_batch_size`; with `protect` the protection as well.
        dataset: what `PrivateDistillationTrainer` takes as `train_dataset`, map-style.
        processing_class: the tokenizer of teacher and student.
        tagger: what rates the text; its findings are written too.
        public_model: for `protection="mollify"`.
        top_k: how many of the teacher's likeliest tokens are kept for each token.
        exact: keep log-probabilities in 32 bits instead of 16.
        protect: write protected targets, to be handed out; with `protection="surrogate"` all are, and the text
            beside them holds no value that the tagger found.
        private_dataset: with `protect`: the text that the teacher was trained on, to refuse it as `dataset`.

    Raises:
        ValueError: the models do not fit the tokenizer, or protected targets are asked for on private text or with
            settings that protect nothing.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError("A stream cannot be cached: make it a map-style data set first, Dataset.from_generator(...).")
    if isinstance(teacher_model, TeacherServer) and (protect or public_model is not None):
        raise ValueError(
            "A server gives the likeliest tokens only, which is too little to protect targets. Leave protect and the "
            "public model out: the trainer protects what it reads of a cache."
        )
    replaced = args.protection == "surrogate"
    if args.value_epsilon is not None:
        raise ValueError(
            "value_epsilon is for a live teacher: rows of a cache carry no ledger that would tell of it. Leave it "
            "out; surrogates from public lists cost nothing."
        )
    if isinstance(teacher_model, TeacherServer) and replaced:
        raise ValueError(
            "A server is asked about the text as it is. Replace its values first (Surrogates.map, or swingkd "
            "surrogates), and cache that text with another protection."
        )
    if top_k < 1:
        raise ValueError(f"top_k={top_k} keeps nothing of the teacher: use at least 1 (64 is a good start).")
    processing_class = padding(processing_class)
    check_public(public_model, teacher_model)
    if isinstance(teacher_model, TeacherServer):
        return _ask_server(teacher_model, args, dataset, processing_class, tagger, top_k, exact)
    one: PreTrainedModel = teacher_model  # type: ignore[assignment]
    if isinstance(teacher_model, OutOfFoldTeacher):
        one, dataset = teacher_model.one, teacher_model.dealt(dataset)
        check_finite_weights("teacher", teacher_model)
    models = {"teacher": one} | ({"public": public_model} if public_model is not None else {})
    for role, model in models.items():
        check_finite_weights("public model" if role == "public" else role, model)
        check_tokenizer(role, model, processing_class)
    args = args.settled(max_length=longest_row(args, models.values(), processing_class))
    # Text without a real value is no text of the teacher's: nothing has to be compared.
    compared = protect and not replaced
    if compared:
        _check_protects(args, public_model, private_dataset)
    task: Task = TASKS[0]
    check_made_up(args, task, dataset, tagger, None)
    reading = Reading(
        processing_class, tagger, args.data_settings, one, num_proc=args.dataset_num_proc, labelled=False
    )
    reading, found = consistent(reading, args, task, dataset)
    made_up, _ = with_surrogates(reading, args, task, dataset, found)
    rows = task.prepare(dataset, made_up, description="cache", keep=(FOLD,))
    rows = rows.remove_columns([name for name in TEACHER_COLUMNS if name in rows.column_names])
    check_columns(rows, task, {"student": one, **models}, processing_class)
    check_rows(rows, models)
    check_packing([rows], task, models, args.packing)
    if protect or replaced:
        check_something_private(rows, args.protection, args.private_threshold)
    if compared:
        whole = replace(args.data_settings, packing=None, max_length=2**31)
        unrated = replace(reading, tagger=None, settings=whole)
        private = task.prepare(private_dataset, unrated, description="private")
        _check_public_text(rows, private, processing_class)
    writer = _Writer(teacher_model, public_model, args, rows, processing_class, top_k, exact, protect or replaced)
    # Whoever gets protected targets needs to know where they are, not what was found there.
    surplus = [name for name in PII_COLUMNS[1:] if protect and name in rows.column_names]
    return concatenate_datasets([rows.remove_columns(surplus), _written(writer, args, rows, exact)], axis=1)


def _ask_server(
    server: TeacherServer,
    args: PrivateDistillationConfig,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    tagger: Tagger | None,
    top_k: int,
    exact: bool,
) -> Dataset:
    writer = ServerWriter(server, args, tokenizer, top_k, exact)
    longest = min(longest_row(args, (), tokenizer), server.max_length or LONGEST)
    settings = args.settled(max_length=args.max_length or longest).data_settings
    rows = prepare_dataset(dataset, tokenizer, tagger, settings, num_proc=args.dataset_num_proc, description="cache")
    rows = rows.remove_columns([name for name in TEACHER_COLUMNS if name in rows.column_names])
    writer.check(rows)
    check_rows(rows, {})
    return concatenate_datasets([rows, _written(writer, args, rows, exact)], axis=1)


def _written(writer: _Writer | ServerWriter, args: PrivateDistillationConfig, rows: Dataset, exact: bool) -> Dataset:
    """Return the teacher's columns, asked for in parts: what is done when a process is killed stays done."""
    folder = private_folder(private_folder(Path(args.output_dir) / PRIVATE) / "teacher_cache")
    parts = []
    for start in range(0, len(rows), writer.part):
        part = rows.select(range(start, min(start + writer.part, len(rows))))
        name = writer.name(part)
        # Nothing but the teacher's columns is kept: the others are the rows' own, as they are now.
        parts.append(
            part.map(
                writer,
                batched=True,
                batch_size=args.per_device_eval_batch_size,
                remove_columns=part.column_names,
                features=teacher_features(writer.info, exact),
                cache_file_name=str(folder / f"{name}.arrow"),
                load_from_cache_file=True,
                # Known already: hashing the models again for each part would take longer than asking them.
                new_fingerprint=name,
                desc=f"Asking the teacher ({start // writer.part + 1} of {-(-len(rows) // writer.part)})",
            )
        )
    return concatenate_datasets(parts)


class _Writer:
    """Asks the teacher about a batch of rows and returns the columns to write."""

    #: Rows of one part of the work.
    part = 2048

    def __init__(
        self,
        teacher: PreTrainedModel | OutOfFoldTeacher,
        public: PreTrainedModel | None,
        args: PrivateDistillationConfig,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        top_k: int,
        exact: bool,
        protect: bool,
    ):
        vocabulary = vocabulary_size(tokenizer)
        self.info = CacheInfo(
            model_fingerprint(teacher),
            tokenizer_fingerprint(tokenizer),
            vocabulary,
            args.temperature,
            min(top_k, vocabulary),
            args.protection if protect else None,
            args.private_threshold if protect else None,
            isinstance(teacher, OutOfFoldTeacher),
        )
        self.args, self.exact = args, exact
        self.collator = DistillationCollator(tokenizer.pad_token_id)
        half = torch.bfloat16 if args.bf16 else torch.float16
        self.objective = Objective(
            args,
            frozen_model(teacher, args.device),
            frozen_model(public, args.device) if public else None,
            vocabulary,
            tokenizer.eos_token_id,
            autocast=partial(torch.autocast, args.device.type, half, enabled=args.bf16 or args.fp16),
        )
        settings: dict = {}
        if protect:
            fields = (*protection_of(args).settings, "temperature", "likelihood_is_dose")
            settings = {name: value for name, value in sorted(args.to_dict().items()) if name.startswith(fields)}
            settings["public"] = model_fingerprint(public) if public is not None else None
        # All that the targets depend on, but for the rows: names a release, and the parts that are done.
        self.settings = repr((self.info, exact, args.bf16, args.fp16, tokenizer.eos_token_id, settings))
        self.protection = None
        if protect:
            self.protection = build_protection(args, self.objective, rows, self.collator, release=self.settings)
            drawn = protection_of(args).secret(self.protection)
            self.settings += hashlib.blake2b(drawn, digest_size=16).hexdigest()

    def name(self, part: Dataset) -> str:
        """Name a part's results by everything that they depend on."""
        digest = xxhash.xxh3_128(self.settings.encode())
        for row in part:
            digest.update(repr([row.get(name) for name in _READ]).encode())
        return digest.hexdigest()

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        """Return the teacher's columns of a batch of rows."""
        rows = rows_of(batch)
        inputs = {key: value.to(self.args.device) for key, value in self.collator(rows).items()}
        tokens = self.objective.tokens(inputs)
        temperature = self.args.temperature_settings.for_tokens(tokens.likelihood).teacher
        protection = self.protection
        targets, _ = self.objective.targets(inputs, tokens, temperature, (lambda: protection) if protection else None)
        assert targets is not None  # there is a teacher
        count, size = len(tokens.labels), self.info.top_k
        kept = {
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
                    kept[name][part.cpu()] = values.cpu()
        ends = tokens.at.sum(1).cumsum(0).tolist()
        columns: dict[str, list] = {
            name: [values[start:end].ravel() for start, end in zip([0, *ends], ends, strict=False)]
            for name, values in kept.items()
        }
        text = self.info.dumps()
        columns["teacher_cache"] = [text] * len(rows)
        columns["teacher_row"] = [row_key(text, row["input_ids"], labels_of(row)) for row in rows]
        return columns

    def _kept(self, log_probs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the likeliest tokens, and what is kept of the others."""
        known, ids = log_probs.topk(self.info.top_k)
        others = log_probs.scatter(1, ids, -torch.inf)
        tails = torch.stack([others.logsumexp(1), (others / self.info.temperature).logsumexp(1)], 1)
        return {"teacher_ids": ids.int(), "teacher_log_probs": known, "teacher_tails": tails}


def _check_protects(args: PrivateDistillationConfig, public: PreTrainedModel | None, private: Dataset | None) -> None:
    """Refuse to stamp as protected what is not, or what cannot be told from private text."""
    if not isinstance(private, Dataset):
        raise ValueError(
            "protect=True writes targets to be handed out, with the text beside them. Pass private_dataset=<the text "
            "that the teacher was trained on, a map-style data set>, so that it can be refused as transfer set."
        )
    names = [name for name, kind in PROTECTIONS.items() if kind.protects]
    if args.protection not in names:
        raise ValueError(
            f"protect=True with protection={args.protection!r} protects nothing. Name one: "
            f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}."
        )
    if args.temperature_mode != "teacher_only":
        raise ValueError("protect=True needs temperature_mode='teacher_only'; the symmetric form protects nothing.")
    if args.protection == "mollify" and public is None:
        raise ValueError("protection='mollify' mixes the teacher with a public model: pass public_model=...")
    useless = protection_of(args).useless
    if useless is not None and getattr(args, useless[0]) == useless[1]:
        name, value = useless[0], getattr(args, useless[0])
        raise ValueError(f"protect=True with {name}={value} leaves the teacher's own targets at private tokens.")


def _check_public_text(rows: Dataset, private: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse to write targets to be handed out for text that the teacher was trained on; both tokenised."""

    def words(some: Dataset) -> Dataset:
        # Part by part: a transfer set may be larger than memory.
        return some.select_columns(["input_ids"]).map(
            lambda part: {
                "input_ids": [
                    word_ids(text) for text in tokenizer.batch_decode(part["input_ids"], skip_special_tokens=True)
                ]
            },
            batched=True,
            features=ID_ROWS,
        )

    shared = shares_text(rows, private) | shares_text(words(rows), words(private), shortest=FEWEST_WORDS)
    if shared.any():
        first = ", ".join(map(str, np.flatnonzero(shared)[:5]))
        raise ValueError(
            f"{int(shared.sum())} of {len(rows)} rows of the transfer set share private text with the teacher's "
            f"training data (13 tokens in a row, or a whole short row; rows {first} ...). Targets to be handed out "
            "can be made on public text only: drop these rows. To train on them yourself, leave protect=False."
        )
