"""Models whose decoders, positions or experts are described in another place than most have them."""

import pytest
import torch
from datasets import Dataset
from transformers import (
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from swingkd import PrivateDistillationTrainer, RuleTagger
from swingkd.tasks.seq2seq import decoder_inputs
from swingkd.trainer.check_models import longest_row, positions
from tests.harness import TEXTS, tiny_model

SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
SIZES |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64}
SIZES |= {"pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 1, "dropout": 0.0}
SIZES |= {"attention_dropout": 0.0, "activation_dropout": 0.0}


def m2m100(size, seed):
    torch.manual_seed(seed)
    return M2M100ForConditionalGeneration(
        M2M100Config(vocab_size=size, **SIZES, encoder_layerdrop=0, decoder_layerdrop=0)
    )


def blenderbot(size, seed):
    torch.manual_seed(seed)
    return BlenderbotForConditionalGeneration(BlenderbotConfig(vocab_size=size, **SIZES))


@pytest.mark.parametrize("make", [m2m100, pytest.param(blenderbot, marks=pytest.mark.slow)])
def test_decoders_that_shift_in_their_forward_only(config, tokenizer, make):
    """The hard loss is transformers' own; training and evaluation run."""
    rows = Dataset.from_dict({"prompt": TEXTS[:12], "completion": [text.split(",")[1] for text in TEXTS[:12]]})
    student, teacher = make(len(tokenizer), 1), make(len(tokenizer), 2)
    given = {"teacher_model": teacher, "train_dataset": rows, "processing_class": tokenizer, "tagger": RuleTagger()}
    plain = PrivateDistillationTrainer(student, config(protection="none", alpha=0.0, max_length=40), **given)
    batch = plain.data_collator([plain.train_dataset[i] for i in range(6)])
    batch["pii_likelihood"] = torch.zeros_like(batch["pii_likelihood"])
    student.eval()
    expected = student(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss
    torch.testing.assert_close(plain.compute_loss(student, batch), expected, rtol=1e-5, atol=1e-6)
    trainer = PrivateDistillationTrainer(student, config(max_length=40, population_min_spans=1), **given)
    trainer.train()
    assert trainer.evaluate(rows)["eval_perplexity"] > 1


def test_what_a_decoder_reads_is_what_it_says_one_place_later(tokenizer):
    model = m2m100(len(tokenizer), 0)
    labels = torch.tensor([[5, 6, 1, -100], [7, 1, -100, -100]])
    assert decoder_inputs(labels, model).tolist() == [[1, 5, 6, 1], [1, 7, 1, 2]]


def test_limits_in_a_nested_configuration(config, tokenizer):
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 1, "intermediate_size": 32, "head_dim": 8, "max_position_embeddings": 48}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision |= {"image_size": 8, "patch_size": 4}
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4))
    assert positions(model) == 48
    assert longest_row(config(max_length=None), [model], tokenizer) == 48


def test_as_many_positions_as_one_likes(config):
    size = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32}
    model = XLNetForSequenceClassification(XLNetConfig(vocab_size=60, **size))
    assert positions(model) is None
    assert longest_row(config(max_length=None), [model, tiny_model(60)]) == 256
