"""Checks before the first step: each finds one mistake early and says what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from peft import PeftConfig
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_utils import HubStrategy

from swingkd.models.base_model import has_adapter
from swingkd.models.class_labels import adopt_class_names, check_numbered, check_same_classes, check_single_label
from swingkd.models.inputs import first_position, vocabulary_size
from swingkd.models.same import same_model, same_source, shared_weights
from swingkd.models.smaller import stacks_of
from swingkd.tasks import TASKS, Task, task_of
from swingkd.trainer.config import LONGEST, PrivateDistillationConfig

log = logging.getLogger(__name__)


def check_different_models(student: str | PreTrainedModel, teacher: str | PreTrainedModel | None) -> None:
    """Refuse a teacher that is the student, by whatever path or letters."""
    if same_source(student, teacher):
        raise ValueError(
            "The teacher is the student: there would be nothing to distil. Pass two models; for self-distillation "
            "load the checkpoint twice."
        )


def check_public(public: str | PreTrainedModel | None, teacher: str | PreTrainedModel | None) -> None:
    """Refuse a public model that is the teacher: mixed into itself, its private targets would stay as they are."""
    if same_model(public, teacher):
        raise ValueError(
            "The public model is the teacher, so nothing would be protected. Pass a model that never saw private text."
        )


def check_apart(student: PreTrainedModel, frozen: PreTrainedModel | None, role: str) -> None:
    """Refuse a student that holds weights of a model that is frozen: they would not be trained, in silence.

    Args:
        student: what is trained.
        frozen: what is not.
        role: what that is called: "teacher" or "public".

    Raises:
        ValueError: names the first of the weights.
    """
    if frozen is None:
        return
    if any(module is frozen for module in student.modules()):
        raise ValueError(
            f"The student holds the {role} model itself (an adapter around it, say), so both change together. Load "
            f"the checkpoint twice, or pass a copy.deepcopy of it as {role}_model."
        )
    shared = [name for name in shared_weights(student, frozen) if student.get_parameter(name).requires_grad]
    if shared:
        raise ValueError(
            f"The student shares {len(shared)} trainable weights with the {role} model (such as {shared[0]}), which "
            "is frozen. Copy them (copy.deepcopy), or freeze them in the student too: requires_grad_(False)."
        )


def check_start(student: PreTrainedModel, teacher: PreTrainedModel | None) -> None:
    """Refuse a student that begins with layers of its teacher: it has learnt what no protection of targets takes back.

    Weights that both have from a common base (embeddings that were frozen, the matrices below an adapter) do not
    count: all matrices of one of the student's layers must be the teacher's.

    Args:
        student: what is trained.
        teacher: trained on private text.

    Raises:
        ValueError: says what to do.
    """
    layers = _first_layer(student)
    if teacher is None or has_adapter(teacher) or not layers:
        return
    weights = [tensor for tensor in teacher.state_dict().values() if tensor.ndim == 2 and not tensor.is_meta]
    if all(any(_equal(own, other) for other in weights) for own in layers):
        raise ValueError(
            "The student begins with layers of the teacher, so it has learnt private text before "
            "any target is protected. Take layers of the public base (student_from), or, where the teacher is public, "
            "say so: start_from_teacher=True."
        )


def _first_layer(model: PreTrainedModel) -> list[torch.Tensor]:
    """Return the matrices of a model's first layer, where it has a stack of layers."""
    stacks = stacks_of(model)
    if not stacks:
        return []
    first = model.get_submodule(f"{stacks[0]}.0")
    return [p.data for p in first.parameters() if p.ndim == 2 and not p.is_meta]


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other.to(one.device, one.dtype))


def check_one_device(args: TrainingArguments) -> None:
    """Refuse torch's DataParallel."""
    if args.n_gpu > 1:
        raise ValueError(
            f"This process sees {args.n_gpu} GPUs and would use DataParallel, which splits batches behind the loss's "
            "back. Start one process per GPU: accelerate launch --num_processes <GPUs> your_script.py."
        )


