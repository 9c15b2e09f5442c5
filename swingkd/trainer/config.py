"""Settings of a private distillation: TrainingArguments and what is ours, each described once, by its help text."""

from __future__ import annotations

import copy
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, get_args

from transformers import TrainingArguments

from swingkd.data import DataSettings
from swingkd.data.packing import PackingStrategy
from swingkd.guards import check_at_least_one, check_not_negative, check_numbers, check_positive, check_share
from swingkd.models.loading import check_options
from swingkd.targets import ProtectionName, TemperatureSettings
from swingkd.trainer.check_private_settings import CHECKPOINTING, check_private_settings, settle_private_training
from swingkd.trainer.metrics import least_is_best
from swingkd.trainer.privacy_arguments import PrivacyArguments

#: Tokens of a row where nobody says otherwise and every model allows it.
LONGEST = 1024
#: Protections that soften the teacher within `noise_support`.
SOFTENING: tuple[ProtectionName, ...] = ("noise", "none")

Mode = Literal["teacher_only", "symmetric"]
Schedule = Literal["power", "geometric"]
Distribution = Literal["laplace", "gaussian"]
Inherited = Literal["max", "mean"]


def _changed(settings: Any, one: Field) -> bool:
    # Nothing says nothing: some make None of a default of theirs.
    if getattr(settings, one.name) is None:
        return False
    default = one.default if one.default_factory is MISSING else one.default_factory()
    return getattr(settings, one.name) != default


def _setting(default: Any, about: str, choices: Any = None) -> Any:
    """Return a field that says what it is for; of a closed list of names, which there are."""
    known = {"choices": list(get_args(choices))} if choices is not None else {}
    return field(default=default, metadata={"help": about} | known)


