"""GGUF files load by name, and become models that can be trained and saved."""

import json
import shutil

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from typer.testing import CliRunner

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer, RuleTagger, student_from
from swingkd.audit.loading import load_model
from swingkd.cli import app
from swingkd.models import loading
from swingkd.models.architectures import architecture
from swingkd.models.loading import load_pretrained, load_tokenizer
from tests.harness import TEXTS, tiny_model


@pytest.fixture(scope="module")
def path(tmp_path_factory, tokenizer):
    """A tiny Llama with the tests' tokenizer, as llama.cpp keeps them."""
    model, file = (
        tiny_model(len(tokenizer), hidden=32, num_hidden_layers=2),
        tmp_path_factory.mktemp("gguf") / "tiny.gguf",
    )
    config, writer = model.config, gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    vocabulary = tokenizer.get_vocab()
    writer.add_tokenizer_model("gpt2")
    # Where it is missing, transformers adds one that the model does not know.
    tokens = sorted(vocabulary, key=vocabulary.get)
    writer.add_token_list(["<|endoftext|>" if token == tokenizer.eos_token else token for token in tokens])
    writer.add_token_types([1] * len(vocabulary))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    for name in ("bos", "eos"):
        getattr(writer, f"add_{name}_token_id")(getattr(tokenizer, f"{name}_token_id"))
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, tensor in model.state_dict().items():
        if name.startswith("model.layers."):
            _, _, layer, *rest = name.removesuffix(".weight").split(".")
            name = f"blk.{layer}.{names['.'.join(rest)]}.weight"
        else:
            known = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
            name = f"{known[name.removesuffix('.weight')]}.weight"
        writer.add_tensor(name, tensor.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(file)


def test_a_file_is_a_model_like_any_other(path, tokenizer, tmp_path):
    model, read = load_pretrained(AutoModelForCausalLM, path), load_tokenizer(path)
    assert read(TEXTS[0])["input_ids"][-8:] == tokenizer(TEXTS[0])["input_ids"][-8:]
    assert model.dtype == torch.float32
    model.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert architecture(path).kind.endswith("ForCausalLM")
    assert type(load_model(path)[0]) is LlamaForCausalLM
    assert student_from(model, 1).config.num_hidden_layers == 1


@pytest.mark.parametrize("how", ["by name", "by options"])
def test_a_student_from_a_file(path, texts, how, tmp_path):
    load_pretrained(AutoModelForCausalLM, path).save_pretrained(tmp_path / "teacher")
    folder, _, name = path.rpartition("/")
    args = PrivateDistillationConfig(
        str(tmp_path / "out"),
        max_steps=2,
        report_to=[],
        use_cpu=True,
        max_length=64,
        disable_tqdm=True,
        start_from_teacher=True,
        model_init_kwargs={"gguf_file": name} if how == "by options" else None,
        protection="noise",
    )
    trainer = PrivateDistillationTrainer(
        folder if how == "by options" else path,
        args,
        teacher_model=str(tmp_path / "teacher"),
        train_dataset=texts,
        tagger=RuleTagger(),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    assert LlamaForCausalLM.from_pretrained(tmp_path / "student").config.num_hidden_layers == 2


def test_what_is_missing_is_named(path, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        load_pretrained(AutoModelForCausalLM, str(tmp_path / "nowhere" / "model.gguf"))
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"swingkd\[gguf\]"):
        load_pretrained(AutoModelForCausalLM, path)
    with pytest.raises(ImportError, match=r"swingkd\[gguf\]"):
        load_tokenizer(path)


def test_a_tokenizer_from_a_file_is_saved_and_loaded_again(path, tmp_path):
    """transformers #31630: what was saved could not be loaded."""
    read = load_tokenizer(path)
    read.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert [again(text)["input_ids"] for text in TEXTS[:5]] == [read(text)["input_ids"] for text in TEXTS[:5]]
    assert again.all_special_ids == read.all_special_ids


def test_the_command_line_reads_it_by_name(path, tmp_path):
    """As teacher and as student; what is written is a folder like any other."""
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    other = shutil.copy(path, tmp_path / "student.gguf")
    words = ["distill", "--teacher", path, "--student", str(other), "--data", str(tmp_path / "notes.jsonl")]
    settings = ["max_steps=1", "max_length=32", "use_cpu=true", "report_to=[]", "start_from_teacher=true"]
    words += [word for setting in settings for word in ("--set", setting)]
    result = CliRunner().invoke(app, [*words, "--plain", "--output-dir", str(tmp_path / "student")])
    assert result.exit_code == 0, result.output
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "student"), LlamaForCausalLM)
