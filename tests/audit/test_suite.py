import json

import pytest
from datasets import Dataset
from transformers import LlamaConfig, LlamaForSequenceClassification, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from swingkd import (
    CanarySet,
    PrivacyArguments,
    PrivacyAuditCallback,
    PrivateDistillationTrainer,
    RuleTagger,
    audit_model,
    private,
)
from swingkd.audit.suite import audit_canary_membership
from swingkd.trainer.dp_trainer import DPTrainer
from tests.audit.test_membership_attacks import train
from tests.harness import TEXTS, tiny_model


@pytest.fixture(scope="module")
def canaries():
    return CanarySet.generate(
        "the pin of {name} is {secret}", length=3, count=60, repetitions=(2,), controls=0, assign="coin", seed=4
    )


@pytest.fixture(scope="module")
def model(tokenizer, canaries):
    texts = [c.text for c in canaries.canaries if c.inserted]
    return train(tiny_model(len(tokenizer), hidden=64), tokenizer, texts, steps=100)


def test_a_coin_decides_and_the_attacks_find_out(model, tokenizer, canaries):
    report = audit_model(model, tokenizer, canaries=canaries, exposure_canaries=3, progress=False)
    assert report.membership.keys() == {"canary_secrets x2", "canary_records x2"}
    inserted = sum(c.inserted for c in canaries.canaries)
    for kind, membership in report.membership.items():
        assert membership["loss"].members == inserted
        assert membership["loss"].auc.low > 0.7
        assert report.epsilon[kind]["loss"].epsilon > 0.5
        assert report.epsilon[kind]["loss"].delta == 1e-5
    assert len(report.exposure.canaries) == 6  # three in, three out
    said = json.dumps(report.to_dict()) + repr(report)
    assert not any(c.secret in said for c in canaries.canaries if c.inserted and len(c.secret) > 3)
    assert not any(c.prefix in said for c in canaries.canaries)


def test_an_untrained_model_proves_nothing(tokenizer, canaries):
    model = tiny_model(len(tokenizer))
    for part in ("secrets", "records"):
        report = audit_canary_membership(model, tokenizer, canaries, 2, part, progress=False)
        assert report["loss"].auc.low < 0.5 < report["loss"].auc.high
        assert report.epsilon("loss", delta=1e-5).epsilon < 0.5


def test_what_cannot_be_audited_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="There is nothing to audit with"):
        audit_model(model, tokenizer)
    with pytest.raises(ValueError, match="There are no nonmembers"):
        audit_model(model, tokenizer, members=TEXTS)
    with pytest.raises(ValueError, match="need private text"):
        audit_model(model, tokenizer, members=TEXTS[:5], nonmembers=["a b"], unseen_text=TEXTS)
    with pytest.raises(ValueError, match="References are for membership"):
        audit_model(model, tokenizer, private_text=TEXTS, references=[model])
    few = CanarySet.generate("{name}: {secret}", count=3, repetitions=(1,), controls=0, assign="coin", seed=1)
    with pytest.raises(ValueError, match="an audit needs at least 4 on each side"):
        audit_model(model, tokenizer, canaries=few)
    config = LlamaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=2)
    with pytest.raises(ValueError, match="LlamaForSequenceClassification writes no text"):
        audit_model(LlamaForSequenceClassification(config), tokenizer, private_text=TEXTS)


@pytest.mark.parametrize("kind", [PrivateDistillationTrainer, Trainer, SFTTrainer, private(SFTTrainer)])
def test_the_callback_measures_while_a_model_learns(tmp_path, tokenizer, student, teacher, config, kind):
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=2, count=3, repetitions=(20,), seed=1)
    data = canaries.insert(Dataset.from_dict({"text": TEXTS}))
    if kind is PrivateDistillationTrainer:
        args = config(max_steps=20, eval_strategy="steps", eval_steps=10)
        trainer = PrivateDistillationTrainer(
            student,
            args,
            teacher_model=teacher,
            train_dataset=data,
            eval_dataset=data.select(range(4)),
            tagger=RuleTagger(),
            processing_class=tokenizer,
        )
    else:
        rows = [{"input_ids": ids, "labels": ids} for ids in tokenizer(data["text"][:])["input_ids"]]
        arguments, more = (TrainingArguments, {}) if kind is Trainer else (SFTConfig, {"bf16": False})
        args = arguments(
            str(tmp_path / "out"),
            **more,
            max_steps=40,
            eval_strategy="steps",
            eval_steps=20,
            use_cpu=True,
            report_to=[],
            learning_rate=1e-2,
            per_device_train_batch_size=1,
            disable_tqdm=True,
        )
        rows = Dataset.from_list(rows)
        promise = {"privacy": PrivacyArguments(noise_multiplier=0.5)} if issubclass(kind, DPTrainer) else {}
        given = {"train_dataset": rows, "eval_dataset": rows.select(range(2)), "processing_class": tokenizer}
        trainer = kind(student, args, **given, **promise)
    callback = PrivacyAuditCallback(
        trainer,
        canaries=canaries,
        members=TEXTS[:10],
        nonmembers=["hello ann " * 3, "my pin is none."],
        exposure_references=50,
    )
    trainer.add_callback(callback)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "audit_exposure_x20" in entry]
    assert len(logged) == 2
    assert {"audit_exposure_controls", "audit_auc_loss", "audit_auc_min_k++"} <= logged[0].keys()
    assert logged[1]["audit_exposure_x20"] == pytest.approx(callback.measure()["audit_exposure_x20"])


def test_the_callback_says_what_it_lacks(tmp_path, student):
    trainer = Trainer(student, TrainingArguments(tmp_path, use_cpu=True, report_to=[]))
    with pytest.raises(ValueError, match="nothing to audit with"):
        PrivacyAuditCallback(trainer)
    with pytest.raises(ValueError, match="records of both kinds"):
        PrivacyAuditCallback(trainer, members=TEXTS)
    with pytest.raises(ValueError, match="no processing_class"):
        PrivacyAuditCallback(trainer, members=TEXTS, nonmembers=["a b"])