@dataclass
class PrivateDistillationConfig(TrainingArguments):
    """Configuration of [`PrivateDistillationTrainer`]: everything in `TrainingArguments`, and what is ours.

    Each field is described by its help text, on the command line and in docs/settings.md.  Names are TRL's where it
    has the same thing.  The noise key is not a setting: it is drawn from the system's randomness and lives in
    `output_dir/_private/`.

    Raises:
        ValueError: a value is not known or out of range, or cannot be combined with differential privacy.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [
        *TrainingArguments._VALID_DICT_FIELDS,
        "model_init_kwargs",
        "teacher_model_init_kwargs",
    ]
    #: What our fields control, by the first of each group.
    GROUPS: ClassVar[dict[str, str]] = {
        "alpha": "the distillation loss",
        "protection": "the protection of private tokens",
        "target_epsilon": "differential privacy (set `target_epsilon` or `noise_multiplier` to turn it on)",
        "task": "the models and the data",
    }

    alpha: float = _setting(0.5, "Weight of the soft loss in [0, 1]; the rest is hard labels.")
    beta: float = _setting(0.0, "Divergence: 0 forward KL, 1 reverse KL, between them generalised JSD.")
    temperature: float = _setting(2.0, "Temperature of ordinary tokens, both sides.")
    lmbda: float = _setting(
        0.0,
        "Share of the batches in which the student goes on with the prompts itself, for the teacher to judge "
        "(on-policy distillation).",
    )
    max_new_tokens: int = _setting(128, "How many tokens the student writes at most.")
    sampling_temperature: float = _setting(1.0, "Temperature at which it writes.")
    hidden_weight: float = _setting(0.0, "Weight of hint matching on the last hidden states; 0 turns it off.")
    fused_loss: bool = _setting(
        True,
        "Make loss and gradient in one pass over the vocabulary, a few tokens at a time, where the output "
        "heads can be read; otherwise the plain formula.",
    )
    loss_memory: int = _setting(128, "Megabytes for that pass.")

    protection: ProtectionName | None = _setting(
        None,
        "What happens at private tokens: surrogate (the text's values are replaced by made-up ones, which are learnt "
        "as they stand there), or to the targets: mollify (needs a public model), population, noise (Swing "
        "distillation, our reading), none (temperature only) or drop (no loss there); default: mollify where the "
        "trainer is given a public model, surrogate where it is given text and a tagger; for rows that are tokenised "
        "already population (noise under differential privacy), for private images drop, none without a teacher.",
        ProtectionName,
    )
    surrogate_locale: str = _setting("en_US", "Locale of made-up names, as Faker has it ('surrogate').")
    value_epsilon: float | None = _setting(
        None,
        "Draw surrogates from a noised table of the flagged values themselves, (epsilon, delta)-private in those of "
        "each privacy_unit ('surrogate'); default: from public lists, which cost nothing.",
    )
    private_threshold: float = _setting(
        0.5, "From which likelihood on a token is private: there it is protected whole, below not at all."
    )
    likelihood_is_dose: bool = _setting(
        False, "Protect a token as far as it is likely private (an ablation: a likelihood of 0.6 leaves 4 to 6 bits)."
    )
    max_temperature: float = _setting(16.0, "Teacher temperature of a surely private token ('noise' and 'none').")
    temperature_power: float = _setting(1.0, "Exponent of the likelihood in the temperature, where it is a dose.")
    temperature_schedule: Schedule = _setting("power", "How the temperature rises.", Schedule)
    temperature_mode: Mode = _setting(
        "teacher_only",
        "Soften the teacher only, or both sides (an ablation that protects nothing at convergence).",
        Mode,
    )
    noise_scale: float = _setting(1.0, "Noise scale relative to the largest softened probability.")
    noise_support: int = _setting(64, "How many of the teacher's likeliest tokens are softened and noised; 0: all.")
    noise_context: int = _setting(2, "How many preceding tokens choose the draw; short, so that copies share it.")
    noise_distribution: Distribution = _setting("laplace", "Shape of the noise.", Distribution)
    noise_replay: bool = _setting(True, "Draw once and replay; False draws afresh (an ablation: it averages out).")
    mollify_bound: float = _setting(0.1, "Divergence bound in nats at likelihood 1/2 (a dose); it is 0 at 1.")
    mollify_order: float = _setting(2.0, "Order of the Renyi divergence of the bound.")
    population_min_spans: int = _setting(
        100, "Fewest distinct spans that make an average; fewer fall back to a coarser kind."
    )
    population_share: float = _setting(0.0, "What a surely private token keeps of the individual teacher, in [0, 1].")

    target_epsilon: float | None = _setting(
        None, "What the transfer set may cost; the noise is solved for, and training stops rather than spend more."
    )
    target_delta: float | None = _setting(None, "Delta of that guarantee; default: a tenth of 1 / units.")
    noise_multiplier: float | None = _setting(
        None, "Noise in units of clip_norm; default: solved from target_epsilon."
    )
    clip_norm: float = _setting(1.0, "Largest gradient of one unit, in Euclidean norm.")
    privacy_unit: str = _setting(
        "record", "What the guarantee is about: 'record' (each row), or the column that names users."
    )
    records_per_user: int = _setting(8, "How many rows a user gives to a batch.")
    micro_batch_size: int | None = _setting(
        None,
        "Rows that go through the model at once: memory and time only; per_device_train_batch_size is what a "
        "batch holds on average. Default: 16.",
    )
    ghost_clipping: bool = _setting(False, "Clip without gradients per row: less memory, two backward passes.")
    log_nonprivate: bool = _setting(
        False, "Log the loss under DP as nonprivate_loss; the guarantee does not cover it."
    )

    include_num_input_tokens_seen: str = _setting(
        "non_padding", "Count tokens, so that the logs say how many a second."
    )
    task: str | None = _setting(
        None,
        "What the models are for: text-generation, fill-mask, text2text-generation, text-classification, "
        "token-classification or image-classification; default: what the teacher was made for.",
    )
    start_from_teacher: bool = _setting(
        False, "Let the student begin with layers of the teacher itself, as it may of a public one."
    )
    # From the command line they come as JSON text, which TrainingArguments reads.
    model_init_kwargs: dict[str, Any] | str | None = _setting(
        None, "Arguments of from_pretrained for a student given by name."
    )
    teacher_model_init_kwargs: dict[str, Any] | str | None = _setting(
        None, "Arguments of from_pretrained for a teacher given by name."
    )
    dataset_text_field: str | list[str] = _setting(
        "text", "The column with the text; of sentence pairs the two columns (default: sentence1 and sentence2)."
    )
    dataset_label_field: str | None = _setting(
        None, "The column with a classifier's labels; default: label, labels, ner_tags or tags."
    )
    max_length: int | None = _setting(
        None, "Longest row or packed block, in tokens; default: 1024, or what the models allow."
    )
    packing: bool = _setting(False, "Join rows into blocks of max_length.")
    packing_strategy: PackingStrategy = _setting(
        "bfd",
        "How: bfd (whole rows, each sees itself only; longer ones are cut off), bfd_split (longer ones go on in "
        "another block) or wrapped (cut anywhere; the rows of a block see each other).",
        PackingStrategy,
    )
    completion_only_loss: bool | None = _setting(
        None, "Learn only the completion; default: yes for prompt/completion rows."
    )
    assistant_only_loss: bool = _setting(False, "Learn only the assistant's turns.")
    dataset_num_proc: int | None = _setting(None, "Processes that tokenise and tag.")
    tag_dilation: int = _setting(1, "How many neighbouring tokens inherit a private token's likelihood.")
    example_likelihood: Inherited = _setting(
        "max",
        "An example with one label is as private as its most private token (max), or as its tokens are on "
        "average (mean).",
        Inherited,
    )

    @classmethod
    def own_fields(cls) -> list[Field]:
        """List the fields that `TrainingArguments` has not."""
        inherited = {field.name for field in fields(TrainingArguments)}
        return [field for field in fields(cls) if field.name not in inherited]

    @classmethod
    def of(cls, args: TrainingArguments | None) -> PrivateDistillationConfig:
        """Return settings of ours: those given, or plain ones with our defaults beside them.

        Args:
            args: of `Trainer` or TRL's SFTTrainer; `None`: defaults.

        Raises:
            ValueError: they say something that has no meaning here, so that it would be passed over in silence.
        """
        if isinstance(args, cls):
            return args
        if args is None:
            return cls()
        if hasattr(args, "lmbda"):
            raise ValueError(
                f"A {type(args).__name__} describes another loss under the same names. Make a "
                "PrivateDistillationConfig: alpha=1 learns from the teacher alone; lmbda, beta and max_new_tokens "
                "mean the same there, temperature is the loss's, and sampling_temperature that of what the student "
                "writes."
            )
        known = {field.name for field in fields(cls) if field.init}
        given = {field.name: field for field in fields(args) if field.init}
        lost = [name for name, one in given.items() if name not in known and _changed(args, one)]
        if lost:
            raise ValueError(
                f"{', '.join(lost)} of {type(args).__name__} {'have' if len(lost) > 1 else 'has'} no meaning here. "
                "Leave out what is not needed, or make a PrivateDistillationConfig."
            )
        return cls(**{name: getattr(args, name) for name in given if name in known})

    def __post_init__(self):
        # Before TrainingArguments rounds, with errors that name no field.
        self._check_numbers()
        self._direct()
        super().__post_init__()
        self.check()
        self._settle()

    def check(self) -> None:
        """Refuse what is out of range, not known or cannot go together, whenever it was set.

        Raises:
            ValueError: names the value, and what to do instead.
        """
        for ours in self.own_fields():
            choices = ours.metadata.get("choices")
            if choices and getattr(self, ours.name) not in (*choices, ours.default):
                raise ValueError(
                    f"{ours.name}={getattr(self, ours.name)!r} is not known. Choose one of {', '.join(choices)}."
                )
        self._check_numbers()
        check_share(self, "alpha", "beta", "lmbda", "population_share")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature={self.temperature} must be positive; 1 leaves the distributions as they are."
            )
        if not 0 < self.private_threshold <= 1:
            raise ValueError(
                f"private_threshold={self.private_threshold} must be above 0 and at most 1: the likelihood from which "
                "on a token is private (the default is 0.5)."
            )
        if self.max_temperature < 1:
            raise ValueError(
                f"max_temperature={self.max_temperature} is below 1, which would sharpen private tokens. Use 1 to "
                "leave them as they are, or more (the default is 16) to soften them."
            )
        check_positive(self, "temperature_power", "mollify_order", "sampling_temperature")
        check_not_negative(
            self, "hidden_weight", "noise_scale", "noise_support", "noise_context", "mollify_bound", "tag_dilation"
        )
        check_at_least_one(
            self, "max_length", "max_new_tokens", "population_min_spans", "loss_memory", "records_per_user"
        )
        for options in (self.model_init_kwargs, self.teacher_model_init_kwargs):
            check_options(options)  # type: ignore[arg-type]  # read by TrainingArguments
        if self.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor={self.label_smoothing_factor}: the teacher's soft targets are what smooths "
                "the labels here. Leave it at 0; a larger alpha or temperature smooths more."
            )
        if self.debug and self.fused_loss:
            raise ValueError(
                f"debug={self.debug} looks at every output of the model, and the fast loss leaves the logits empty. "
                "Set fused_loss=False with it."
            )
        if self.torch_compile and self.hidden_weight > 0:
            raise ValueError(
                "hidden_weight > 0 reads hidden states in a hook, which torch_compile=True does not call."
            )
        check_positive(self, "value_epsilon")
        if self.value_epsilon is not None and self.protection not in (None, "surrogate"):
            raise ValueError(
                f"value_epsilon is about surrogates, and protection={self.protection!r} makes none. Leave it out, or "
                "choose 'surrogate'."
            )
        if self.differentially_private:
            check_private_settings(self)

    def _check_numbers(self) -> None:
        # An infinite bound leaves the teacher as it is; of infinite order is the largest ratio.
        check_numbers(self, infinite=("mollify_bound", "mollify_order"))

    @property
    def differentially_private(self) -> bool:
        """Whether the student is trained with DP-SGD."""
        return self.target_epsilon is not None or self.noise_multiplier is not None

    @property
    def privacy(self) -> PrivacyArguments | None:
        """What the training promises; `None` without differential privacy."""
        if not self.differentially_private:
            return None
        return PrivacyArguments(**{one.name: getattr(self, one.name) for one in fields(PrivacyArguments)})

    def _settle(self) -> None:
        """Set what DP-SGD needs of the Trainer's own settings."""
        self._direct()
        if not self.differentially_private:
            return
        settle_private_training(self)
        for name in CHECKPOINTING:
            if getattr(self, name, False):
                setattr(self, f"{name}_kwargs", {**(getattr(self, f"{name}_kwargs") or {}), "use_reentrant": True})

    def _direct(self) -> None:
        # Transformers takes every metric whose name does not end in "loss" for one that is to rise.
        metric = self.metric_for_best_model
        rises: bool | None = self.greater_is_better  # type: ignore[has-type]
        if rises is None and metric is not None and least_is_best(metric):
            self.greater_is_better = False

    def settled(self, **decided: Any) -> PrivateDistillationConfig:
        """Return a copy with what was decided; the caller's own object is left as it is.

        Checked again: fields may have been set since it was made.

        Args:
            **decided: fields and their values.
        """
        own = copy.copy(self)
        for name, value in decided.items():
            setattr(own, name, value)
        own.check()
        own._settle()
        return own

    def of_streams(self) -> PrivateDistillationConfig:
        """Return a copy in which each process reads a stream itself: rows of unlike lengths cannot be handed round.

        Raises:
            ValueError: the caller asked for them to be handed round.
        """
        if self.accelerator_config.dispatch_batches:
            raise ValueError(
                "accelerator_config={'dispatch_batches': True} hands the batches of a stream from one process to the "
                "others, which joins rows of unlike lengths. Leave dispatch_batches out."
            )
        # Chosen anew for a copy of its own: the caller's object is left as it is.
        return self.settled(accelerator_config=replace(self.accelerator_config, dispatch_batches=False))

    @property
    def temperature_settings(self) -> TemperatureSettings:
        """The temperatures as the loss reads them; mollified and population targets are not softened."""
        # A protection of the user's own may use the temperatures, or not.
        softened = self.protection is None or self.protection in SOFTENING
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
            packing=self.packing_strategy if self.packing else None,
            completion_only_loss=self.completion_only_loss,
            assistant_only_loss=self.assistant_only_loss,
            dilation=self.tag_dilation,
            label_field=self.dataset_label_field,
            example_likelihood=self.example_likelihood,
            threshold=self.private_threshold,
        )
