"""Any model: families that differ in what their configurations and tokenizers say."""

import copy

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from swingkd import audit_extraction, audit_membership
from swingkd.audit.loading import load_model
from tests.harness import TEXTS

MEMBERS, OTHERS = TEXTS[:10], [text.replace("hello", "hi") for text in TEXTS[10:20]]


@pytest.fixture
def families(tokenizer):
    n = len(tokenizer)
    return {
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=n, n_positions=40, n_embd=16, n_layer=1, n_head=2)),
        "bloom": BloomForCausalLM(BloomConfig(vocab_size=n, hidden_size=16, n_layer=1, n_head=2)),
    }


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_models(families, tokenizer, name, dtype):
    model = families[name].to(dtype)
    with pytest.raises(ValueError, match="Reference 1 says of every record what the audited model says"):
        audit_membership(model, tokenizer, MEMBERS, OTHERS, references=[model], resamples=20, progress=False)
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.5)
    report = audit_membership(model, tokenizer, MEMBERS, OTHERS, references=[other], resamples=20, progress=False)
    assert report["ratio"].auc.value == report["rmia"].auc.value  # of one reference
    found = audit_extraction(model, tokenizer, MEMBERS, unseen=OTHERS, samples=5, limit=3, progress=False)
    assert found.continuation.texts == 10
    assert found.reconstruction.right.n == 3


def test_an_encoder_with_padding_and_texts_longer_than_it_reads(tokenizer, tmp_path):
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        num_labels=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    sides = [
        Dataset.from_dict({"text": [text * 5 for text in side], "label": [i % 2 for i in range(len(side))]})
        for side in (MEMBERS, OTHERS)
    ]
    model = BertForSequenceClassification(config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, own = load_model(str(tmp_path))
    report = audit_membership(loaded, own, *sides, resamples=20, progress=False)
    assert [result.attack for result in report.results] == ["loss", "entropy"]
    config = copy.deepcopy(config)
    config.num_labels = 3
    with pytest.raises(ValueError, match="A reference or shadow has 3 classes, the model 2"):
        audit_membership(model, tokenizer, *sides, references=[BertForSequenceClassification(config)], progress=False)
    with pytest.raises(ValueError, match="BertForMaskedLM gives logits of shape"):
        audit_membership(BertForMaskedLM(config), tokenizer, *sides, progress=False)


def test_an_image_classifier_is_loaded_by_what_it_is(tmp_path):
    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    model, processor = load_model(str(tmp_path))
    assert type(model) is type(AutoModelForImageClassification.from_pretrained(tmp_path))
    assert processor.size == {"height": 8, "width": 8}