def check_precision(student: PreTrainedModel) -> None:
    """Warn of a student whose trained weights are in half precision: small updates are rounded away."""
    trained = {p.dtype for p in student.parameters() if p.requires_grad} & {torch.bfloat16, torch.float16}
    if trained:
        log.warning(
            "The student's weights are in %s, and updates smaller than their last digit are lost. Load it with "
            "dtype=torch.float32, as happens where it is passed by its name; bf16=True computes in half precision "
            "all the same.",
            str(trained.pop()).removeprefix("torch."),
        )


def check_tokenizer(
    role: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task = TASKS[0]
) -> None:
    """Refuse a model whose head or whose own tokenizer does not fit the shared one; added tokens are fine."""
    head = model.get_output_embeddings() if task.predicts_tokens else model.get_input_embeddings()
    rows = head.weight.shape[0] if head else model.config.get_text_config().vocab_size
    size = vocabulary_size(tokenizer)
    if rows < size:
        raise ValueError(
            f"The {role} model {'predicts' if task.predicts_tokens else 'knows'} {rows} tokens, the tokenizer has ids "
            f"up to {size - 1}. Teacher and student must share one tokenizer: pass the one both were trained with."
        )
    name = getattr(model.config, "_name_or_path", "")
    if not name:
        return
    try:
        own = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError):
        return  # Saved without a tokenizer: the size of its head is all there is to compare.
    if len(own) <= len(own.all_special_tokens):
        return  # transformers makes up an empty tokenizer where a folder has none.
    ids = tokenizer.get_vocab()
    if any(ids.get(token) != number for token, number in own.get_vocab().items()):
        raise ValueError(
            f"The {role} model {name!r} has another tokenizer ({len(own)} tokens) than the one passed "
            f"({len(tokenizer)}): the same id would mean different tokens. "
            + (
                "Choose a teacher and a student of one family."
                if task.predicts_tokens and task.name != "text-generation"
                else "Pass the teacher's own as teacher_processing_class, the student's as processing_class."
            )
        )


