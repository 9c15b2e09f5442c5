"""Every task: the loss against a naive re-derivation, training, evaluation, resuming, saving, DP-SGD."""

import copy
import shutil

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    TrainerState,
)

from swingkd import PrivateDistillationTrainer, RuleTagger
from swingkd.data import DataSettings
from swingkd.data.columns import IGNORE
from swingkd.tasks import TASKS, Reading, SequenceClassification, TokenClassification, task_of
from swingkd.tasks.examples import first_tokens, word_offsets
from tests.harness import batch_of, bert, distilbert, names, other_tokenizer
from tests.tasks.setups import CLASSES, WORDS, example_rows, make_setup

NAMES = [task.name for task in TASKS]


def answers(task, model, batch):
    """The logits of the answers, as somebody would get them who never read our code."""
    labels = batch["labels"]
    if task == "text-generation":
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        return logits[labels[:, 1:] != IGNORE], labels[:, 1:][labels[:, 1:] != IGNORE]
    if task == "image-classification":
        return model(pixel_values=batch["pixel_values"]).logits, labels
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if task == "text2text-generation":
        inputs["labels"] = labels
    logits = model(**inputs).logits
    return logits[labels != IGNORE], labels[labels != IGNORE]


def likelihood_of(task, batch):
    at = batch["labels"] != IGNORE
    return batch["pii_likelihood"][at]


def naive_loss(student, teacher, labels, likelihood, *, alpha, base, maximum):
    total = torch.zeros((), dtype=torch.float64)
    for z_s, z_t, label, s in zip(student, teacher, labels, likelihood, strict=True):
        s = 1.0 if s >= 0.5 else 0.0  # a likelihood is a probability: all of the protection, or none
        private = s > 0
        t = maximum if private else base
        t_student, weight = (1.0, 1.0) if private else (base, base**2)
        q, p = (z_t / t).log_softmax(-1), (z_s / t_student).log_softmax(-1)
        soft = weight * (q.exp() * (q - p)).sum()
        hard = -z_s.log_softmax(-1)[label]
        total = total + alpha * soft + (1 - alpha) * (1 - s) * hard
    return total


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("fused", [False, True])
def test_loss_is_the_formula(build, task, fused):
    trainer = build(
        task, protection="none", alpha=0.7, temperature=3.0, max_temperature=5.0, noise_support=0, fused_loss=fused
    )
    assert trainer.task.name == task
    trainer.model.eval()
    batch = batch_of(trainer)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    z_s, labels = answers(task, trainer.model.double(), double(batch))
    z_t, _ = answers(task, trainer.teacher_model.double(), double(batch))
    likelihood = likelihood_of(task, double(batch))
    assert (likelihood > 0).any()
    assert (likelihood == 0).any()
    expected = naive_loss(z_s, z_t, labels, likelihood, alpha=0.7, base=3.0, maximum=5.0) / len(labels)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-5, atol=2e-5)


