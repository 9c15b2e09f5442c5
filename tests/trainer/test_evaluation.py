"""Evaluation and prediction as `Trainer` has them: own metrics, no labels, batches apart, and what is best."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertForSequenceClassification, BertForTokenClassification, EarlyStoppingCallback

from swingkd import CanarySet, PrivacyAuditCallback, PrivateDistillationTrainer
from swingkd.trainer.metrics import least_is_best
from tests.harness import TEXTS, bert

CLASSES = {"text": TEXTS[:9], "label": [0, 1, 2, 0, 1, 2, 0, -100, -100]}
WORDS = {"tokens": [text.split() for text in TEXTS[:9]]}
WORDS["ner_tags"] = [[i % 3 for i in range(len(row))] for row in WORDS["tokens"]]


@pytest.fixture
def lm(student, teacher, tokenizer, texts, config):
    def make(callbacks=(), compute_metrics=None, preprocess=None, **fields):
        rows = fields.pop("rows", texts)
        return PrivateDistillationTrainer(
            student,
            config(**({"protection": "none"} | fields)),
            teacher_model=teacher,
            train_dataset=rows,
            eval_dataset=rows.select(range(10)),
            processing_class=tokenizer,
            callbacks=list(callbacks),
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=preprocess,
        )

    return make


@pytest.fixture
def classifier(tokenizer, config):
    def make(kind=BertForSequenceClassification, rows=CLASSES, **fields):
        given = {
            name: fields.pop(name) for name in ("compute_metrics", "preprocess_logits_for_metrics") if name in fields
        }
        torch.manual_seed(0)
        models = [bert(kind, len(tokenizer), num_labels=3) for _ in range(2)]
        return PrivateDistillationTrainer(
            models[0],
            config(**({"protection": "none", "per_device_eval_batch_size": 4} | fields)),
            teacher_model=models[1],
            train_dataset=Dataset.from_dict(rows),
            eval_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            **given,
        )

    return make


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("perplexity", True),
        ("eval_perplexity_flagged", True),
        ("eval_mine_perplexity_unflagged", True),
        ("loss", True),
        ("soft_loss", True),
        ("eval_audit_exposure_x10", True),
        ("audit_auc_loss", True),
        ("audit_tpr_at_1_fpr_zlib", True),
        ("accuracy", False),
        ("macro_f1", False),
        ("f1", False),
        ("recall", False),
    ],
)
def test_the_direction_of_every_metric(config, name, least):
    assert least_is_best(name) is least
    best = {"eval_strategy": "steps", "save_strategy": "steps", "load_best_model_at_end": True}
    assert config(metric_for_best_model=name, **best).greater_is_better is not least
    assert config(metric_for_best_model=name, greater_is_better=True, **best).greater_is_better is True
    args = config(**best)
    args.metric_for_best_model = name
    args.greater_is_better = None
    assert args.settled().greater_is_better in ((False,) if least else (None, True))


@pytest.mark.parametrize("metric", ["perplexity", "perplexity_flagged", "distillation_loss"])
def test_the_best_checkpoint_is_that_with_the_least_perplexity(lm, metric, texts):
    half = Dataset.from_dict(
        {"input_ids": [[5, 6, 7, 8]] * 20, "labels": [[5, 6, 7, 8]] * 20, "pii_likelihood": [[0, 255, 0, 0]] * 20}
    )
    trainer = lm(
        rows=half,
        protection="drop",
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        max_steps=4,
        learning_rate=0.3,
        metric_for_best_model=metric,
        load_best_model_at_end=True,
    )
    trainer.train()
    told = [logs[f"eval_{metric}"] for logs in trainer.state.log_history if f"eval_{metric}" in logs]
    assert trainer.state.best_metric == min(told)
    assert trainer.state.best_metric != max(told)
    assert trainer.evaluate()[f"eval_{metric}"] == pytest.approx(min(told))


def test_training_stops_on_a_leak(lm, texts):
    """The audit's numbers are among the metrics, and are measured before the callback that stops."""
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=3, count=2, repetitions=(1,), seed=0)
    leak = "audit_exposure_x1"
    trainer = lm(
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1)],
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        max_steps=6,
        metric_for_best_model=leak,
        load_best_model_at_end=True,
    )
    audit = PrivacyAuditCallback(trainer, canaries=canaries, exposure_references=50)
    leaks = iter([3.0, 2.0, 4.0, 1.0, 1.0, 1.0])
    audit.measure = lambda: {leak: next(leaks)}
    trainer.add_callback(audit)
    trainer.train()
    assert trainer.state.global_step == 3, "it had to stop where the leak rose"
    assert trainer.state.best_metric == 2.0
    assert [logs[leak] for logs in trainer.state.log_history if leak in logs] == [3.0, 2.0, 4.0]


def test_several_evaluation_sets_are_audited_once_a_step(lm, texts):
    trainer = lm(eval_strategy="steps", eval_steps=1, max_steps=2)
    trainer.eval_dataset = {"one": trainer.eval_dataset, "two": trainer.eval_dataset}
    canaries = CanarySet.generate("the pin of {name} is {secret}", length=3, count=2, repetitions=(1,), seed=0)
    audit = PrivacyAuditCallback(trainer, canaries=canaries, exposure_references=50)
    measured = []
    audit.measure = lambda: measured.append(1) or {"audit_exposure_x1": 1.0}
    trainer.add_callback(audit)
    trainer.train()
    assert len(measured) == 2


