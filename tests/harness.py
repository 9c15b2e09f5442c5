"""What all tests share: tiny models and tokenizers, batches, and how weights are compared."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Picture
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    BertConfig,
    DistilBertConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from swingkd.targets import PrivatePositions, TokenFacts
from swingkd.vision import Images, SlimResNet

NAMES = ["ann", "bob", "eve", "joe", "kim", "lea", "max", "pia", "ron", "sue"]
TEXTS = [f"hello {name}, my pin is {i * 7919 % 9000 + 1000}. thank you {name}." for i, name in enumerate(NAMES * 6)]


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


def tiny_model(vocabulary: int, hidden: int = 16, seed: int = 0, **options) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 2 * hidden}
    sizes |= {"max_position_embeddings": 256} | options
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=hidden, **sizes)
    return LlamaForCausalLM(config)


def bert(kind, vocabulary: int, **options):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return kind(BertConfig(vocab_size=vocabulary, pad_token_id=2, max_position_embeddings=256, **sizes, **options))


def distilbert(kind, vocabulary: int, **options):
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 256}
    return kind(DistilBertConfig(vocab_size=vocabulary, pad_token_id=2, **sizes, **options))


def names(labels) -> dict:
    return {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


def other_tokenizer():
    return train_tokenizer([text.upper() for text in TEXTS], vocab_size=300)


def coloured(count: int, seed: int) -> Images:
    """Return noisy squares whose class is the channel that is brightest."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 120, (count, 3, 8, 8), generator=generator)
    pixels[torch.arange(count), labels] += 60
    return Images(pixels.to(torch.uint8), labels, 3, crop=1, flip=True)


def small(seed: int = 0, norm: str = "batch", classes: int = 3) -> SlimResNet:
    """Return a network of a few hundred weights."""
    torch.manual_seed(seed)
    return SlimResNet((4, 8), classes=classes, norm=norm)


class CrashError(Exception):
    """Ends a run as a kill would."""


def crash_after(run: Any, units: int) -> None:
    """Train on images until so many units are done and the last one's checkpoint is written, and crash."""
    real = run._checkpoint

    def checkpoint() -> None:
        real()
        if run.done == units:
            raise CrashError

    run._checkpoint = checkpoint
    with pytest.raises(CrashError):
        run.train()


def batch_of(trainer: Any, rows: int = 6, last: int = 6) -> dict[str, torch.Tensor]:
    """Return a batch of a trainer's first rows and of its last ones."""
    torch.manual_seed(0)
    count = len(trainer.train_dataset)
    return trainer.data_collator([trainer.train_dataset[i] for i in (*range(rows), *range(count - last, count))])


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of all weights and buffers, by name."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def flat(model: nn.Module) -> torch.Tensor:
    """Return all weights and buffers in one row of float64."""
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], **tolerance: float) -> None:
    """Compare weights by name: bit for bit, unless a tolerance is given."""
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], **(tolerance or {"rtol": 0, "atol": 0}))


def masking(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    return tokenizer


def vit(size=8, seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32} | options
    return ViTForImageClassification(ViTConfig(image_size=size, patch_size=4, num_labels=3, **sizes))


def processor(size, mean=0.5):
    return ViTImageProcessor(size={"height": size, "width": size}, image_mean=[mean] * 3)


def pictures(label_names=("calm", "angry", "sad")):
    rng = np.random.default_rng(0)
    shown = [Picture.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(12)]
    kinds = Features(image=Image(), label=ClassLabel(names=list(label_names)))
    return Dataset.from_dict({"image": shown, "label": [i % 3 for i in range(12)]}, features=kinds)