def double(batch):
    return {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("protection", ["noise", "population", "drop"])
def test_the_secret_answer_is_not_taught(build, task, protection):
    """What a private answer teaches is not what the teacher says there, nor the label."""
    trainer = build(task, protection=protection, alpha=0.5, population_min_spans=2, max_temperature=1000.0)
    trainer.model.eval()
    batch = batch_of(trainer)
    labels = batch["labels"].clone()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    sure = (labels != IGNORE) & (batch["pii_likelihood"] == 1)
    assert sure.any()
    if not trainer.task.predicts_tokens:
        # Other labels at surely private answers change nothing.  (Labels of tokens are the context as well.)
        changed = dict(batch)
        changed["labels"] = torch.where(sure, (labels + 1) % 3, labels)
        torch.testing.assert_close(trainer.compute_loss(trainer.model, changed), loss)
    # What the student is told there is not what the teacher says: it has lost the teacher's own guess, or all of it.
    tokens = trainer.distillation.tokens(batch)
    temperatures = trainer.args.temperature_settings.for_tokens(tokens.likelihood)
    targets, _ = trainer.distillation.targets(batch, tokens, temperatures.teacher, lambda: trainer.protection)
    rows = (tokens.likelihood == 1).nonzero()[:, 0]
    told, said = targets.private(rows), targets.teacher.plain(rows, None)
    if protection == "drop":
        assert torch.isinf(told).all()
    else:
        moved = (told.exp() - said.exp()).abs().amax(-1).mean()
        # Averages over texts that are alike are near each of them in models this small.
        assert moved > (0.05 if protection == "noise" else 0)


@pytest.mark.parametrize("task", NAMES)
def test_trains_evaluates_saves_and_resumes(build, task, tmp_path):
    def run(**fields):
        trainer = build(
            task, max_steps=3, save_strategy="steps", save_steps=2, seed=5, population_min_spans=1, **fields
        )
        return trainer

    trainer = run()
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    after = trainer.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    metrics = trainer.evaluate(trainer.train_dataset)
    wanted = {"eval_perplexity", "eval_perplexity_flagged"} if trainer.task.predicts_tokens else {"eval_accuracy"}
    assert wanted <= metrics.keys()
    trainer.save_model(str(tmp_path / "saved"))
    after = {name: value.clone() for name, value in after.items()}
    again = trainer.task.auto_model.from_pretrained(tmp_path / "saved")
    assert task_of(tmp_path / "saved").name == task
    assert type(again) is type(trainer.model)
    # Killed after the second of three steps.
    shutil.rmtree(tmp_path / "out" / "checkpoint-3")
    resumed = run()
    resumed.train(resume_from_checkpoint=True)
    for name, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, after[name], rtol=0, atol=0)


@pytest.mark.parametrize("task", [name for name in NAMES if name != "text-generation"])
def test_differentially_private(build, task):
    options = {"peft_config": LoraConfig(target_modules=["q", "v"])} if task == "text2text-generation" else {}
    trainer = build(
        task,
        noise_multiplier=1.0,
        protection="none",
        per_device_train_batch_size=4,
        target_delta=1e-3,
        max_steps=2,
        **options,
    )
    trainer.train()
    assert trainer.ledger.epsilon() > 0