def accuracy(prediction):
    logits, labels = prediction.predictions, prediction.label_ids
    guessed = logits if logits.ndim == labels.ndim else logits.argmax(-1)
    right, known = guessed[:, :-1] == labels[:, 1:], labels[:, 1:] != -100
    return {"accuracy": float(right[known].mean())}


def test_a_language_models_own_metrics_stand_beside_ours(lm, student, texts):
    plain = lm().evaluate()
    trainer = lm(compute_metrics=accuracy, preprocess=lambda logits, labels: logits.argmax(-1))
    found = trainer.evaluate()
    assert found["eval_perplexity"] == pytest.approx(plain["eval_perplexity"])
    batch = trainer.data_collator(list(trainer.eval_dataset))
    with torch.no_grad():
        guessed = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
    labels = batch["labels"][:, 1:]
    known = labels != -100
    assert found["eval_accuracy"] == pytest.approx(float((guessed[:, :-1] == labels)[known].double().mean()))
    without = lm(compute_metrics=accuracy).evaluate()
    assert without["eval_accuracy"] == pytest.approx(found["eval_accuracy"])


def test_predictions_of_a_language_model_are_its_logits(lm, texts):
    trainer = lm()
    output = trainer.predict(texts.select(range(5)))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(5)])
    with torch.no_grad():
        expected = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    np.testing.assert_allclose(output.predictions, expected, atol=1e-5)
    np.testing.assert_array_equal(output.label_ids, batch["labels"])
    assert trainer.predict(texts.select(range(5)), metric_key_prefix="mine").metrics["mine_perplexity"] > 1


@pytest.mark.parametrize("fields", [{"eval_do_concat_batches": False}, {"batch_eval_metrics": True}])
@pytest.mark.parametrize("kind", ["lm", "text", "words"])
def test_batches_apart_tell_the_same(lm, classifier, kind, fields):
    make = {
        "lm": lambda **more: lm(per_device_eval_batch_size=4, **more),
        "text": classifier,
        "words": lambda **more: classifier(BertForTokenClassification, WORDS, **more),
    }[kind]
    expected, found = make().evaluate(), make(**fields).evaluate()
    names = {name for name in expected if not name.endswith(("runtime", "second", "time"))}
    assert names - {"epoch"} == {n for n in found if not n.endswith(("runtime", "second", "time"))} - {"epoch"}
    for name in names:
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name


def test_own_metrics_batch_by_batch(classifier):
    seen = []

    def counted(prediction, compute_result):
        seen.append(len(prediction.predictions))
        return {"rows": sum(seen)} if compute_result else None

    assert classifier(batch_eval_metrics=True, compute_metrics=counted).evaluate()["eval_rows"] == 9
    assert seen == [4, 4, 1]


@pytest.mark.parametrize("kind", ["text", "words"])
def test_the_evaluation_loss_does_not_move_with_the_batch_size(classifier, kind):
    """In float64, over all answers at once; two rows of the nine have no label, and rows differ in length."""
    rows = (
        CLASSES if kind == "text" else WORDS | {"tokens": [row[: 2 + i % 6] for i, row in enumerate(WORDS["tokens"])]}
    )
    if kind == "words":
        rows = rows | {
            "ner_tags": [tags[: len(row)] for tags, row in zip(rows["ner_tags"], rows["tokens"], strict=True)]
        }
    model = BertForSequenceClassification if kind == "text" else BertForTokenClassification
    losses = []
    for size in (1, 4, 9):
        trainer = classifier(model, rows, per_device_eval_batch_size=size, alpha=0.0)
        losses.append(trainer.evaluate()["eval_loss"])
    batch = trainer.data_collator(list(trainer.eval_dataset))
    student = trainer.model.double().eval()
    with torch.no_grad():
        logits = student(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    known = batch["labels"] != -100
    expected = torch.nn.functional.cross_entropy(logits[known], batch["labels"][known])
    assert losses == pytest.approx([float(expected)] * 3, rel=1e-5)


@pytest.mark.parametrize("kind", ["text", "words"])
def test_rows_without_labels_are_predicted(classifier, kind):
    trainer = classifier() if kind == "text" else classifier(BertForTokenClassification, WORDS)
    bare = trainer_rows = Dataset.from_dict(CLASSES if kind == "text" else WORDS)
    bare = trainer_rows.remove_columns("label" if kind == "text" else "ner_tags")
    output = trainer.predict(bare)
    assert output.label_ids is None
    assert "test_loss" not in output.metrics
    np.testing.assert_allclose(output.predictions, trainer.predict(trainer_rows).predictions, atol=1e-6)
    assert "eval_loss" not in trainer.evaluate(bare)


def test_only_the_loss_is_told_where_that_is_asked_for(classifier):
    trainer = classifier(prediction_loss_only=True)
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    assert trainer.predict(Dataset.from_dict(CLASSES)).predictions is None


def test_an_evaluation_that_was_broken_off_leaves_nothing_behind(lm, monkeypatch):
    trainer = lm(batch_eval_metrics=True, per_device_eval_batch_size=4)
    expected = trainer.evaluate()["eval_perplexity"]
    whole = trainer._losses
    calls = []

    def broken(*args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("stop")
        return whole(*args)

    monkeypatch.setattr(trainer, "_losses", broken)
    with pytest.raises(RuntimeError):
        trainer.evaluate()
    monkeypatch.undo()
    assert trainer.evaluate()["eval_perplexity"] == pytest.approx(expected)
