"""The configurations for large models: valid fields, models on the meta device, and the script on tiny ones."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from swingkd.trainer.check_models import check_adapter
from tests.harness import TEXTS, tiny_model

RECIPES = Path(__file__).parents[2] / "recipes"
# As published; billions of weights, of the teacher and of the student.
QWEN = {"tie_word_embeddings": False, "max_position_embeddings": 32768}
SIZES = {
    "Qwen/Qwen2.5-7B-Instruct": (
        Qwen2Config(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            **QWEN,
        ),
        7.6,
    ),
    "Qwen/Qwen2.5-1.5B-Instruct": (
        Qwen2Config(
            vocab_size=151936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        1.5,
    ),
    "Qwen/Qwen2.5-0.5B-Instruct": (
        Qwen2Config(
            vocab_size=151936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        0.49,
    ),
    "meta-llama/Llama-3.1-8B-Instruct": (
        LlamaConfig(
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            tie_word_embeddings=False,
        ),
        8.0,
    ),
    "meta-llama/Llama-3.2-3B-Instruct": (
        LlamaConfig(
            vocab_size=128256,
            hidden_size=3072,
            intermediate_size=8192,
            num_hidden_layers=28,
            num_attention_heads=24,
            num_key_value_heads=8,
            head_dim=128,
            tie_word_embeddings=True,
        ),
        3.2,
    ),
    "meta-llama/Llama-3.2-1B-Instruct": (
        LlamaConfig(
            vocab_size=128256,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=64,
            tie_word_embeddings=True,
        ),
        1.24,
    ),
}


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("swing_llm_run", RECIPES / "swing_llm" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(name: str):
    config, billions = SIZES[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert model.num_parameters() / 1e9 == pytest.approx(billions, rel=0.05)
    return model


@pytest.mark.parametrize("name", ["qwen", "llama"])
def test_large_models_fit_their_configuration(name, script, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: True)
    config = yaml.safe_load((RECIPES / "swing_llm" / f"{name}.yaml").read_text())
    args = script.arguments(config | {"output_dir": str(tmp_path), "training": config["training"] | {"use_cpu": True}})
    assert args.model_init_kwargs == {"dtype": "bfloat16"}
    teacher, public, student = (built(config[role]) for role in ("teacher", "public_model", "student"))
    for model in (teacher, public, student):
        assert args.max_length <= model.config.max_position_embeddings or name == "llama"
    adapter = script.adapter(config)
    check_adapter(adapter)
    with torch.device("meta"):
        adapted = get_peft_model(student, adapter)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    modules = config["lora"]["target_modules"]
    assert trained > 0
    assert all(any(f"{module}.lora_A" in key for key, _ in adapted.named_parameters()) for module in modules)
    # What fully sharded training wraps.
    assert student._no_split_modules


def test_the_sharded_configuration_is_one_of_accelerates():
    config = load_config_from_file(str(RECIPES / "accelerate_configs" / "fsdp2.yaml"))
    assert config.distributed_type == "FSDP"
    assert config.fsdp_config["fsdp_version"] == 2


@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_the_script_on_tiny_models(family, script, tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    tokenizer = copy.deepcopy(tokenizer)
    if family == "llama":  # as published: no padding token, one that is kept for it
        tokenizer.add_tokens("<|finetune_right_pad_id|>", special_tokens=True)
        tokenizer.pad_token = None
    for role, seed in (("teacher", 1), ("student", 2), ("public", 3)):
        tiny_model(len(tokenizer), seed=seed).save_pretrained(role)
        tokenizer.save_pretrained(role)
    for name in ("chats_train", "chats_evaluation"):
        Dataset.from_dict({"text": TEXTS}).to_json(f"{name}.jsonl")
    config = yaml.safe_load((RECIPES / "swing_llm" / f"{family}.yaml").read_text())
    config |= {"teacher": "teacher", "student": "student", "public_model": "public"}
    small = dict.fromkeys(("dataset_num_proc", "model_init_kwargs", "teacher_model_init_kwargs"))
    small |= {"max_length": 32, "max_steps": 2, "bf16": False, "use_cpu": True, "report_to": []}
    small |= {"gradient_accumulation_steps": 1}
    config["training"] |= small
    out = script.main(config)
    assert (out / "adapter_model.safetensors").exists()
    assert "distilled from `teacher`" in (out / "README.md").read_text()
    script.main(config)  # nothing is left to do, and nothing is lost
