"""Settings of a private distillation: TrainingArguments and what is ours, grouped and checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from transformers import TrainingArguments

from swingkd.data import DataSettings
from swingkd.targets import TemperatureSettings

#: Tokens of a row where nobody says otherwise and every model allows it.
LONGEST = 1024
_CHOICES = {
    "protection": ("noise", "mollify", "population", "none", "drop"),
    "temperature_mode": ("teacher_only", "symmetric"),
    "temperature_schedule": ("power", "geometric"),
    "noise_distribution": ("laplace", "gaussian"),
    "example_likelihood": ("max", "mean"),
}


@dataclass
class PrivateDistillationConfig(TrainingArguments):
    r"""
    Configuration of [`PrivateDistillationTrainer`]: everything in `TrainingArguments`, and:

    > Parameters that control the distillation loss

        alpha (`float`, defaults to `0.5`): weight of the soft loss; `1 - alpha` is the weight of the hard labels.
        beta (`float`, defaults to `0.0`): 0 forward KL, 1 reverse KL, between them generalised JSD, as in TRL.
        temperature (`float`, defaults to `2.0`): temperature of ordinary tokens, on both sides.
        hidden_weight (`float`, defaults to `0.0`): weight of hint matching on the last hidden states.
        fused_loss (`bool`, defaults to `True`): make loss and gradient in one pass over the vocabulary, a few tokens
            at a time, where the output heads can be read; `False`: always the plain formula.
        loss_memory (`int`, defaults to `128`): megabytes for that pass.

    > Parameters that control the protection of private tokens

        protection (`str`, *optional*): `"mollify"` (needs a public model), `"population"`, `"noise"` (Swing
            distillation, our reading), `"none"` (temperature only) or `"drop"` (no loss at private tokens).  Default:
            `"mollify"` where the trainer is given a public model, otherwise `"population"`; for classifiers of whole
            examples `"drop"`.
        max_temperature, temperature_power, temperature_schedule, temperature_mode: how likelihood becomes the
            teacher's temperature, for `"noise"` and `"none"`.
        noise_scale, noise_support, noise_context, noise_distribution, noise_replay: the noise of `"noise"`.
        mollify_bound, mollify_order: the divergence bound of `"mollify"`.
        population_min_spans, population_share: the averages of `"population"`.

    > Parameters that control differential privacy (set `target_epsilon` or `noise_multiplier` to turn it on)

        target_epsilon (`float`, *optional*): what the transfer set may cost; the noise is solved for, and training
            stops rather than spend more.
        target_delta (`float`, *optional*): of the guarantee; default: a tenth of 1 / units.
        noise_multiplier (`float`, *optional*): noise in units of `clip_norm`; default: solved from `target_epsilon`.
        clip_norm (`float`, defaults to `1.0`): largest gradient of one unit, in Euclidean norm.
        privacy_unit (`str`, defaults to `"record"`): what the guarantee is about: each row, or the column that names
            users.
        records_per_user (`int`, defaults to `8`): how many rows a user gives to a batch.
        micro_batch_size (`int`, *optional*): rows that go through the model at once; changes memory and time only.
            `per_device_train_batch_size` is what a batch holds on average.  Default: 16.
        ghost_clipping (`bool`, defaults to `False`): clip without gradients per row: less memory, two backward passes.
        log_nonprivate (`bool`, defaults to `False`): log the loss, as `nonprivate_loss`: the guarantee does not cover
            it.

    > Parameters that control the models and the data

        task (`str`, *optional*): `"text-generation"`, `"fill-mask"`, `"text2text-generation"`,
            `"text-classification"`, `"token-classification"` or `"image-classification"`.  Default: what the teacher
            was made for.
        model_init_kwargs, teacher_model_init_kwargs: for `from_pretrained`, where a model is given by name.
        dataset_text_field, max_length, packing, completion_only_loss, assistant_only_loss, dataset_num_proc: as TRL
            names them.
        dataset_label_field: the column with a classifier's labels; default: `label`, `labels`, `ner_tags` or `tags`.
        tag_dilation: how many neighbouring tokens inherit a private token's likelihood.
        example_likelihood (`str`, defaults to `"max"`): an example with one label is as private as its most private
            token (`"max"`), or as its tokens are on average (`"mean"`).

    The tokens are counted (`include_num_input_tokens_seen`), so that the logs tell tokens a second.

    The noise key is not a setting: it is drawn from the system's randomness and lives in `output_dir/_private/`.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [
        *TrainingArguments._VALID_DICT_FIELDS,
        "model_init_kwargs",
        "teacher_model_init_kwargs",
    ]

    alpha: float = field(default=0.5, metadata={"help": "Weight of the soft loss in [0, 1]; the rest is hard labels."})
    beta: float = field(
        default=0.0, metadata={"help": "Divergence: 0 forward KL, 1 reverse KL, between them generalised JSD."}
    )
    temperature: float = field(default=2.0, metadata={"help": "Temperature of ordinary tokens, both sides."})
    hidden_weight: float = field(
        default=0.0, metadata={"help": "Weight of hint matching on the last hidden states; 0 turns it off."}
    )
    fused_loss: bool = field(
        default=True, metadata={"help": "Loss and gradient in one pass over the vocabulary, where it can be done."}
    )
    loss_memory: int = field(default=128, metadata={"help": "Megabytes for that pass."})

    protection: Literal["noise", "mollify", "population", "none", "drop"] | None = field(
        default=None,
        metadata={
            "help": "What happens to the targets at private tokens; default: mollify where there is a public "
            "model, otherwise population (drop for classifiers of whole examples).",
            "choices": list(_CHOICES["protection"]),
        },
    )
    max_temperature: float = field(
        default=16.0, metadata={"help": "Teacher temperature of a surely private token ('noise' and 'none')."}
    )
    temperature_power: float = field(default=1.0, metadata={"help": "Exponent of the likelihood in the temperature."})
    temperature_schedule: Literal["power", "geometric"] = field(
        default="power",
        metadata={"help": "How the temperature rises.", "choices": list(_CHOICES["temperature_schedule"])},
    )
    temperature_mode: Literal["teacher_only", "symmetric"] = field(
        default="teacher_only",
        metadata={
            "help": "Soften the teacher only, or both sides (an ablation that protects nothing at convergence).",
            "choices": list(_CHOICES["temperature_mode"]),
        },
    )
    noise_scale: float = field(
        default=1.0, metadata={"help": "Noise scale relative to the largest softened probability."}
    )
    noise_support: int = field(
        default=64, metadata={"help": "How many of the teacher's likeliest tokens are softened and noised; 0: all."}
    )
    noise_context: int = field(
        default=2, metadata={"help": "How many preceding tokens choose the draw; short, so that copies share it."}
    )
    noise_distribution: Literal["laplace", "gaussian"] = field(
        default="laplace", metadata={"help": "Shape of the noise.", "choices": list(_CHOICES["noise_distribution"])}
    )
    noise_replay: bool = field(
        default=True, metadata={"help": "Draw once and replay; False draws afresh (an ablation: it averages out)."}
    )
    mollify_bound: float = field(
        default=0.1, metadata={"help": "Divergence bound in nats at likelihood 1/2; it is 0 at likelihood 1."}
    )
    mollify_order: float = field(default=2.0, metadata={"help": "Order of the Renyi divergence of the bound."})
    population_min_spans: int = field(
        default=100,
        metadata={"help": "Fewest distinct spans that make an average; fewer fall back to a coarser kind."},
    )
    population_share: float = field(
        default=0.0, metadata={"help": "What a surely private token keeps of the individual teacher, in [0, 1]."}
    )

    target_epsilon: float | None = field(
        default=None, metadata={"help": "Differential privacy: what the transfer set may cost."}
    )
    target_delta: float | None = field(
        default=None, metadata={"help": "Delta of that guarantee; default: a tenth of 1 / units."}
    )
    noise_multiplier: float | None = field(
        default=None, metadata={"help": "Noise in units of clip_norm; default: solved from target_epsilon."}
    )
    clip_norm: float = field(default=1.0, metadata={"help": "Largest gradient of one unit, in Euclidean norm."})
    privacy_unit: str = field(
        default="record", metadata={"help": "What the guarantee is about: 'record', or the column that names users."}
    )
    records_per_user: int = field(default=8, metadata={"help": "How many rows a user gives to a batch."})
    micro_batch_size: int | None = field(
        default=None, metadata={"help": "Rows that go through the model at once under DP; default: 16."}
    )
    ghost_clipping: bool = field(
        default=False, metadata={"help": "Clip without gradients per row: less memory, two backward passes."}
    )
    log_nonprivate: bool = field(
        default=False, metadata={"help": "Log the loss under DP as nonprivate_loss; the guarantee does not cover it."}
    )

    include_num_input_tokens_seen: str = field(
        default="non_padding", metadata={"help": "Count tokens, so that the logs say how many a second."}
    )

    task: str | None = field(default=None, metadata={"help": "What the models are for; default: the teacher's task."})
    # From the command line they come as JSON text, which TrainingArguments reads.
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of from_pretrained for a student given by name."}
    )
    teacher_model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of from_pretrained for a teacher given by name."}
    )
    dataset_text_field: str = field(default="text", metadata={"help": "The column with the text."})
    dataset_label_field: str | None = field(default=None, metadata={"help": "The column with a classifier's labels."})
    max_length: int | None = field(
        default=None,
        metadata={"help": "Longest row or packed block, in tokens; default: 1024, or what the models allow."},
    )
    packing: bool = field(default=False, metadata={"help": "Join rows and cut them into blocks of max_length."})
    completion_only_loss: bool | None = field(
        default=None, metadata={"help": "Learn only the completion; default: yes for prompt/completion rows."}
    )
    assistant_only_loss: bool = field(default=False, metadata={"help": "Learn only the assistant's turns."})
    dataset_num_proc: int | None = field(default=None, metadata={"help": "Processes that tokenise and tag."})
    tag_dilation: int = field(
        default=1, metadata={"help": "How many neighbouring tokens inherit a private token's likelihood."}
    )
    example_likelihood: Literal["max", "mean"] = field(
        default="max",
        metadata={
            "help": "How an example with one label inherits its tokens' likelihood.",
            "choices": list(_CHOICES["example_likelihood"]),
        },
    )

    def __post_init__(self):
        super().__post_init__()
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in (*choices, self.__dataclass_fields__[name].default):
                raise ValueError(f"{name}={getattr(self, name)!r} is not known. Choose one of {', '.join(choices)}.")
        for name in ("alpha", "beta", "population_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1].")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature={self.temperature} must be positive; 1 leaves the distributions as they are."
            )
        if self.max_temperature < 1:
            raise ValueError(
                f"max_temperature={self.max_temperature} is below 1, which would sharpen private tokens. Use 1 to "
                "leave them as they are, or more (the default is 16) to soften them."
            )
        for name in ("temperature_power", "mollify_order"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive.")
        for name in (
            "hidden_weight",
            "noise_scale",
            "noise_support",
            "noise_context",
            "mollify_bound",
            "tag_dilation",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative.")
        for name in ("max_length", "population_min_spans", "loss_memory", "records_per_user"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

        if self.torch_compile and self.hidden_weight > 0:
            raise ValueError(
                "hidden_weight > 0 reads hidden states in a hook, which torch_compile=True does not call."
            )
        if self.differentially_private:
            self.check_privacy()

    @property
    def differentially_private(self) -> bool:
        """Whether the student is trained with DP-SGD."""
        return self.target_epsilon is not None or self.noise_multiplier is not None

    def check_privacy(self) -> None:
        """Set what DP-SGD needs, and refuse what it cannot be combined with.

        Raises:
            ValueError: a setting would break the guarantee, and what to do instead.
        """
        for name in ("target_epsilon", "target_delta", "noise_multiplier", "clip_norm", "micro_batch_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be positive.")
        if self.target_delta is not None and self.target_delta >= 1:
            raise ValueError(f"target_delta={self.target_delta} must be well below 1 / units.")
        # The trainer's own clip would cut the noised gradient; each unit's is cut by clip_norm.
        if self.max_grad_norm not in (0.0, 1.0):  # type: ignore[has-type]
            raise ValueError(
                f"max_grad_norm={self.max_grad_norm} would clip the noised gradient. "  # type: ignore[has-type]
                "Leave it alone, and set clip_norm, which clips each unit's."
            )
        self.max_grad_norm = 0.0
        # A resumed run draws new batches; how many tokens a batch held depends on who was in it.
        self.ignore_data_skip = True
        self.include_num_input_tokens_seen = "no"
        # Newer versions of transformers call it activation checkpointing and keep the old name in step.
        for name in ("gradient_checkpointing", "activation_checkpointing"):
            if not getattr(self, name, False):
                continue
            options = dict(getattr(self, f"{name}_kwargs") or {})
            if not options.setdefault("use_reentrant", True):
                raise ValueError(
                    f"Gradients per row are lost under {name} with use_reentrant=False. Leave {name}_kwargs alone, or "
                    "set use_reentrant=True."
                )
            setattr(self, f"{name}_kwargs", options)
        parallel = "shards or replicates the model in a way that gradients per row do not survive; use DDP"
        wrong = {
            "gradient_accumulation_steps": (
                self.gradient_accumulation_steps != 1,
                "per_device_train_batch_size is what a batch holds, micro_batch_size what fits the memory",
            ),
            "fp16": (self.fp16, "its loss scaling rounds clipped gradients; use bf16"),
            "torch_compile": (self.torch_compile, "compiled models do not call the hooks that gradients per row need"),
            "use_liger_kernel": (self.use_liger_kernel, "its kernels hide gradients per row"),
            "train_sampling_strategy": (self.train_sampling_strategy != "random", "batches are Poisson samples"),
            "packing": (self.packing, "a packed block holds parts of several records, and none is a unit"),
            "protection": (
                self.protection == "population",
                "its averages read the whole training set without noise; use 'mollify', 'noise', 'drop' or 'none'",
            ),
            "hidden_weight": (self.hidden_weight > 0, "hint matching has no gradients per row"),
            "ghost_clipping": (
                self.ghost_clipping and self.bf16,
                "its second pass rounds clipped gradients to bf16; turn one of them off",
            ),
            "gradient_checkpointing": (
                self.ghost_clipping and bool(self.gradient_checkpointing),
                "ghost clipping needs the activations twice; turn one of them off",
            ),
            "privacy_unit": (
                self.ghost_clipping and self.privacy_unit != "record",
                "ghost clipping knows the norm of each row, not of a user's rows together; turn ghost_clipping off",
            ),
            "auto_find_batch_size": (
                self.auto_find_batch_size,
                "steps that are tried again are steps that count; set micro_batch_size to what fits",
            ),
            "optim": (
                any(word in str(self.optim).lower() for word in ("layerwise", "lomo")),
                "it updates weights while gradients are made, before they are clipped and noised",
            ),
            "parallelism_config": (self.parallelism_config is not None, parallel),
            "deepspeed": (bool(self.deepspeed), parallel),
            "fsdp": (bool(self.fsdp), parallel),
        }
        for name, (refused, why) in wrong.items():
            if refused:
                raise ValueError(f"{name}={getattr(self, name)!r} and differential privacy do not go together: {why}.")

    @property
    def temperature_settings(self) -> TemperatureSettings:
        """The temperatures as the loss reads them; mollified and population targets are not softened."""
        softened = self.protection in ("noise", "none")
        return TemperatureSettings(
            base=self.temperature,
            maximum=self.max_temperature if softened else 1.0,
            power=self.temperature_power,
            schedule=self.temperature_schedule,
            mode=self.temperature_mode,
        )

    @property
    def data_settings(self) -> DataSettings:
        """The data options as `swingkd.data` reads them."""
        return DataSettings(
            text_field=self.dataset_text_field,
            max_length=self.max_length or LONGEST,
            packing=self.packing,
            completion_only_loss=self.completion_only_loss,
            assistant_only_loss=self.assistant_only_loss,
            dilation=self.tag_dilation,
            label_field=self.dataset_label_field,
            example_likelihood=self.example_likelihood,
        )
