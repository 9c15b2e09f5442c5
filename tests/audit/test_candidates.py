"""Texts that begin alike are scored, and gone on with, as each alone would be."""

import numpy as np
import pytest
import torch

from swingkd.audit import generation
from swingkd.audit.candidates import candidate_scores
from swingkd.audit.generation import sample_texts
from swingkd.audit.scores import score_texts
from tests.audit.models import bloom, gpt2, lfm2, mamba, mistral
from tests.harness import TEXTS, tiny_model

KINDS = [tiny_model, gpt2, mamba, bloom, mistral, lfm2]


@pytest.mark.parametrize("make", KINDS)
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


@pytest.mark.parametrize("make", KINDS)
def test_a_prompt_that_is_asked_often_is_read_once(tokenizer, make, monkeypatch):
    """What is drawn is what each alone would draw, also where a model's own settings say otherwise."""
    torch.manual_seed(0)
    model = make(len(tokenizer)).eval()
    model.generation_config.num_beams = 2
    model.generation_config.use_cache = model.config.use_cache = False
    prompts = ["hello ann", "my pin is", "hello ann", "hello", "hello ann", "my pin is", "hello bob, how are you"]
    tokens = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, args: tokens.append(args[0].numel()))

    def drawn():
        tokens.clear()
        return sample_texts(model, tokenizer, prompts, max_new_tokens=4, progress=False), sum(tokens)

    texts, fewer = drawn()
    monkeypatch.setattr(generation, "keeps_beginnings", lambda model: False)
    expected, all_of_them = drawn()
    assert texts == expected
    assert (fewer < all_of_them) is (make not in (mamba, lfm2))


def test_numbers_that_are_none_are_refused(tokenizer):
    model = tiny_model(len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        candidate_scores(model, tokenizer, [["hello ann", "hello bob"]], progress=False)