@pytest.mark.parametrize("task", NAMES)
def test_no_row_changes_what_another_costs(build, task):
    """What DP-SGD clips is a row's own: it may not depend on who else is in the batch, or on how far it is padded."""
    trainer = build(task, protection="none", fused_loss=False, max_length=64)
    trainer.model.eval()
    rows = [trainer.train_dataset[i] for i in range(6)]
    together = trainer._row_losses(rows)
    alone = torch.cat([trainer._row_losses([row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_masks_of_an_evaluation_are_always_the_same(build):
    trainer = build("fill-mask", protection="none", learning_rate=0.0)
    first = trainer.evaluate(trainer.train_dataset)["eval_perplexity"]
    trainer.callback_handler.on_epoch_begin(trainer.args, TrainerState(epoch=3.0), trainer.control)
    assert trainer.evaluate(trainer.train_dataset)["eval_perplexity"] == first
    assert trainer.data_collator.visit == 3


def test_masks_follow_the_seed_and_evaluations_do_not(build):
    one, two = (build("fill-mask", protection="none", seed=seed) for seed in (1, 2))
    rows = [one.train_dataset[i] for i in range(4)]
    assert not torch.equal(one.data_collator(rows)["labels"], two.data_collator(rows)["labels"])
    for trainer in (one, two):
        trainer.data_collator.visit = trainer.data_collator.EVALUATION
    assert torch.equal(one.data_collator(rows)["labels"], two.data_collator(rows)["labels"])
    with pytest.raises(ValueError, match=r"dataloader_persistent_workers=True keeps the masks of the first epoch"):
        build("fill-mask", protection="none", dataloader_persistent_workers=True, dataloader_num_workers=1)


@pytest.mark.parametrize("task", ["text-generation", "text2text-generation"])
def test_the_loss_of_an_evaluation_does_not_depend_on_the_batch(build, task):
    found = [build(task, protection="none", per_device_eval_batch_size=size) for size in (1, 8)]
    one, many = (trainer.evaluate(trainer.train_dataset) for trainer in found)
    assert one["eval_loss"] == pytest.approx(many["eval_loss"], rel=1e-4)
    assert one["eval_loss"] == pytest.approx(one["eval_distillation_loss"])


@pytest.mark.parametrize("task", NAMES)
def test_predict_takes_rows_as_they_are(build, tokenizer, task):
    rows = make_setup(task, tokenizer).data
    trainer = build(task, protection="none")
    found = trainer.predict(rows)
    assert len(found.predictions) == len(rows)
    assert ("test_perplexity" in found.metrics) is trainer.task.predicts_tokens


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("task", ["text-classification", "token-classification", "image-classification"])
def test_rows_may_have_a_format(build, tokenizer, task, kind):
    rows = make_setup(task, tokenizer).data
    formatted, plain = (
        build(task, data=data, protection="drop").train_dataset for data in (rows.with_format(kind), rows)
    )
    assert formatted["labels"][:] == plain["labels"][:]


def test_images_may_be_augmented_on_the_fly(build, tokenizer):
    made = make_setup("image-classification", tokenizer)
    seen = []

    def augmented(batch):
        pixels = made.processing_class(batch["image"], return_tensors="np")["pixel_values"]
        seen.append(len(pixels))
        return batch | {"pixel_values": list(1.0 - pixels)}

    trainer = build("image-classification", data=made.data.with_transform(augmented), protection="drop")
    row = trainer.train_dataset[0]
    plain = made.processing_class(row["image"], return_tensors="np")["pixel_values"][0]
    batch = trainer.data_collator([row])
    assert np.allclose(batch["pixel_values"][0], 1.0 - plain)
    assert batch["labels"].tolist() == [made.data[0]["label"]]
    seen.clear()
    trainer.train()
    assert seen


@pytest.mark.parametrize("name", ["img", "label"])
def test_a_transform_reads_what_is_there(build, tokenizer, name):
    rows = make_setup("image-classification", tokenizer).data
    rows = rows.rename_column("image", "img") if name == "img" else rows
    with pytest.raises(ValueError, match=f"reads a column '{name}' that is not there"):
        build("image-classification", data=rows.with_transform(lambda batch: batch | {"x": batch[name]}))


@pytest.mark.parametrize("lost", ["pii_likelihood", "labels"])
def test_a_transform_hands_on_what_is_private(build, tokenizer, lost):
    rows = make_setup("image-classification", tokenizer).data
    with pytest.raises(ValueError, match=f"does not return {lost} as stored"):
        build(
            "image-classification",
            data=rows.with_transform(lambda batch: {k: v for k, v in batch.items() if k != lost}),
        )


def test_what_is_dropped_must_not_be_all(build):
    rows = Dataset.from_dict({"text": ["my pin is 4711"] * 4, "label": [0, 1, 2, 0]})
    with pytest.raises(ValueError, match="nothing would be learnt"):
        build("text-classification", data=rows, protection="drop")
    build("text-classification", data=rows, protection="noise")


@pytest.mark.parametrize("task", ["text-generation", "text-classification", "text2text-generation"])
def test_text_that_is_shown_is_the_text_that_was_tagged(build, tokenizer, task):
    rows = make_setup(task, tokenizer).data.with_transform(lambda batch: batch)
    with pytest.raises(ValueError, match="other text than was tagged"):
        build(task, data=rows)


def test_what_is_done_where_nobody_says(build):
    wanted = {"image-classification": "drop"}
    for task in NAMES:
        assert build(task, population_min_spans=1).args.protection == wanted.get(task, "surrogate")
    rows = build("text-generation", protection="drop").train_dataset
    assert build("text-generation", data=rows, tagger=None).args.protection == "population"
    assert build("text-generation", noise_multiplier=1.0, target_delta=1e-3).args.protection == "surrogate"


def test_mollify_needs_only_a_public_classifier(build, tokenizer):
    public = distilbert(type(make_setup("text-classification", tokenizer).student), len(tokenizer), num_labels=3)
    trainer = build("text-classification", public_model=public)
    assert trainer.args.protection == "mollify"
    trainer.train()


# --- masked language models ------------------------------------------------------------------------------------------


def test_masks_are_drawn_anew_and_the_context_is_the_texts_own(build):
    trainer = build("fill-mask", protection="noise")
    rows = [trainer.train_dataset[i] for i in range(4)]
    torch.manual_seed(0)
    one, again = trainer.data_collator(rows), trainer.data_collator(rows)
    assert torch.equal(one["input_ids"], again["input_ids"])
    trainer.callback_handler.on_epoch_begin(trainer.args, TrainerState(epoch=1.0), trainer.control)
    two = trainer.data_collator(rows)
    assert not torch.equal(one["labels"], two["labels"])
    for batch in (one, two):
        masked = batch["labels"] != IGNORE
        assert torch.equal(batch["labels"][masked], batch["unmasked_ids"][masked])
        assert not (batch["unmasked_ids"][masked] == 2).any()
        assert not torch.equal(batch["input_ids"], batch["unmasked_ids"])
        found = trainer.distillation.tokens(batch)
        rows_, columns = masked.nonzero(as_tuple=True)
        for i, (r, c) in enumerate(zip(rows_.tolist(), columns.tolist(), strict=True)):
            before = batch["unmasked_ids"][r, max(c - 2, 0) : c].tolist()
            assert found.context[i].tolist() == [-1] * (2 - len(before)) + before


# --- classifiers of texts --------------------------------------------------------------------------------------------


def prepared(tokenizer, rows, task=None, model=None, **settings):
    model = model or bert(
        type(make_setup("text-classification", tokenizer).teacher), len(tokenizer), num_labels=3, **names(CLASSES)
    )
    reading = Reading(tokenizer, RuleTagger(), DataSettings(**settings), model)
    return (task or SequenceClassification()).prepare(rows, reading)


def test_an_example_is_as_private_as_its_most_private_token(tokenizer):
    rows = prepared(tokenizer, example_rows())
    assert [value > 0 for value in rows["pii_likelihood"]] == [True] * 10 + [False] * 10
    mean = prepared(tokenizer, example_rows(), example_likelihood="mean")
    assert all(0 < a < b for a, b in zip(mean["pii_likelihood"][:10], rows["pii_likelihood"][:10], strict=True))
    assert rows["labels"][:4] == [0, 1, 2, 0]


def test_what_is_cut_off_does_not_count(tokenizer):
    assert not any(prepared(tokenizer, example_rows(), max_length=3)["pii_likelihood"])


def test_copies_of_an_example_share_its_draw(tokenizer):
    twice = Dataset.from_dict({"text": ["my pin is 4711", "My pin is 4711", "my pin is 4712"], "label": [0, 1, 1]})
    rows = prepared(tokenizer, twice)
    assert rows["pii_span"][0] == rows["pii_span"][1] != rows["pii_span"][2]


def test_a_teacher_with_a_tokenizer_of_its_own(build):
    own = other_tokenizer()
    teacher = bert(type(build("text-classification").teacher_model), len(own), num_labels=3, **names(CLASSES))
    trainer = build(
        "text-classification",
        teacher=teacher,
        teacher_processing_class=own,
        protection="none",
        alpha=1.0,
        temperature=1.0,
        max_temperature=1.0,
        noise_support=0,
    )
    batch = batch_of(trainer)
    teacher.eval()
    texts = [*example_rows()["text"][:6], *example_rows()["text"][-6:]]
    encoded = own(texts, padding=True, return_tensors="pt")
    q = teacher(**{k: encoded[k] for k in ("input_ids", "attention_mask")}).logits.log_softmax(-1)
    trainer.model.eval()
    p = answers("text-classification", trainer.model, batch)[0].log_softmax(-1)
    expected = (q.exp() * (q - p)).sum(-1).mean()
    torch.testing.assert_close(trainer.compute_loss(trainer.model, dict(batch)), expected)
    trainer.train()


# --- classifiers of words --------------------------------------------------------------------------------------------


def test_what_the_teacher_alone_sees_is_private_too(build, tokenizer):
    own = other_tokenizer()
    texts = ["zq xw vb nm zq xw vb my pin is 4711"] * 2 + ["zq xw vb nm zq xw vb thank you all"] * 2
    seen = [tokenizer(texts[0], truncation=True, max_length=20)["input_ids"], own(texts[0])["input_ids"]]
    assert "4711" not in tokenizer.decode(seen[0])
    own.model_max_length = tokenizer.model_max_length
    model = build("text-classification").model
    settings = DataSettings(max_length=20)
    longer = copy.deepcopy(tokenizer)
    longer.truncation_side = "left"  # the teacher reads the end, the student the beginning
    rows = SequenceClassification().prepare(
        Dataset.from_dict({"text": texts, "label": [0, 1, 2, 0]}),
        Reading(tokenizer, RuleTagger(), settings, model, teacher_processing_class=longer),
    )
    assert [value > 0 for value in rows["pii_likelihood"]] == [True, True, False, False]


def test_words_with_two_tokenizers_stand_side_by_side(build, tokenizer):
    own = other_tokenizer()
    teacher = bert(type(build("token-classification").teacher_model), len(own), num_labels=5, **names(WORDS))
    trainer = build("token-classification", teacher=teacher, teacher_processing_class=own, max_length=32)
    for row in trainer.train_dataset:
        labels, taught = ([x for x in row[name] if x != IGNORE] for name in ("labels", "teacher_labels"))
        assert labels == taught
        assert len(row["input_ids"]) <= 32
        assert len(row["teacher_input_ids"]) <= 32
    trainer.train()


def test_the_first_token_of_a_word_is_asked(tokenizer):
    model = bert(
        type(make_setup("token-classification", tokenizer).teacher), len(tokenizer), num_labels=5, **names(WORDS)
    )
    rows = Dataset.from_list([{"tokens": ["my", "pin", "is", "4711", "bob"], "ner_tags": [0, 0, 0, 3, -100]}])
    row = prepared(tokenizer, rows, TokenClassification(), model, dilation=0)[0]
    at = np.flatnonzero(np.array(row["labels"]) != IGNORE)
    assert [row["labels"][i] for i in at] == [0, 0, 0, 3]
    assert [row["pii_likelihood"][i] > 0 for i in at] == [False, False, False, True]
    assert row["pii_group"][at[3]] > 0


def test_word_offsets_and_first_tokens():
    words = ["ab", "c", "", "def"]
    assert word_offsets(words).tolist() == [[0, 2], [3, 4], [5, 5], [6, 9]]
    # Special token, "a", "b", " c" with its blank, " d", "ef".
    offsets = np.array([[0, 0], [0, 1], [1, 2], [2, 4], [5, 7], [7, 9]])
    assert first_tokens(words, offsets).tolist() == [1, 3, -1, 4]
    assert first_tokens(words, offsets[:3]).tolist() == [1, -1, -1, -1]


def test_entities_are_counted_as_seqeval_does(build):
    trainer = build(
        "token-classification", protection="none", alpha=0.0, max_steps=40, learning_rate=5e-2, tagger=None
    )
    trainer.train()
    metrics = trainer.evaluate(trainer.train_dataset)
    assert metrics["eval_f1"] == pytest.approx(1.0)
    assert {"eval_accuracy", "eval_precision", "eval_recall"} <= metrics.keys()


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_a_label_that_the_model_does_not_have(build):
    with pytest.raises(ValueError, match=r"\(text of 7 characters\) is none of the model's 3 classes"):
        build("text-classification", data=Dataset.from_dict({"text": ["my pin is 4711"], "label": ["furious"]}))


def test_classes_in_another_order(build):
    rows = example_rows().cast_column("label", ClassLabel(names=["sad", "angry", "calm"]))
    with pytest.raises(ValueError, match=r"Class 0 is 'calm' to the model and 'sad' in the data.*align_labels"):
        build("text-classification", data=rows)


def test_other_classes_than_the_teacher(build, tokenizer):
    kind = type(make_setup("text-classification", tokenizer).teacher)
    with pytest.raises(ValueError, match="teacher has 4 classes, the student 3"):
        build("text-classification", teacher=bert(kind, len(tokenizer), num_labels=4))
    turned = bert(kind, len(tokenizer), num_labels=3, **names(CLASSES[::-1]))
    with pytest.raises(ValueError, match="Class 0 is 'calm' to the student and 'sad' to the teacher"):
        build("text-classification", teacher=turned)
    several = bert(kind, len(tokenizer), num_labels=3, problem_type="multi_label_classification")
    with pytest.raises(ValueError, match="classes of which one is right"):
        build("text-classification", teacher=several)


def test_a_student_for_another_task(build, tokenizer):
    with pytest.raises(ValueError, match=r"DistilBertForTokenClassification.*AutoModelForSequenceClassification"):
        build("text-classification", student=make_setup("token-classification", tokenizer).student)


def test_a_model_that_tells_no_task(tokenizer, tmp_path):
    from transformers import BertModel

    bare = bert(BertModel, len(tokenizer))
    with pytest.raises(ValueError, match=r"BertModel, which tells no task. Set task"):
        task_of(bare)
    assert task_of(bare, "fill-mask").name == "fill-mask"
    with pytest.raises(ValueError, match="task='poetry' is not known"):
        task_of(bare, "poetry")


def test_classes_in_another_order_where_the_data_knows_fewer(build):
    rows = Dataset.from_dict({"text": ["my pin is 4711"] * 4, "label": [0, 1, 0, 1]})
    with pytest.raises(ValueError, match=r"Class 0 is 'calm' to the model and 'angry' in the data"):
        build("text-classification", data=rows.cast_column("label", ClassLabel(names=["angry", "calm"])))


@pytest.mark.parametrize("labels", [["calm", "sad"] * 4, [0, 2] * 4])
def test_tokenised_rows_have_labels_by_name_or_number(build, tokenizer, labels):
    ids = [tokenizer(f"my pin is {i}")["input_ids"] for i in range(8)]
    rows = Dataset.from_dict({"input_ids": ids, "label": labels, "pii_likelihood": [255, 0] * 4})
    trainer = build("text-classification", data=rows.with_format("torch"), tagger=None, protection="drop")
    assert trainer.train_dataset["labels"][:2] == [0, 2]
    trainer.train()
    assert "eval_accuracy" in trainer.evaluate(rows)
    wrong = rows.remove_columns("label").add_column("label", [7] * 8)
    with pytest.raises(ValueError, match=r"\(7\) is none of the model's 3 classes"):
        build("text-classification", data=wrong, tagger=None, protection="drop")


def test_a_completion_ends_and_may_be_empty(build):
    rows = Dataset.from_dict({"prompt": ["say my pin", "say nothing"], "completion": ["it is 4711", ""]})
    trainer = build("text2text-generation", data=rows, population_min_spans=1, per_device_train_batch_size=1)
    assert [row[-1] for row in trainer.train_dataset["labels"]] == [1, 1]
    trainer.train()


def test_rows_without_words(build):
    with pytest.raises(ValueError, match="no list of words"):
        build("token-classification", data=Dataset.from_dict({"tokens": [["a", None]], "ner_tags": [[0, 0]]}))


def test_positions_that_begin_behind_the_padding(build, tokenizer):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"max_position_embeddings": 66, "pad_token_id": 2, "num_labels": 3}
    config = RobertaConfig(vocab_size=len(tokenizer), **sizes, **names(CLASSES))
    long = Dataset.from_dict({"text": ["my pin is 4711 " * 100] * 8, "label": [0, 1] * 4})
    trainer = build(
        "text-classification",
        student=RobertaForSequenceClassification(config),
        data=long,
        max_length=None,
        protection="noise",
    )
    assert trainer.args.max_length == 63
    trainer.train()


def test_an_adapter_of_a_classifier_has_its_head(build, tmp_path):
    for task in ("text-classification", "image-classification"):
        wanted = ["q_lin"] if task == "text-classification" else ["q_proj"]
        trainer = build(task, peft_config=LoraConfig(target_modules=wanted), max_steps=3, learning_rate=0.1)
        trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
        assert any("classifier" in name for name in trained), task
        trainer.train()
        trainer.save_model(str(tmp_path / task))
        assert any("classifier" in name for name in load_file(tmp_path / task / "adapter_model.safetensors")), task


def test_no_labels(build):
    with pytest.raises(ValueError, match=r"none of them is 'label' or 'labels'.*dataset_label_field"):
        build("text-classification", data=Dataset.from_dict({"text": ["my pin is 4711"]}))


def test_own_metrics_read_the_logits(build):
    trainer = build(
        "text-classification", compute_metrics=lambda prediction: {"shape": prediction.predictions.shape[1]}
    )
    assert trainer.evaluate(trainer.train_dataset)["eval_shape"] == 3


@pytest.mark.parametrize("task", ["fill-mask", "text2text-generation"])
def test_where_answers_are_tokens_two_tokenizers_are_for_causal_models(build, task):
    with pytest.raises(ValueError, match=f"for classifiers and causal language models; with {task}"):
        build(task, teacher_processing_class=other_tokenizer())


def test_hints_need_tokens(build):
    with pytest.raises(ValueError, match="hidden_weight > 0 matches the hidden states of tokens"):
        build("text-classification", hidden_weight=1.0)


def test_hints_of_masked_and_sequence_models(build):
    for task in ("fill-mask", "text2text-generation"):
        build(task, hidden_weight=0.1, population_min_spans=1).train()


def test_an_image_tagger_makes_no_sense(tokenizer, config):
    made = make_setup("image-classification", tokenizer)
    with pytest.raises(ValueError, match="rows are images"):
        PrivateDistillationTrainer(
            made.student,
            config(),
            teacher_model=made.teacher,
            train_dataset=made.data,
            processing_class=made.processing_class,
            tagger=RuleTagger(),
        )


def test_models_by_name(build, tmp_path, tokenizer, config):
    made = make_setup("text-classification", tokenizer)
    made.teacher.save_pretrained(tmp_path / "teacher")
    made.student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    trainer = PrivateDistillationTrainer(
        str(tmp_path / "student"),
        config(),
        teacher_model=str(tmp_path / "teacher"),
        train_dataset=made.data,
        tagger=RuleTagger(),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")


def test_rows_are_as_long_as_the_models_allow(build, tokenizer):
    trainer = build("text-classification", max_length=None)
    assert trainer.args.max_length == 256  # what the tiny models allow, where 1024 is the default
    long = Dataset.from_dict({"text": ["my pin is 4711 " * 100] * 4, "label": [0, 1, 2, 0]})
    trainer = build("text-classification", max_length=None, data=long, protection="noise")
    assert {len(row) for row in trainer.train_dataset["input_ids"]} == {256}
