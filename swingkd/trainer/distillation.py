"""PrivateDistillationTrainer: the Hugging Face Trainer with a teacher whose targets are protected at private tokens.

The trainer holds hooks only; the formulas are in `swingkd.losses` and `swingkd.targets`.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from peft import PeftConfig
from torch import nn
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback, TrainingArguments, set_seed

from swingkd.data import PII_COLUMNS, column_names
from swingkd.data.columns import FOLD
from swingkd.data.teacher_columns import TEACHER_COLUMNS
from swingkd.models.inputs import row_positions, takes, vocabulary_size
from swingkd.report.protected import Protected
from swingkd.surrogates import Surrogates
from swingkd.tagging import Tagger
from swingkd.targets import Protection
from swingkd.tasks.language import MaskingCollator, NewMasks
from swingkd.trainer.check_arguments import check_arguments, check_own_metrics
from swingkd.trainer.check_data import check_fresh_masks
from swingkd.trainer.check_packing import check_packing
from swingkd.trainer.collators import chosen_collator
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.dp_run import MICRO_BATCH, PrivateRun, TogetherRun
from swingkd.trainer.evaluation import preprocessing
from swingkd.trainer.lines import show_lines
from swingkd.trainer.metrics import Metrics
from swingkd.trainer.objective import Objective, StepLosses, frozen_model, readable_head
from swingkd.trainer.on_policy import ON_POLICY, StudentWriter
from swingkd.trainer.out_of_fold import OutOfFoldTeacher
from swingkd.trainer.privacy_arguments import PrivacyArguments
from swingkd.trainer.protected import SayWhatIsProtected, what_is_protected
from swingkd.trainer.protections import build_protection
from swingkd.trainer.resuming import rows_fingerprint, weights_fingerprint
from swingkd.trainer.saving import SavingTrainer
from swingkd.trainer.searching import made_by
from swingkd.trainer.setup import GivenData, GivenModels, Setup, parts_of


class PrivateDistillationTrainer(SavingTrainer):
    """Distil a teacher into a student while its targets are protected where they are private.

    For causal, masked and sequence-to-sequence language models, and for classifiers of texts, words and images: what
    the teacher is says which (or `args.task`).  With `protection="none"` and no tagger it is ordinary, exact,
    off-policy distillation.

    Args:
        model: the student, or its name on the Hub or on disk.
        args: a `PrivateDistillationConfig`; plain `TrainingArguments` get our defaults.
        data_collator: as in `Trainer`.
        train_dataset: text, prompt/completion, messages, text or words or images with labels, or tokenised rows;
            map-style or streaming.
        eval_dataset: the same, or a dict of such data sets; a classifier's may lack labels.
        processing_class: the fast tokenizer that teacher and student share, or the image processor; default: the
            student's.
        model_init: as in `Trainer`: makes the student anew for each run, in place of `model`.
        compute_loss_func: refused: the loss is distillation.
        compute_metrics: as in `Trainer`.  Of classifiers it replaces accuracy and F1; of language models it stands
            beside the perplexities, and logits are only kept where it is given.
        callbacks, optimizers, optimizer_cls_and_kwargs, preprocess_logits_for_metrics: as in `Trainer`.
        teacher_model: the teacher, or its name; it may be quantised.  By its name, its privacy ledger is read too.
            Or several, `OutOfFoldTeacher`, or the folder of such.
            `None`: its targets are cached in the data (`swingkd.cache_teacher`); rows without them can only be
            evaluated, by their perplexity, or learnt from with `alpha=0`.
        teacher_processing_class: the teacher's tokenizer or image processor, where it has its own.  Of causal language
            models the tokens that both have are compared, where both tokenizers have ended a token.
        tagger: what rates the text; not needed where the data has a `pii_likelihood` column.
        public_model: a model like the student, trained on public data; makes `"mollify"` the default.
        target_protection: an object with a `protect` method, used instead of `args.protection`.
        surrogates: what makes the values of `protection="surrogate"`, such as with examples from public text; default:
            public lists, and a secret kept beside the run.  To go on with a run, pass one of the same secret.
        peft_config: train an adapter instead of the whole student.

    Raises:
        ValueError: teacher and student do not fit each other or the data, before the first step.
    """

    model: nn.Module
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: str | PreTrainedModel | None = None,
        args: PrivateDistillationConfig | TrainingArguments | None = None,
        data_collator: Callable | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset] | None = None,
        processing_class: Any = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        *,
        teacher_model: str | PreTrainedModel | OutOfFoldTeacher | None = None,
        teacher_processing_class: Any = None,
        tagger: Tagger | None = None,
        public_model: str | PreTrainedModel | None = None,
        target_protection: Protection | None = None,
        surrogates: Surrogates | None = None,
        peft_config: PeftConfig | None = None,
    ):
        check_arguments(model, args, compute_loss_func, model_init, optimizers, peft_config)
        args = PrivateDistillationConfig.of(args)
        check_own_metrics(args, compute_metrics)
        # As `Trainer` does at its beginning: what is drawn before (new heads, adapters) follows the seed too.
        set_seed(args.seed)
        first = model if model_init is None else made_by(model_init, args)
        self.setup = setup = Setup.of(
            GivenModels(first, teacher_model, public_model, processing_class, teacher_processing_class, peft_config),
            GivenData(train_dataset, eval_dataset, tagger, target_protection, surrogates),
            args,
        )
        #: What the models are for.
        self.task = setup.models.task
        #: What the student's training released, and what its teacher's did.
        self.ledger = setup.models.ledger
        super().__init__(
            model=setup.models.student,
            args=setup.args,
            data_collator=chosen_collator(data_collator, setup.collator(), self.task),
            train_dataset=setup.train_dataset,
            eval_dataset=setup.eval_dataset,
            processing_class=setup.models.processing_class,
            compute_metrics=Metrics(
                self.task, lambda: self.model, compute_metrics, preprocess_logits_for_metrics is not None
            ),
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocessing(preprocess_logits_for_metrics),
        )
        # Not given to the Trainer, which would call it at once: its models are finished here.
        self.model_init = model_init
        self.privacy = self.args.privacy
        self._protection = target_protection
        #: What is protected, by what, and how much of the training text.
        self.protected = self._what_is_protected(tagger)
        # Under differential privacy no count may be told.
        mentions = 0 if self.args.differentially_private else setup.mentions
        self.add_callback(SayWhatIsProtected(self.protected, mentions))
        show_lines(self)
        self._begin()

    def _what_is_protected(self, tagger: Tagger | None) -> Protected:
        own = self.setup.own
        return what_is_protected(
            self.train_dataset,
            tagger,
            self.processing_class,
            protection=self.args.protection or type(own).__name__,
            why=self.setup.why,
            counted=not self.args.differentially_private,
            threshold=self.args.private_threshold,
            answers=self.task.answers,
        )

    def _begin(self) -> None:
        """Make what needs the Trainer's device, precision and model."""
        # Our loss divides by the number of tokens of the whole optimisation step, so the Trainer must count them.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = self.task.shifts_labels
        self._follow_epochs()
        models = (self.setup.models.teacher, self.setup.models.public)
        self.teacher_model, self.public_model = (frozen_model(m, self.args.device) if m else None for m in models)
        if self.task.predicts_tokens:
            # Here, where models stand and compute as they will: some attentions work nowhere else.
            roles = {**self.setup.models.by_role, "student": self.model}
            with self.accelerator.autocast():
                every = (self.train_dataset, *parts_of(self.eval_dataset))
                check_packing(every, self.task, roles, self.args.packing)
        self.writer = StudentWriter(self.args, self.setup.reading) if self.args.lmbda else None
        self._read_student()

    def _read_student(self) -> None:
        student: Any = self.model
        if self.privacy and self.args.gradient_checkpointing and not _trained(student.get_input_embeddings()):
            # Reentrant checkpointing needs an input with a gradient, which a frozen embedding has not.
            student.enable_input_require_grads()
        self._set_up_dp()
        self.distillation = self._make_objective()

    def _protect_anew(self) -> None:
        self._protection = self.setup.own
        self.distillation = self._make_objective()
        _ = self.protection

    def _follow_epochs(self) -> None:
        """Let masks change from epoch to epoch, where tokens are masked."""
        if not isinstance(self.data_collator, MaskingCollator):
            return
        check_fresh_masks(self.args)
        if self.data_collator.seed is None:
            self.data_collator.seed = self.args.seed
        self.add_callback(NewMasks(self.data_collator))

    def _make_objective(self) -> Objective:
        args, tokenizer, tokens = self.args, self.processing_class, self.task.predicts_tokens
        vocabulary = vocabulary_size(tokenizer) if tokens else self.setup.models.student.config.num_labels
        reads = args.fused_loss and tokens and not args.torch_compile
        if args.differentially_private and _reads_trained_head(self.model):
            reads = False
        return Objective(
            args,
            self.teacher_model,
            self.public_model,
            # Heads are often padded to different sizes over one tokenizer; what lies beyond it is never a token.
            vocabulary=vocabulary,
            end=getattr(tokenizer, "eos_token_id", None),
            task=self.task,
            autocast=self.accelerator.autocast,
            # A compiled model does not call the hooks that the fast path works in.
            fused=reads and readable_head("student", self.model, vocabulary),
            written_protected=self.setup.written,
            rated=self.train_dataset is not None and "pii_likelihood" in column_names(self.train_dataset),
            shared=self.setup.models.shared,
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
        if self.distillation.written_protected or (self.teacher_model is None and not self.cached):
            return None
        return build_protection(self.args, self.distillation, self.train_dataset, self.data_collator, reuse=reuse)

    # --- the loss --------------------------------------------------------------------------------------------------

    def _losses(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> StepLosses:
        student = self.accelerator.unwrap_model(model)
        return self.distillation.losses(model, student, inputs, lambda: self.protection)

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

    # --- what the student writes ---------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Collect the batches of an update, and count their tokens; the student goes on with some of them first."""
        if self.writer is not None and self.private is None:
            epoch_iterator = map(partial(self._written, self.writer), epoch_iterator, itertools.count())
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _written(self, writer: StudentWriter, inputs: dict[str, Any], part: int) -> dict[str, Any]:
        if not writer.writes(self.state.global_step, part):
            return inputs
        return writer.batch(self.model, inputs, self.data_collator, self.state.global_step, part)

    def _drawn(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return a private batch's rows, which the student may go on with: each by itself, with weights that count."""
        if self.writer is None or not self.writer.writes(self.state.global_step):
            return rows
        # From no seed that anybody knows: each record's text is drawn for itself, whoever else is in the batch.
        part = self.args.micro_batch_size or MICRO_BATCH
        return self.writer.rows(self.model, rows, secrets.randbits(62), part)

    # --- differential privacy ------------------------------------------------------------------------------------

    def _private_run(self, privacy: PrivacyArguments, dataset: Dataset) -> PrivateRun:
        part, ghost = self.args.micro_batch_size, self.args.ghost_clipping
        return TogetherRun(self.args, privacy, dataset, self._row_losses, part=part, ghost=ghost)

    def _row_losses(self, rows: list[dict[str, Any]]) -> torch.Tensor:
        """Return each row's loss summed over its tokens, [rows]."""
        inputs = self._prepare_inputs(self.data_collator(rows))
        if ON_POLICY in rows[0]:
            inputs[ON_POLICY] = True
        if "input_ids" in inputs and "position_ids" not in inputs and takes(self.model, "position_ids"):
            inputs["row_positions"] = row_positions(self.model, inputs["input_ids"])
        with self.compute_loss_context_manager():
            # Past the wrapper of data-parallel training: clipped gradients are summed over processes, not plain ones.
            _, _, per_token, tokens, _ = self._losses(self.model, inputs)
        row = tokens.at.nonzero()[:, 0]
        return per_token.new_zeros(len(rows)).index_add(0, row, per_token)

    # --- hooks of the Trainer -------------------------------------------------------------------------------------

    def _ready_to_train(self, resumed: bool) -> None:
        # The protection is built first, or read back when resuming.
        if self._protection is None:
            self._protection = self._build_protection(reuse=resumed)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Run a step as `Trainer` does; a loss that is no number ends the training.

        Raises:
            ValueError: it is none.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        # Under DP the loss is nobody's business; the weights are looked at when they are saved.
        if self.private is None and not bool(loss.isfinite()):
            raise ValueError(
                f"The loss is {float(loss)} at step {self.state.global_step + 1}. Lower learning_rate, look at the "
                "data and the models for numbers that are none, and go on from the last checkpoint."
            )
        return loss

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What a run is known by beside its settings."""
        return {
            "student": self.setup.models.names.get("student"),
            "target_protection": type(self.setup.own).__name__ if self.setup.own is not None else None,
            "teacher_weights": weights_fingerprint(self.teacher_model),
            "public_weights": weights_fingerprint(self.public_model),
            "training_rows": rows_fingerprint(self.train_dataset),
        }

    def _set_signature_columns_if_needed(self) -> None:
        # After `self._signature_columns = list(signature.parameters.keys())`: the collator reads more than the model.
        super()._set_signature_columns_if_needed()
        ours = (*PII_COLUMNS, *TEACHER_COLUMNS, FOLD, *self.task.columns, "labels", self.args.privacy_unit)
        self._signature_columns += [name for name in ours if name not in self._signature_columns]

    def _remove_unused_columns(self, dataset: Dataset, description: str | None = None) -> Dataset:
        # After `return dataset.remove_columns(ignored_columns)`: a cached teacher's answers are a hundred numbers a
        # token, and reading them as lists takes longer than the step.
        dataset = super()._remove_unused_columns(dataset, description)
        return dataset.with_format("numpy") if "teacher_row" in dataset.column_names else dataset


def _trained(module: Any) -> bool:
    return all(p.requires_grad for p in module.parameters())


def _reads_trained_head(model: Any) -> bool:
    """Tell whether the fast loss would read a head past its module that DP-SGD trains."""
    head = model.get_output_embeddings()
    return head is None or any(p.requires_grad for p in head.parameters())
