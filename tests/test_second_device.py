"""Training, audits and DP steps on a second device: a tensor that is made on the CPU there is an error."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from swingkd import (
    CanarySet,
    Folds,
    MemorisationTagger,
    OutOfFoldTeacher,
    PrivateDistillationTrainer,
    RarityTagger,
    audit_extraction,
    audit_model,
    cache_teacher,
    measure_exposure,
    sample_transfer,
)
from swingkd.vision import (
    ClassifierArguments,
    ClassifierTraining,
    DataFreeArguments,
    DataFreeDistillation,
    DynamicSampleSelection,
    ImageGenerator,
    Labels,
    RandomizedTeacher,
)
from tests.harness import TEXTS, coloured, flat, small, tiny_model
from tests.second_device import AWAY, second_device
from tests.tasks.setups import TAGGER, trainer_of
from tests.trainer.test_out_of_fold import LORA
from tests.vision.test_guidance import arguments

TASKS = (
    "text-generation",
    "fill-mask",
    "text2text-generation",
    "text-classification",
    "token-classification",
    "image-classification",
)

# Fused optimizers know the devices that torch lists for them.
THERE = {"use_cpu": False, "optim": "adamw_torch"}


@pytest.fixture(params=["pretended", pytest.param("accelerator", marks=pytest.mark.gpu)])
def away(request, monkeypatch, fresh_accelerate):
    """A second device, which Accelerate and the Trainer take for theirs: one that is pretended, or a real one."""
    if request.param == "accelerator":
        if not torch.accelerator.is_available():
            pytest.skip("there is no accelerator")
        yield torch.device(torch.accelerator.current_accelerator().type, 0)
        return
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", str(AWAY))
    with second_device() as device:
        yield device


@pytest.fixture
def canaries():
    return CanarySet.generate(
        "the pin of {name} is {secret}", length=3, count=16, repetitions=(2,), controls=0, assign="coin", seed=4
    )


def on(trainer: PrivateDistillationTrainer) -> set[torch.device]:
    """Train, and tell where the student is."""
    before = [parameter.detach().cpu().clone() for parameter in trainer.model.parameters()]
    assert np.isfinite(trainer.train().training_loss)
    after = [parameter.detach().cpu() for parameter in trainer.model.parameters()]
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    return {parameter.device for parameter in trainer.model.parameters()}


def test_what_the_second_device_refuses(away):
    """What a real one refuses: the pretended one is no stricter and no laxer where it matters."""
    there, here = torch.arange(6.0, device=away), torch.arange(6.0)
    assert there.device == away
    assert (there * 2).sum().item() == 30
    assert torch.equal(there.cpu(), here)
    assert there[torch.tensor([1, 2])].device == there[[1, 2]].device == away
    assert (there * torch.tensor(2.0)).device == away
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(RuntimeError, match=r"same device|on the same device as"):
        here[there.long()]
    with pytest.raises(RuntimeError, match=r"device type for generator"):
        torch.randn(2, device=away, generator=torch.Generator())
    with pytest.raises((RuntimeError, TypeError), match="numpy"):
        there.numpy()
    layer = torch.nn.Linear(6, 2).to(away)
    layer(there).sum().backward()
    assert layer.weight.grad.device == away


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("protection", [None, "noise"])
def test_a_task_trains_there(away, build, task, protection):
    trainer = build(task, protection=protection, **THERE)
    assert trainer.args.device == away
    assert on(trainer) == {away}


@pytest.mark.parametrize("protection", ["population", "mollify", "surrogate", "drop", "none"])
def test_a_protection_trains_and_is_evaluated_there(away, tokenizer, config, protection):
    public = {"public_model": tiny_model(len(tokenizer), seed=5)} if protection == "mollify" else {}
    text = Dataset.from_dict({"text": TEXTS[:20]})
    fields = THERE | {"protection": protection, "eval_dataset": text, "hidden_weight": 0.5}
    trainer = trainer_of("text-generation", tokenizer, config, **fields, **public)
    assert on(trainer) == {away}
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_the_numbers_are_those_of_the_cpu(tokenizer, config, student, teacher, texts):
    """The second device computes what the CPU does: protected targets and noise included."""

    def trained(**fields):
        args = config(protection="noise", optim="sgd", **fields)
        trainer = PrivateDistillationTrainer(
            copy.deepcopy(student), args, teacher_model=copy.deepcopy(teacher), train_dataset=texts,
            processing_class=tokenizer, tagger=TAGGER,
        )  # fmt: skip
        trainer.train()
        return [parameter.detach().cpu() for parameter in trainer.model.parameters()]

    here = trained()
    with pytest.MonkeyPatch.context() as patch, second_device():
        patch.setenv("ACCELERATE_TORCH_DEVICE", str(AWAY))
        there = trained(use_cpu=False)
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_cached_teacher_trains_there(away, tokenizer, config, student, teacher, texts):
    args = config(**THERE)
    cached = cache_teacher(teacher, args, texts, tokenizer, tagger=TAGGER, top_k=8)
    trainer = PrivateDistillationTrainer(student, args, train_dataset=cached, processing_class=tokenizer)
    assert on(trainer) == {away}


@pytest.mark.parametrize("adapters", [True, False])
def test_teachers_out_of_fold_answer_there(away, tokenizer, config, adapters):
    if adapters:
        models = get_peft_model(tiny_model(len(tokenizer), seed=1), LORA, adapter_name="fold-0")
        models.add_adapter("fold-1", LORA)
    else:
        models = [tiny_model(len(tokenizer), seed=number) for number in range(2)]
    text = Dataset.from_dict({"text": TEXTS[:20]})
    teacher = OutOfFoldTeacher(models, Folds.of(text, 2, near_duplicates=False))
    trainer = trainer_of(
        "text-generation", tokenizer, config, alpha=1.0, protection="none", teacher=teacher, data=text, tagger=None,
        **THERE,
    )  # fmt: skip
    assert on(trainer) == {away}
    # They write there too, and are asked what they know by heart.
    teacher.to(away)
    assert all(np.isfinite(nats).all() for nats in MemorisationTagger.of_folds(teacher, tokenizer).nats(TEXTS[:4]))
    drawn, _ = sample_transfer(teacher, tokenizer, 4, max_new_tokens=8, least_tokens=1, seed=0, progress=False)
    assert set(drawn["teacher_fold"]) == {0, 1}


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=2, target_modules=["q_proj"])])
def test_a_step_with_differential_privacy(away, tokenizer, config, student, teacher, texts, peft_config):
    args = config(protection="none", noise_multiplier=0.7, per_device_train_batch_size=12, **THERE)
    trainer = PrivateDistillationTrainer(
        student, args, teacher_model=teacher, train_dataset=texts, processing_class=tokenizer, peft_config=peft_config
    )
    assert on(trainer) == {away}
    assert trainer.ledger.epsilon() > 0


def test_a_model_is_audited_there(away, tokenizer, canaries):
    model = tiny_model(len(tokenizer)).to(away)
    reference = tiny_model(len(tokenizer), seed=3).to(away)
    exposure = measure_exposure(model, tokenizer, canaries, progress=False)
    here = tiny_model(len(tokenizer))
    for one, other in zip(
        exposure.canaries, measure_exposure(here, tokenizer, canaries, progress=False).canaries, strict=True
    ):
        assert one.exposure == pytest.approx(other.exposure, abs=1e-3)
    report = audit_model(
        model, tokenizer, canaries=canaries, members=TEXTS[:12], nonmembers=[text.upper() for text in TEXTS[:12]],
        references=[reference], exposure_canaries=2, progress=False,
    )  # fmt: skip
    assert report.membership
    # A reference, a shadow and the teacher that stand on the processor are scored where the model is, and stay theirs.
    others = [tiny_model(len(tokenizer), seed=number) for number in (7, 8)]
    used = {}
    for name, other in zip(("reference", "teacher"), others, strict=True):
        other.register_forward_pre_hook(lambda module, _, name=name: used.setdefault(name, set()).add(module.device))
    audit_model(
        model, tokenizer, members=TEXTS[:12], nonmembers=[text.upper() for text in TEXTS[:12]], references=others[:1],
        teacher=others[1], progress=False,
    )  # fmt: skip
    assert used == {"reference": {away}, "teacher": {away}}
    assert {other.device for other in others} == {torch.device("cpu")}
    extracted = audit_extraction(
        model, tokenizer, TEXTS[:8], prefix_tokens=4, suffix_tokens=4, samples=8, progress=False
    )
    assert extracted


def test_taggers_and_samples_there(away, tokenizer):
    models = [tiny_model(len(tokenizer), seed=number).to(away) for number in range(2)]
    rare = RarityTagger(models[0], tokenizer)
    rare.calibrate(TEXTS)
    for tagger in (MemorisationTagger(*models, tokenizer), rare):
        assert all(np.isfinite(values).all() for values in tagger.char_likelihood(TEXTS[:4]))
    drawn, _ = sample_transfer(models[0], tokenizer, 8, progress=False, max_new_tokens=8, seed=0)
    assert len(drawn)


@pytest.mark.parametrize("target_epsilon", [None, 8.0])
def test_images_are_learnt_there(away, tmp_path, target_epsilon):
    fields = {
        "epochs": 1,
        "batch_size": 32,
        "progress": False,
        "mixed_precision": "no",
        "channels_last": False,
        "checkpoint_every": 0,
    }
    args = ClassifierArguments(output_dir=str(tmp_path), target_epsilon=target_epsilon, **fields)
    trained = ClassifierTraining(small(norm="group" if target_epsilon else "batch"), coloured(96, seed=0), args=args)
    trained.train()
    assert flat(trained.model).device == away
    assert 0 <= trained.evaluate(coloured(60, seed=1)) <= 1


def test_images_are_chosen_there(away, tmp_path):
    trained = DynamicSampleSelection(small(), Labels(), coloured(96, seed=0), args=arguments(tmp_path))
    trained.train()
    assert flat(trained.model).device == away


def test_images_are_made_there(away, tmp_path):
    args = DataFreeArguments(
        output_dir=str(tmp_path), rounds=1, images_per_round=20, epochs_per_round=1, generator_epochs=1,
        generator_batch_size=10, batch_size=10, progress=False, checkpoint_every=0, mixed_precision="no",
        channels_last=False,
    )  # fmt: skip
    teacher = small(1)
    generator = ImageGenerator(8, channels=3, width=4, latent=6)
    trained = DataFreeDistillation(
        small(), generator, RandomizedTeacher(teacher, 2.0), critic=teacher, classes=3, args=args
    )
    trained.train()
    assert flat(trained.model).device == away
