"""Tokenizers and language models of an experiment: by name, or from scratch; trained once, and evaluated."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
)

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer
from swingkd.experiments.grid import training_settings
from swingkd.experiments.launch import expand
from swingkd.models.loading import load_pretrained, load_tokenizer
from swingkd.models.smaller import student_from
from swingkd.trainer.lines import LineProgress, show_lines

START, END, PAD = "<|start|>", "<|end|>", "<|pad|>"


def is_trained(folder: Path) -> bool:
    """Tell whether a model was saved whole; `training_args.bin` is what a Trainer writes last."""
    return (folder / "training_args.bin").exists()


def quiet(trainer: Trainer) -> Trainer:
    """Say what is trained, and leave the rest to progress bars: the numbers go to metrics.json."""
    if trainer.is_world_process_zero():
        print(f"training {Path(trainer.args.output_dir).name}", flush=True)
    if not any(isinstance(callback, LineProgress) for callback in trainer.callback_handler.callbacks):
        show_lines(trainer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def make_tokenizer(spec: dict[str, Any], texts: list[str]) -> PreTrainedTokenizerFast:
    """Load a tokenizer by name, or train a byte-level BPE on *public* text: its words are seen by everybody."""
    if "name" in spec:
        return load_tokenizer(expand(spec)["name"])  # type: ignore[return-value]  # a fast one, or it is refused later
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=spec["vocab_size"], special_tokens=[START, END, PAD], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=START, eos_token=END, pad_token=PAD)


def make_model(spec: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Load a causal LM by name, or some of its layers; or build a small Llama from its sizes."""
    if "name" in spec:
        model = load_pretrained(AutoModelForCausalLM, expand(spec)["name"], dtype=torch.float32)
        return student_from(model, spec["layers"]) if "layers" in spec else model
    sizes = {"num_attention_heads": 4, "intermediate_size": spec["hidden_size"] * 8 // 3, **spec}
    special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=512, tie_word_embeddings=True, **sizes, **special
        )
    )


def lock(path: Path) -> AbstractContextManager:
    """Let processes that share the work, each launched by itself, make something once.

    Those of one launch make it together, and take no lock: each would wait for the others.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock") if PartialState().num_processes == 1 else nullcontext()


def probe(model: PreTrainedModel, tokenizer: Any, folder: Path, **settings: Any) -> PrivateDistillationTrainer:
    """Return a trainer that evaluates a model as it is, without a teacher.

    Args:
        model: what is evaluated.
        tokenizer: its own.
        folder: where a trainer may write.
        **settings: of `PrivateDistillationConfig`.
    """
    fields = training_settings(**settings | {"output_dir": str(folder), "alpha": 0.0, "protection": "none"})
    return PrivateDistillationTrainer(
        model, PrivateDistillationConfig(**fields), teacher_model=None, processing_class=tokenizer
    )
