"""Sentences that begin alike are scored as each alone would be."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from swingkd.audit.candidates import candidate_scores
from swingkd.audit.scores import score_texts
from tests.harness import TEXTS, tiny_model


def gpt2(size):
    return GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=64))


def mamba(size):
    return MambaForCausalLM(MambaConfig(vocab_size=size, hidden_size=16, num_hidden_layers=1, state_size=4))


@pytest.mark.parametrize("make", [tiny_model, gpt2, mamba])
def test_scores_are_those_of_each_sentence(tokenizer, make):
    torch.manual_seed(0)
    model = make(len(tokenizer))
    groups = [
        [f"hello {name}, my pin is {pin}. thank you" for pin in (1, 22, 333, "bob", "")]
        for name in ("ann", "bob " * 9)
    ]
    groups += [["one", "another one"], [TEXTS[0]], [], [TEXTS[0] * 9 + str(i) for i in range(3)]]
    found = candidate_scores(model, tokenizer, groups, max_length=60, progress=False)
    for texts, scores in zip(groups, found, strict=True):
        expected = score_texts(model, tokenizer, texts, max_length=60, progress=False).log_likelihood if texts else []
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_numbers_that_are_none_are_refused(tokenizer):
    model = tiny_model(len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        candidate_scores(model, tokenizer, [["hello ann", "hello bob"]], progress=False)
