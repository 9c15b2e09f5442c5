"""The fast path in the trainer: it equals the plain one on every kind of head, and says why where it is not used."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from swingkd import PrivateDistillationTrainer, RuleTagger
from swingkd.models.head import Head, check_readable
from tests.harness import tiny_model

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": 256,
    "pad_token_id": 2,
}
FAMILIES = {
    "plain": lambda v: tiny_model(v, seed=1),
    "tied": lambda v: GPT2LMHeadModel(GPT2Config(vocab_size=v, n_embd=16, n_layer=1, n_head=2, n_positions=256)),
    "soft-capped": lambda v: Gemma2ForCausalLM(Gemma2Config(vocab_size=v, **SIZES, final_logit_softcapping=1.5)),
    "scaled": lambda v: CohereForCausalLM(CohereConfig(vocab_size=v, **SIZES, logit_scale=0.25)),
    "divided": lambda v: GraniteForCausalLM(GraniteConfig(vocab_size=v, **SIZES, logits_scaling=4.0)),
    "biased": lambda v: PhiForCausalLM(PhiConfig(vocab_size=v, **SIZES)),
    "padded": lambda v: tiny_model(v + 7, seed=1),
}


@pytest.fixture
def step(teacher, tokenizer, texts, config):
    """A function that returns the loss and the gradients of one batch, on the fast path or the plain one."""

    def step(model, fused, peft_config=None, **fields):
        torch.manual_seed(0)
        trainer = PrivateDistillationTrainer(
            copy.deepcopy(model),
            config(fused_loss=fused, loss_memory=1, **fields),
            teacher_model=teacher,
            train_dataset=texts,
            processing_class=tokenizer,
            tagger=RuleTagger(),
            peft_config=peft_config,
        )
        trainer.model.eval()  # the same for both: no dropout
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        assert trainer.distillation.fused is fused
        return loss.detach(), {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}

    return step


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fast_path_is_the_plain_one(step, tokenizer, teacher, family):
    torch.manual_seed(3)
    model = FAMILIES[family](len(tokenizer)).double()
    teacher.double()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        plain, fused = (step(model, fused, protection="noise", hidden_weight=0.3) for fused in (False, True))
    torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_checkpointed_layers_and_adapters(step, student, teacher, beta):
    student.double()
    teacher.double()
    options = {"gradient_checkpointing": True, "beta": beta, "protection": "noise"}
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    for peft_config in (None, adapter):
        plain, fused = (step(student, fused, peft_config, **options) for fused in (False, True))
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-11)


def test_mixed_precision_is_near_and_multiplies_in_bfloat16(step, student, monkeypatch):
    exact_loss, exact = step(student, True, protection="noise")
    kinds = set()
    linear = torch.nn.functional.linear
    monkeypatch.setattr("swingkd.models.head.F.linear", lambda x, w, b: kinds.add(w.dtype) or linear(x, w, b))
    loss, gradients = step(student, True, protection="noise", bf16=True)
    assert torch.bfloat16 in kinds
    torch.testing.assert_close(loss, exact_loss, rtol=2e-2, atol=0)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert (gradient - exact[name]).norm() < 0.1 * exact[name].norm()


def test_a_frozen_head_gets_no_gradient(step, student):
    _, gradients = step(student, True, LoraConfig(r=2, target_modules=["q_proj"]))
    assert gradients
    assert all("lora" in name for name in gradients)


def test_no_logits_are_made(make_trainer, student, teacher):
    seen = []
    for model in (student, teacher):
        model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.numel()))
    trainer = make_trainer()
    seen.clear()  # the check of the heads compares a few real logits
    trainer.train()
    assert seen
    assert not any(seen)


@pytest.fixture
def make_trainer(student, teacher, tokenizer, texts, config):
    def make(student=student, teacher=teacher, peft_config=None, **fields):
        return PrivateDistillationTrainer(
            student,
            config(protection="noise", **fields),
            teacher_model=teacher,
            train_dataset=texts,
            processing_class=tokenizer,
            tagger=RuleTagger(),
            peft_config=peft_config,
        )

    return make


def test_an_adapter_on_the_head_is_refused_with_the_reason(make_trainer):
    with pytest.warns(
        UserWarning, match=r"output head of the student model: its output head is a peft.*with an adapter on it"
    ):
        trainer = make_trainer(peft_config=LoraConfig(r=2, target_modules=["lm_head"]))
    assert not trainer.distillation.fused
    trainer.train()


def test_a_model_that_does_more_to_its_logits_falls_back(make_trainer, tokenizer):
    model = GraniteForCausalLM(GraniteConfig(vocab_size=len(tokenizer), **SIZES, logits_scaling=4.0))
    model.register_forward_hook(lambda module, inputs, out: out.__setitem__("logits", out.logits.abs()) or out)
    for role in ("student", "teacher"):
        with pytest.warns(UserWarning, match=f"{role} model: it does more to its logits") as caught:
            trainer = make_trainer(**{role: model})
        assert len([w for w in caught if "output head" in str(w.message)]) == 1
        assert trainer.distillation.fused is (role == "teacher")
        trainer.train()
        trainer.evaluate(trainer.train_dataset)


def test_a_head_that_cannot_be_read_says_why(student):
    student.lm_head.weight.requires_grad_(False)
    student.lm_head.weight.data = student.lm_head.weight.data.to(torch.int8)
    with pytest.raises(ValueError, match=r"holds torch.int8"):
        check_readable(student, 10)


def test_a_head_is_cut_to_the_vocabulary(student):
    assert Head.of(student, 11).weight.shape[0] == 11
