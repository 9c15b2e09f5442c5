"""Tiny models and a tokenizer, built from configurations: nothing is downloaded."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from swingkd import PrivateDistillationConfig
from swingkd.targets import PrivatePositions, TokenFacts

torch.set_num_threads(1)
# Timings never decide a test.
settings.register_profile("swingkd", deadline=None)
settings.load_profile("swingkd")

NAMES = ["ann", "bob", "eve", "joe", "kim", "lea", "max", "pia", "ron", "sue"]
TEXTS = [f"hello {name}, my pin is {i * 7919 % 9000 + 1000}. thank you {name}." for i, name in enumerate(NAMES * 6)]


@pytest.fixture
def fresh_accelerate():
    """Accelerate without the precision that an earlier test asked this process for."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data sets, where this machine has them."""
    folder = Path(os.environ.get("SWINGKD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.exists():
        pytest.skip(f"needs the real data sets in {folder} (set SWINGKD_DATA to their folder)")
    return folder


def train_tokenizer(texts, vocab_size=400, single_digits=True) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Digits(individual_digits=True)] if single_digits else []
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def private_positions(n: int, **fields) -> PrivatePositions:
    """Facts about n surely private positions; anything may be replaced."""
    zeros = torch.zeros(n, dtype=torch.int64)
    facts = TokenFacts(torch.ones(n), zeros, zeros, zeros)
    facts = TokenFacts(*(fields.pop(name, value) for name, value in facts._asdict().items()))
    defaults = {"temperature": torch.ones(n), "context": torch.zeros(n, 2, dtype=torch.int64)}
    return PrivatePositions(facts, **(defaults | fields))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS)


def tiny_model(vocabulary: int, hidden: int = 16, seed: int = 0, **options) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 2 * hidden}
    sizes |= {"max_position_embeddings": 256} | options
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=hidden, **sizes)
    return LlamaForCausalLM(config)


@pytest.fixture
def student(tokenizer):
    return tiny_model(len(tokenizer), seed=1)


@pytest.fixture
def teacher(tokenizer):
    # Confident, as a trained teacher is: otherwise every target is nearly uniform and nothing could be told apart.
    model = tiny_model(len(tokenizer), hidden=24, seed=2)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    return model


@pytest.fixture
def texts() -> Dataset:
    return Dataset.from_dict({"text": TEXTS})


@pytest.fixture
def config(tmp_path):
    """A function that makes a configuration for a short run on the CPU."""

    def make(**fields) -> PrivateDistillationConfig:
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "max_length": 64,
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            "save_strategy": "no",
            "learning_rate": 1e-2,
            "population_min_spans": 2,
            "noise_support": 16,
        }
        return PrivateDistillationConfig(**(defaults | fields))

    return make
