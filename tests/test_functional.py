"""The loss as a function: it is the trainer's, and the three examples of docs/plug_in.md run."""

import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from swingkd import distillation_loss, teacher_logits
from swingkd.targets import MollifiedTarget, NoisedTarget, NoiseKey, Soften, TemperatureSettings
from tests.harness import TEXTS, batch_of, bert, names, other_tokenizer, tiny_model
from tests.tasks.setups import WORDS
from tests.tasks.test_tasks import NAMES

PAGE = (Path(__file__).parents[1] / "docs" / "plug_in.md").read_text()


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("protection", ["noise", "drop"])
def test_it_is_the_trainers_loss(build, task, protection):
    trainer = build(task, protection=protection, alpha=0.3, beta=0.5, fused_loss=False)
    trainer.model.eval()
    batch = batch_of(trainer)
    expected = trainer.compute_loss(trainer.model, dict(batch))
    logits = trainer.model(**trainer.task.call(batch, trainer.model)).logits
    found = distillation_loss(
        logits,
        teacher_logits(trainer.teacher_model, batch, task),
        batch,
        protection=trainer.protection,
        alpha=0.3,
        beta=0.5,
        temperatures=trainer.args.temperature_settings,
        task=task,
        end=getattr(trainer.processing_class, "eos_token_id", None),
    )
    torch.testing.assert_close(found, expected)


def test_mollified_targets_need_public_logits(build):
    trainer = build("text-generation", protection="noise")
    batch = batch_of(trainer)
    taught = teacher_logits(trainer.teacher_model, batch)
    public = torch.zeros_like(taught)
    loss = distillation_loss(taught, taught, batch, protection=MollifiedTarget(0.1, 2.0), public_logits=public)
    assert loss > 0


def test_a_teacher_with_a_tokenizer_of_its_own(build, tokenizer):
    own = other_tokenizer()
    kind = type(build("token-classification").teacher_model)
    teacher = bert(kind, len(own), num_labels=5, **names(WORDS))
    trainer = build(
        "token-classification", teacher=teacher, teacher_processing_class=own, protection="drop", fused_loss=False
    )
    trainer.model.eval()
    batch = batch_of(trainer)
    logits = trainer.model(**trainer.task.call(batch, trainer.model)).logits
    task = "token-classification"
    found = distillation_loss(
        logits,
        teacher_logits(teacher, batch, task),
        batch,
        protection=trainer.protection,
        temperatures=trainer.args.temperature_settings,
        task=task,
    )
    torch.testing.assert_close(found, trainer.compute_loss(trainer.model, dict(batch)))
    with pytest.raises(ValueError, match="The teacher's logits have the shape"):
        distillation_loss(logits, logits, batch, protection=trainer.protection, task=task)


def test_what_is_private_needs_a_protection(build):
    trainer = build("text-generation", protection="noise")
    batch = batch_of(trainer)
    logits = teacher_logits(trainer.teacher_model, batch)
    with pytest.raises(ValueError, match="needs a protection"):
        distillation_loss(logits, logits, batch)
    with pytest.raises(ValueError, match=r"The logits have the shape"):
        distillation_loss(logits[:, 1:], logits, batch, protection=Soften(0))


def test_the_pages_examples(tmp_path, monkeypatch, tokenizer):
    pytest.importorskip("trl", reason="needs TRL: pip install -e '.[dev]'")
    monkeypatch.chdir(tmp_path)
    for name, seed in (("teacher", 1), ("student", 2)):
        tiny_model(len(tokenizer), seed=seed).save_pretrained(name)
        tokenizer.save_pretrained(name)
    Dataset.from_dict({"text": TEXTS}).to_json("private.jsonl")
    namespace: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for i, block in enumerate(blocks):
        if i:
            before = namespace["student"].lm_head.weight.detach().clone()
        exec(compile(block, "plug_in.md", "exec"), namespace)
        if i:
            assert not torch.equal(before, namespace["student"].lm_head.weight)


def test_the_table_of_trls_arguments():
    from swingkd import PrivateDistillationConfig

    gkd = pytest.importorskip("trl.experimental.gkd", reason="needs TRL with GKD").GKDConfig
    theirs = set(gkd.__dataclass_fields__)
    for name in (
        "temperature",
        "beta",
        "lmbda",
        "seq_kd",
        "max_new_tokens",
        "disable_dropout",
        "teacher_model_init_kwargs",
    ):
        assert name in theirs
        assert f"`{name}`" in PAGE
    for name in (
        "temperature",
        "beta",
        "lmbda",
        "max_new_tokens",
        "teacher_model_init_kwargs",
        "max_length",
        "packing",
        "completion_only_loss",
    ):
        assert name in PrivateDistillationConfig.__dataclass_fields__
        assert name in theirs
    assert gkd.__dataclass_fields__["temperature"].default == 0.9
    assert gkd.__dataclass_fields__["beta"].default == 0.5
    assert PrivateDistillationConfig.__dataclass_fields__["temperature"].default == 2.0


def test_the_same_draws_as_a_run_that_goes_on(tmp_path):
    one, two = (NoisedTarget(NoiseKey.load_or_create(tmp_path / "noise_key")) for _ in range(2))
    assert one.key == two.key
    assert TemperatureSettings().maximum == 16.0
