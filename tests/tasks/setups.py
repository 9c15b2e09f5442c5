"""A tiny teacher, a tiny student of another family and a few rows, for every task."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Picture
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from swingkd import PrivateDistillationTrainer, RuleTagger
from tests.harness import NAMES, TEXTS, bert, distilbert, names, tiny_model

TAGGER = RuleTagger()
CLASSES = ("calm", "angry", "sad")
WORDS = ("O", "B-PER", "I-PER", "B-NUM", "I-NUM")


class Setup(NamedTuple):
    """What a trainer of a task is made of."""

    teacher: Any
    student: Any
    processing_class: Any
    data: Dataset


def masked_tokenizer(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    return tokenizer


def example_rows() -> Dataset:
    plain = [f"thank you {name}, see you" for name in NAMES]
    rows = {"text": [*TEXTS[:10], *plain], "label": [CLASSES[i % 3] for i in range(20)]}
    return Dataset.from_dict(rows)


def word_rows() -> Dataset:
    rows = []
    for i, name in enumerate(NAMES * 2):
        number = str(i * 7919 % 9000 + 1000)
        tokens = ["hello", name, "smith", "my", "pin", "is", number, "."]
        rows.append({"tokens": tokens, "ner_tags": [0, 1, 2, 0, 0, 0, 3, 0]})
    return Dataset.from_list(rows)


def image_rows() -> Dataset:
    rng = np.random.default_rng(0)
    pictures = [Picture.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(12)]
    rows = {"image": pictures, "label": [i % 3 for i in range(12)], "pii_likelihood": [255, 0, 128] * 4}
    kinds = Features(image=Image(), label=ClassLabel(names=list(CLASSES)), pii_likelihood=Value("uint8"))
    return Dataset.from_dict(rows, features=kinds)


def pair_rows() -> Dataset:
    return Dataset.from_dict({"prompt": [f"about {name}:" for name in NAMES], "completion": TEXTS[:10]})


def make_setup(task: str, tokenizer) -> Setup:
    torch.manual_seed(3)
    size = len(tokenizer)
    if task == "text-generation":
        student = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=256))
        return Setup(tiny_model(size, seed=2), student, tokenizer, Dataset.from_dict({"text": TEXTS[:20]}))
    if task == "fill-mask":
        tokenizer = masked_tokenizer(tokenizer)
        models = (bert(BertForMaskedLM, size + 1), distilbert(DistilBertForMaskedLM, size + 1))
        return Setup(*models, tokenizer, Dataset.from_dict({"text": TEXTS[:20]}))
    if task == "text2text-generation":
        special = {"pad_token_id": 2, "eos_token_id": 1, "bos_token_id": 0, "decoder_start_token_id": 2}
        sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        teacher = BartForConditionalGeneration(
            BartConfig(vocab_size=size, d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, **sizes, **special)
        )
        student = T5ForConditionalGeneration(
            T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, **special)
        )
        return Setup(teacher, student, tokenizer, pair_rows())
    if task == "text-classification":
        options = {"num_labels": 3, **names(CLASSES)}
        teacher = bert(BertForSequenceClassification, size, **options)
        student = distilbert(DistilBertForSequenceClassification, size, **options)
        return Setup(teacher, student, tokenizer, example_rows())
    if task == "token-classification":
        options = {"num_labels": 5, **names(WORDS)}
        teacher = bert(BertForTokenClassification, size, **options)
        student = distilbert(DistilBertForTokenClassification, size, **options)
        return Setup(teacher, student, tokenizer, word_rows())
    options = {"num_labels": 3, **names(CLASSES)}
    sizes = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    teacher = ResNetForImageClassification(ResNetConfig(**sizes, **options))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    student = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, **sizes, **options))
    return Setup(teacher, student, ViTImageProcessor(size={"height": 8, "width": 8}), image_rows())


def trainer_of(task: str, tokenizer, config, *, tagger=TAGGER, **fields) -> PrivateDistillationTrainer:
    """Return the trainer of a task; `config` makes its settings."""
    made = make_setup(task, tokenizer)
    for model in (made.teacher, made.student):
        # Confident, as a trained model is; and without dropout, so that losses can be compared.
        head = model.get_output_embeddings() or next(
            getattr(model, name) for name in ("classifier", "score") if hasattr(model, name)
        )
        with torch.no_grad():
            (head[-1] if isinstance(head, torch.nn.Sequential) else head).weight.mul_(20)
        model.eval()
    extra = {
        name: fields.pop(name)
        for name in (
            "data",
            "student",
            "teacher",
            "eval_dataset",
            "public_model",
            "compute_metrics",
            "teacher_processing_class",
            "peft_config",
            "processing_class",
        )
        if name in fields
    }
    made = made._replace(**{name: extra.pop(name) for name in made._fields if name in extra})
    return PrivateDistillationTrainer(
        made.student,
        config(**fields),
        teacher_model=made.teacher,
        train_dataset=made.data,
        processing_class=made.processing_class,
        tagger=None if task == "image-classification" else tagger,
        **extra,
    )
