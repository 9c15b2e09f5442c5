"""PrivateDistillationTrainer: the Hugging Face Trainer with a teacher whose targets are protected at private tokens.

The trainer holds hooks only; the formulas are in `swingkd.losses` and `swingkd.targets`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from peft import PeftConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from swingkd.data import PII_COLUMNS, column_names
from swingkd.data.teacher_columns import TEACHER_COLUMNS
from swingkd.losses import HintProjection
from swingkd.models.loading import is_hub_id, load_pretrained, looked_up, name_of, public_name
from swingkd.report import forget_model_facts
from swingkd.tagging import Tagger, is_private
from swingkd.targets import PopulationTarget, Protection
from swingkd.tasks import task_of
from swingkd.tasks.language import MaskingCollator, NewMasks, evaluated
from swingkd.trainer.adapters import adapter_of_task
from swingkd.trainer.check_cache import check_cached_teacher, check_same_cache
from swingkd.trainer.check_data import (
    check_dp_rows,
    check_fresh_masks,
    check_rows,
    check_something_private,
    check_something_to_learn,
)
from swingkd.trainer.check_models import (
    check_adapter,
    check_different_models,
    check_length,
    check_one_device,
    check_padding_token,
    check_task,
    check_teacher_tokenizer,
    check_tokenizer,
    hidden_size,
    longest_row,
)
from swingkd.trainer.checkpoints import last_complete_checkpoint, load_renamed
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.dp_run import takes_positions
from swingkd.trainer.dp_trainer import PrivateTraining
from swingkd.trainer.ledgers import first_ledger
from swingkd.trainer.objective import Objective, StepLosses, frozen_model, readable_head
from swingkd.trainer.protections import build_protection, default_protection
from swingkd.trainer.publishing import Publishing, check_publishing
from swingkd.trainer.resuming import (
    check_same_run,
    rows_fingerprint,
    run_settings,
    save_run_settings,
    weights_fingerprint,
)

_HINT_FILE = "hint_projection.safetensors"


class PrivateDistillationTrainer(Publishing, PrivateTraining):
    """Distil a teacher into a student while its targets are protected where they are private.

    For causal, masked and sequence-to-sequence language models, and for classifiers of texts, words and images: what
    the teacher is says which (or `args.task`).  With `protection="none"` and no tagger it is ordinary, exact,
    off-policy distillation.

    Args:
        model: the student, or its name on the Hub or on disk.
        teacher_model: the teacher, or its name; it may be quantised.  By its name, its privacy ledger is read too.
            `None`: its targets are cached in the data (`swingkd.cache_teacher`); rows without them can only be
            evaluated, by their perplexity, or learnt from with `alpha=0`.
        args: a `PrivateDistillationConfig`.
        train_dataset: text, prompt/completion, messages, text or words or images with labels, or tokenised rows;
            map-style or streaming.
        eval_dataset: the same, or a dict of such data sets.
        processing_class: the fast tokenizer that teacher and student share, or the image processor; default: the
            student's.
        teacher_processing_class: for classifiers of text: the teacher's tokenizer, where it has one of its own.
        tagger: what rates the text; not needed where the data has a `pii_likelihood` column.
        public_model: a model like the student, trained on public data; makes `"mollify"` the default.
        target_protection: an object with a `protect` method, used instead of `args.protection`.
        compute_metrics: as in `Trainer`, for classifiers; default: accuracy and F1.  Language models tell
            perplexities.
        data_collator, callbacks, optimizers: as in `Trainer`.
        peft_config: train an adapter instead of the whole student.

    Raises:
        ValueError: teacher and student do not fit each other or the data, before the first step.
    """

    args: PrivateDistillationConfig
    model: nn.Module
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: str | PreTrainedModel,
        teacher_model: str | PreTrainedModel | None,
        args: PrivateDistillationConfig,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset] | None = None,
        processing_class: Any = None,
        tagger: Tagger | None = None,
        public_model: str | PreTrainedModel | None = None,
        target_protection: Protection | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        data_collator: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
        peft_config: PeftConfig | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
    ):
        model = str(model) if isinstance(model, os.PathLike) else model
        teacher_model = str(teacher_model) if isinstance(teacher_model, os.PathLike) else teacher_model
        check_different_models(model, teacher_model)
        check_one_device(args)
        check_publishing(args)
        named = {"student": name_of(model), "teacher": name_of(teacher_model)}
        self.names = {role: public_name(name) for role, name in named.items()}
        self.began_on_hub = is_hub_id(named["student"])
        if args.differentially_private:
            check_dp_rows(args, train_dataset)
        #: What the models are for.
        self.task = task = task_of(teacher_model if teacher_model is not None else model, args.task)
        check_teacher_tokenizer(task, teacher_processing_class)
        if compute_metrics is not None and task.predicts_tokens:
            raise ValueError(
                f"compute_metrics would need [rows, tokens, vocabulary] logits, which {task.name} never makes. Leave "
                "it out: perplexities are told. Or evaluate the saved model with another tool."
            )
        if processing_class is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            if not name:
                raise ValueError(
                    "The student has no name to load its tokenizer or image processor from: pass processing_class=..."
                )
            with looked_up(name):
                processing_class = task.auto_processor.from_pretrained(name)
        for tokenizer in (processing_class, teacher_processing_class):
            if isinstance(tokenizer, PreTrainedTokenizerBase):
                check_padding_token(tokenizer)
        #: What the student's training released, and what its teacher's did.
        self.ledger = first_ledger(model, teacher_model, args)
        # A checkpoint in half precision would be trained in half precision: the student's weights are float32.
        options: Any = args.model_init_kwargs or {}
        taught: Any = args.teacher_model_init_kwargs or {}
        model = load_pretrained(task.auto_model, model, **{"dtype": torch.float32, **options})
        if teacher_model is not None:
            teacher_model = load_pretrained(task.auto_model, teacher_model, **taught)
        if public_model is not None:
            public_model = load_pretrained(task.auto_model, public_model)
        cached_teacher = partial(
            check_cached_teacher, task, teacher=teacher_model, tokenizer=processing_class, args=args
        )
        cache = cached_teacher(train_dataset)
        # Cached targets may have been protected when they were written down.
        written = cache.protection if cache is not None else None
        if args.protection is None:
            taught = teacher_model is not None or cache is not None
            args.protection = written or default_protection(args, task, public=public_model is not None, taught=taught)
        averaged = args.protection == "population" or isinstance(target_protection, PopulationTarget)
        if args.differentially_private and averaged:
            raise ValueError(
                "The targets are averages over the rows, without noise: no row would be protected from the others' "
                "targets. Choose another protection for differential privacy, in the cache as well."
            )
        known = written is not None or target_protection is not None
        if args.protection == "mollify" and public_model is None and not known:
            raise ValueError(
                "protection='mollify' mixes the teacher with a public model: pass public_model=<a model like the "
                "student, trained on public data>, or choose protection='population'."
            )
        models = {"student": model, "teacher": teacher_model, "public": public_model}
        models = {role: each for role, each in models.items() if each is not None}
        check_task(task, models, args)
        args.max_length = longest_row(args, models.values(), processing_class, teacher_processing_class)
        for role, each in models.items():
            own = teacher_processing_class if role == "teacher" and teacher_processing_class else processing_class
            if isinstance(own, PreTrainedTokenizerBase):
                check_tokenizer(role, each, own, task)
                check_length(role, each, args.max_length)

        if peft_config is not None:
            check_adapter(peft_config)
            model = get_peft_model(model, adapter_of_task(peft_config, task, model))
        if args.hidden_weight > 0 and teacher_model is not None:
            model.add_module(
                "hint_projection", HintProjection(hidden_size("student", model), hidden_size("teacher", teacher_model))
            )

        self._prepare = partial(
            task.prepare,
            processing_class=processing_class,
            tagger=tagger,
            settings=args.data_settings,
            model=model,
            teacher_processing_class=teacher_processing_class,
            num_proc=args.dataset_num_proc,
        )
        with args.main_process_first(desc="tokenising", local=True):
            if train_dataset is not None:
                train_dataset = self._prepare(train_dataset, description="train", keep=(args.privacy_unit,))
            if isinstance(eval_dataset, dict):
                eval_dataset = {name: self._prepare(part, description=name) for name, part in eval_dataset.items()}
            elif eval_dataset is not None:
                eval_dataset = self._prepare(eval_dataset, description="eval")
        parts = list(eval_dataset.values()) if isinstance(eval_dataset, dict) else [eval_dataset]
        for part in [train_dataset, *parts]:
            if part is not None:
                check_rows(part, models)
        for part in parts:
            found = cached_teacher(part, required=False)
            check_same_cache(found, cache)
        protected = args.protection != "none" or tagger is not None or target_protection is not None
        if train_dataset is not None:
            check_something_to_learn(train_dataset)
        if train_dataset is not None and protected:
            check_something_private(train_dataset, args.protection)

        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator or task.collator(processing_class, teacher_processing_class, cache),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics or (lambda prediction: task.metrics(prediction, self.model)),
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if isinstance(self.data_collator, MaskingCollator):
            check_fresh_masks(args)
            if data_collator is None:
                self.data_collator.seed = args.seed
            self.add_callback(NewMasks(self.data_collator))
        # Our loss divides by the number of tokens of the whole optimisation step, so the Trainer must count them.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = task.shifts_labels
        frozen = (
            frozen_model(each, args.device) if each is not None else None for each in (teacher_model, public_model)
        )
        self.teacher_model, self.public_model = frozen
        self._protection = target_protection
        if args.differentially_private:
            self._train_privately()
        self.objective = Objective(
            args,
            self.teacher_model,
            self.public_model,
            # Heads are often padded to different sizes over one tokenizer; what lies beyond it is never a token.
            vocabulary=len(processing_class) if task.predicts_tokens else model.config.num_labels,
            end=getattr(processing_class, "eos_token_id", None),
            task=task,
            autocast=self.accelerator.autocast,
            # A compiled model does not call the hooks that the fast path works in.
            fused=args.fused_loss
            and task.predicts_tokens
            and not args.torch_compile
            and not (args.differentially_private and _reads_trained_head(self.model, args))
            and readable_head("student", self.model, len(processing_class)),
            written_protected=written is not None,
        )

    # --- what the loss needs -------------------------------------------------------------------------------------

    @property
    def protection(self) -> Protection | None:
        """What rewrites the teacher's targets at private tokens; built when first needed.

        `None` where nothing has to: the targets were protected when they were written, or there is no teacher at all.
        """
        if self._protection is None:
            self._protection = self._build_protection(reuse=False)
        return self._protection

    def _build_protection(self, reuse: bool) -> Protection | None:
        if self.objective.written_protected or (self.teacher_model is None and not self.cached):
            return None
        return build_protection(self.args, self.objective, self.train_dataset, self.data_collator, reuse=reuse)

    # --- the loss --------------------------------------------------------------------------------------------------

    def _losses(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> StepLosses:
        student = self.accelerator.unwrap_model(model)
        return self.objective.losses(model, student, inputs, lambda: self.protection)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the sum over tokens divided by the tokens of the whole optimisation step (never the logits)."""
        losses = self._losses(model, inputs)
        if num_items_in_batch is None:
            total = losses.total / max(len(losses.tokens.labels), 1)
        else:
            # A step may hold no token with a label at all; its gradient is zero, not a division by zero.
            total = losses.total / torch.as_tensor(num_items_in_batch).clamp(min=1).to(losses.total.device)
            if self.args.average_tokens_across_devices:
                # The count is global, and data-parallel training averages the gradients.
                total = total * self.accelerator.num_processes
        return (total, {}) if return_outputs else total

    # --- differential privacy ------------------------------------------------------------------------------------

    def _row_losses(self, rows: list[dict[str, Any]]) -> torch.Tensor:
        """Return each row's loss summed over its tokens, [rows]; on the fast path their sum."""
        inputs = self._prepare_inputs(self.data_collator(rows))
        if "input_ids" in inputs and takes_positions(self.model):
            shape = inputs["input_ids"].shape
            inputs["position_ids"] = torch.arange(shape[1], device=self.args.device).repeat(shape[0], 1)
        with self.compute_loss_context_manager():
            # Past the wrapper of data-parallel training: clipped gradients are summed over processes, not plain ones.
            _, _, per_token, tokens = losses = self._losses(self.model, inputs)
        if not per_token.requires_grad:
            return losses.total
        row = tokens.at.nonzero()[:, 0]
        return per_token.new_zeros(len(rows)).index_add(0, row, per_token)

    # --- evaluation --------------------------------------------------------------------------------------------------

    def _ready(self, dataset: Any) -> Any:
        """Return rows that are evaluated: text is tokenised and tagged first."""
        if not isinstance(dataset, (Dataset, IterableDataset)):
            return dataset
        columns = set(column_names(dataset))
        done = columns & {"input_ids", "pixel_values"} and (self.task.predicts_tokens or "labels" in columns)
        return dataset if done else self._prepare(dataset, description="eval")

    def predict(self, test_dataset, *args, **kwargs):
        """Predict as `Trainer.predict` does; text is tokenised and tagged first."""
        _ = self.protection
        with evaluated(self.data_collator):
            return super().predict(self._ready(test_dataset), *args, **kwargs)

    def evaluate(self, eval_dataset=None, *args, **kwargs):
        """Evaluate as `Trainer.evaluate` does; text is tokenised and tagged first."""
        eval_dataset = self._ready(eval_dataset)
        # Every process takes part in building it, whatever its share of the data holds.
        _ = self.protection
        with evaluated(self.data_collator):
            return super().evaluate(eval_dataset, *args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return the loss and what the metrics are made of: a classifier's logits, of tokens sums per sequence."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            _, parts, loss, tokens = self._losses(model, inputs)
            if not self.task.predicts_tokens:
                asked = self.task.call(inputs, self.accelerator.unwrap_model(model))
                logits = None if prediction_loss_only else model(**asked).logits
                return loss.sum() / max(len(loss), 1), logits, inputs["labels"]
        row = tokens.at.nonzero()[:, 0]
        flagged = is_private(tokens.likelihood).to(loss)
        columns = torch.stack(
            [torch.ones_like(loss), flagged, parts.hard, parts.hard * flagged, parts.soft, loss], dim=1
        )
        sums = columns.new_zeros(len(tokens.at), columns.size(1)).index_add_(0, row, columns)
        mean = loss.sum() / max(len(loss), 1)
        # The third value makes the Trainer call compute_metrics; nothing reads it.
        return mean.detach(), sums, sums[:, 0]

    # --- hooks of the Trainer -------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Train as `Trainer.train` does; the protection is built first, or read back when resuming."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
        if resume_from_checkpoint:
            check_same_run(str(resume_from_checkpoint), run_settings(self.args, self._identity))
            self.resumed = True
        if self._protection is None:
            self._protection = self._build_protection(reuse=bool(resume_from_checkpoint))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What a run is known by beside its settings."""
        return {
            "student": self.names.get("student"),
            "teacher_weights": weights_fingerprint(self.teacher_model),
            "public_weights": weights_fingerprint(self.public_model),
            "training_rows": rows_fingerprint(self.train_dataset),
        }

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        ours = (*PII_COLUMNS, *TEACHER_COLUMNS, *self.task.columns, "labels", self.args.privacy_unit)
        self._signature_columns += [name for name in ours if name not in self._signature_columns]

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the student and its ledger; the hint projection, which is no part of it, goes into checkpoints only."""
        # Before the weights: what was released is never counted too late.
        folder = output_dir or self.args.output_dir
        self.ledger.save(folder)
        forget_model_facts(folder)
        hint = self.model._modules.pop("hint_projection", None)
        try:
            if state_dict is not None:
                state_dict = {k: v for k, v in state_dict.items() if "hint_projection." not in k}
            super()._save(output_dir, state_dict)
        finally:
            if hint is not None:
                self.model.add_module("hint_projection", hint)
        if os.path.basename(output_dir or "").startswith(PREFIX_CHECKPOINT_DIR) and self.args.should_save:
            save_run_settings(folder, run_settings(self.args, self._identity))
            if hint is not None:
                weights = {k: v.detach().cpu().contiguous() for k, v in hint.state_dict().items()}
                save_file(weights, os.path.join(folder, _HINT_FILE))
        self.ledger.seal(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        hint = self.model._modules.pop("hint_projection", None)
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            load_renamed(model or self.model, resume_from_checkpoint)
        finally:
            if hint is not None:
                self.model.add_module("hint_projection", hint)
        if hint is not None:
            hint.load_state_dict(load_file(os.path.join(resume_from_checkpoint, _HINT_FILE)))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        load_renamed(self.model, str(self.state.best_model_checkpoint))


def _reads_trained_head(model: Any, args: PrivateDistillationConfig) -> bool:
    """Tell whether the fast loss would read a head past its module that DP-SGD trains, or hide losses per row."""
    head = model.get_output_embeddings()
    return args.ghost_clipping or head is None or any(p.requires_grad for p in head.parameters())