def positions(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model can place; `None` where it names no limit."""
    # Vision-language models keep it where the rest of their text model is described.
    allowed = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # XLNet says -1: as many as one likes.
    return allowed - first_position(model) if allowed is not None and allowed > 0 else None


def longest_row(args: PrivateDistillationConfig, models: Iterable[PreTrainedModel], *tokenizers: object) -> int:
    """Return how many tokens a row may have: what was asked for, or what every model and tokenizer allows."""
    if args.max_length is not None:
        return args.max_length
    allowed = [positions(model) for model in models]
    allowed += [getattr(tokenizer, "model_max_length", None) for tokenizer in tokenizers]
    return min([LONGEST, *(limit for limit in allowed if limit)])


def check_length(role: str, model: PreTrainedModel, max_length: int) -> None:
    """Refuse rows longer than the model's positions."""
    allowed = positions(model)
    if allowed is not None and max_length > allowed:
        raise ValueError(
            f"max_length={max_length} is longer than the {role} model allows ({allowed} positions). Set "
            f"max_length={allowed} or less."
        )


def check_padding_is_unread(role: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a classifier whose answer changes with the padding behind a text, as XLNet's does.

    Raises:
        ValueError: it does.
    """
    ids = tokenizer("a b c")["input_ids"]
    # What lies elsewhere cannot be asked, and a model that chooses its attention by the length would keep its choice.
    elsewhere = any(p.is_meta or not p.numel() for p in model.parameters())
    if elsewhere or not ids or hasattr(model.base_model, "set_attention_type"):
        return
    text = torch.tensor([ids], device=model.device)
    padded = torch.nn.functional.pad(text, (0, 3), value=tokenizer.pad_token_id)
    mask = (torch.arange(padded.size(1), device=text.device) < text.size(1)).long()[None]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = model(input_ids=text, attention_mask=torch.ones_like(text)).logits.float()
            beside = model(input_ids=padded, attention_mask=mask).logits.float()
    except (RuntimeError, ValueError, IndexError):
        return  # It asks for more than a few words; the first batch will show.
    finally:
        model.train(was_training)
    moved = float((alone - beside).abs().max())
    # Half precision has three digits.
    if not moved <= (1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1) * float(alone.abs().max()) + 1e-6:
        raise ValueError(
            f"The {role} model's answer depends on the padding behind a text (it moves by {moved:.2g}), so on what "
            f"stands beside it in a batch: {type(model).__name__} reads it at the end of a row. Choose another "
            "kind of model."
        )


def check_adapter(peft_config: PeftConfig) -> None:
    """Refuse adapters that put tokens of their own before the text (a prefix in the cache is fine)."""
    if peft_config.is_prompt_learning and peft_config.peft_type != "PREFIX_TUNING":
        raise ValueError(
            f"{type(peft_config).__name__} puts tokens of its own before the text: student and teacher would not look "
            "at the same positions. Use an adapter on the weights, for example LoraConfig."
        )


def check_task(task: Task, models: dict[str, PreTrainedModel], args: PrivateDistillationConfig) -> None:
    """Refuse models that are made for another task, or classes that differ; by their role, the student first.

    A student whose classes have no names gets the teacher's: the data's names are compared with them.
    """
    for role, model in models.items():
        if args.task is None and task_of(model) is not task:
            raise ValueError(
                f"The {role} model is a {type(model).__name__}, made for {task_of(model).name}; the teacher is for "
                f"{task.name}. Load both with {task.auto_model.__name__}."
            )
        if not task.predicts_tokens:
            check_single_label(role, model.config)
            check_numbered(role, model.config)
            check_same_classes(models["student"].config, model.config)
            adopt_class_names(models["student"].config, model.config)
    if args.packing and task.name not in ("text-generation", "fill-mask"):
        raise ValueError(f"packing=True joins texts, and {task.name} reads them one by one. Leave it out.")
    if args.assistant_only_loss and task.name != "text-generation":
        raise ValueError(f"assistant_only_loss=True is for chats of a causal language model, not for {task.name}.")
    if args.hidden_weight > 0 and not task.predicts_tokens:
        raise ValueError(
            f"hidden_weight > 0 matches the hidden states of tokens, and {task.name} has none that both models share. "
            "Set hidden_weight=0."
        )


def check_teacher_processing(task: Task, processing_class: object, args: PrivateDistillationConfig) -> None:
    """Refuse a tokenizer of the teacher's own where nothing shows which token is which, or something needs them alike.

    Args:
        task: what the models are for.
        processing_class: the teacher's own; `None`: it has none.
        args: the settings.

    Raises:
        ValueError: names what does not go with it.
    """
    if processing_class is None or not task.predicts_tokens:
        return
    if task.name != "text-generation":
        raise ValueError(
            f"teacher_processing_class is for classifiers and causal language models; with {task.name} teacher and "
            "student share one tokenizer."
        )
    wrong = {
        "packing": args.packing,
        "hidden_weight": args.hidden_weight > 0,
        "lmbda": args.lmbda > 0,
        "protection": args.protection == "population",
    }
    for name, refused in wrong.items():
        if refused:
            raise ValueError(
                f"{name}={getattr(args, name)!r} needs a teacher that reads the student's tokens, and it has a "
                "tokenizer of its own. Leave one of them out."
            )


def hidden_size(role: str, model: PreTrainedModel) -> int:
    """Return the width of a model's hidden states."""
    size = getattr(model.config.get_text_config(), "hidden_size", None)
    if size is None:
        raise ValueError(f"hidden_weight > 0 needs hidden states, but the {role} model's config names no hidden_size.")
    return size


def check_processing(processing_class: object, task: Task) -> None:
    """Refuse what is no tokenizer, or no image processor.

    Raises:
        ValueError: says what it is, and what to pass.
    """
    text = task.auto_processor is AutoTokenizer
    if isinstance(processing_class, str) or (text and not isinstance(processing_class, PreTrainedTokenizerBase)):
        kind = "AutoTokenizer" if text else "AutoImageProcessor"
        inner = " (its tokenizer alone: processing_class.tokenizer)" if hasattr(processing_class, "tokenizer") else ""
        raise ValueError(
            f"processing_class is a {type(processing_class).__name__}. Pass what {kind}.from_pretrained(...) "
            f"returns{inner}."
        )


def check_publishing(args: TrainingArguments) -> None:
    """Refuse to push whole checkpoints, before a repository is made.

    Raises:
        ValueError: they hold optimizer states, pickles and the seed.
    """
    if args.push_to_hub and args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise ValueError(
            f"hub_strategy={args.hub_strategy.value!r} pushes whole checkpoints: pickles, and the seed. Use 'end' or "
            "'every_save'."
        )
