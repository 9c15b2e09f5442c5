"""The whole call, on models that were really trained."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from swingkd import audit_membership, audit_model, shadow_models
from swingkd.audit.shadows import shadow_halves
from tests.harness import tiny_model

WORDS = "hello pin thank you my is ann bob eve joe kim lea max pia ron sue".split()


def sentences(n, seed=0):
    rng = np.random.default_rng(seed)
    return sorted({" ".join(rng.choice(WORDS, 8)) + f" {rng.integers(10_000)}" for _ in range(n)})


def train(model, tokenizer, texts, steps=60, seed=0):
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = tokenizer(list(texts), return_tensors="pt", padding=True)
    labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def halves():
    texts = sentences(120)
    order = np.random.default_rng(1).permutation(len(texts))
    return [texts[i] for i in order[:60]], [texts[i] for i in order[60:]]


def test_a_model_that_was_trained_on_half_is_found_out(tokenizer, halves):
    members, others = halves
    model = train(tiny_model(len(tokenizer), hidden=32), tokenizer, members)
    reference = train(tiny_model(len(tokenizer), hidden=32), tokenizer, sentences(60, seed=9))
    report = audit_membership(model, tokenizer, members, others, references=[reference], progress=False)
    without_shadows = ["loss", "zlib", "min_k", "min_k++", "ratio", "rmia", "ez", "wbc", "camia", "learned"]
    assert [r.attack for r in report.results] == without_shadows
    for result in report.results:
        assert result.auc.low > 0.7
        if result.attack in ("camia", "learned"):
            assert result.members + result.nonmembers == 60
        else:
            assert (result.members, result.nonmembers) == (60, len(others))
    assert "camia and learned know of half of the records" in report.notes[-1]
    assert report["ratio"].auc.value > 0.9
    assert report.epsilon("loss").epsilon > 0.5
    assert "AUC" in str(report)
    assert not any(text in str(report.to_dict()) + repr(report) for text in members)


def test_an_untrained_model_gives_nothing_away(tokenizer, halves):
    report = audit_membership(tiny_model(len(tokenizer)), tokenizer, *halves, progress=False)
    for result in report.results:
        assert result.auc.low < 0.5 < result.auc.high


def test_shuffled_labels_find_nothing(tokenizer, halves):
    model = train(tiny_model(len(tokenizer), hidden=32), tokenizer, halves[0])
    mixed = np.random.default_rng(0).permutation(halves[0] + halves[1]).tolist()
    report = audit_membership(model, tokenizer, mixed[:60], mixed[60:], progress=False)
    for result in report.results:
        assert result.auc.low < 0.5 < result.auc.high
    assert report.epsilon("loss").epsilon == 0


def test_halves_complement_each_other():
    halves = shadow_halves(6, 101, seed=3)
    assert halves.shape == (6, 101)
    assert (halves.sum(0) == 3).all()
    assert (halves[::2] == ~halves[1::2]).all()
    for count in (0, 2, 5):
        with pytest.raises(ValueError, match=f"{count} shadow models were asked for"):
            shadow_halves(count, 10)


def test_shadows_of_a_whole_pipeline(tokenizer, halves):
    """Teacher and student, trained on the half that the attacker chose."""
    members, others = halves
    records = np.array(members + others)

    def pipeline(inside):
        teacher = train(tiny_model(len(tokenizer), hidden=32), tokenizer, records[inside], steps=40)
        student = tiny_model(len(tokenizer), hidden=32, seed=5)
        rows = tokenizer(records[inside].tolist(), return_tensors="pt", padding=True)
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            with torch.no_grad():
                target = teacher(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits.softmax(-1)
            logits = student(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
            loss = -(target * logits.log_softmax(-1)).sum(-1)
            (loss * rows["attention_mask"]).mean().backward()
            optimizer.step()
        return student.eval()

    target = np.arange(len(records)) < len(members)
    report = audit_membership(
        pipeline(target),
        tokenizer,
        members,
        others,
        progress=False,
        shadows=shadow_models(pipeline, len(records), count=4),
    )
    assert {"lira", "lira_offline"} <= {r.attack for r in report.results}
    assert report["lira"].auc.low > 0.6
    assert report["lira"].auc.value > report["loss"].auc.value - 0.05


def test_a_sequence_classifier(tokenizer, halves):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=3,
    )
    model = LlamaForSequenceClassification(config)
    rng = np.random.default_rng(0)  # labels without any rule: only a memory gets them right
    sides = [Dataset.from_dict({"text": side, "label": rng.integers(0, 3, len(side)).tolist()}) for side in halves]
    batch = tokenizer(sides[0]["text"][:], return_tensors="pt", padding=True)
    labels = torch.tensor(sides[0]["label"][:])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    untrained = audit_membership(model, tokenizer, *sides, progress=False)
    assert untrained["loss"].auc.low < 0.5 < untrained["loss"].auc.high
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    reference = LlamaForSequenceClassification(config)
    report = audit_membership(model, tokenizer, *sides, references=[reference], progress=False)
    assert [r.attack for r in report.results] == ["loss", "entropy", "ratio", "rmia"]
    assert report["loss"].auc.low > 0.7
    # Loss and entropy, example by example, from the definition.
    with torch.no_grad():
        probs = model.eval()(**tokenizer([halves[0][0]], return_tensors="pt")).logits[0].double().softmax(-1)
    assert report.scores["loss"][0][0] == pytest.approx(float(probs[labels[0]].log()), abs=1e-4)
    assert report.scores["entropy"][0][0] == pytest.approx(float((probs * probs.log()).sum()), abs=1e-4)


def test_an_image_classifier(tmp_path):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=2,
    )
    model = ViTForImageClassification(config)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)

    def side(n):
        images = [Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)) for _ in range(n)]
        return Dataset.from_dict({"image": images, "label": rng.integers(0, 2, n).tolist()})

    members, others = side(60), side(60)
    pixels = processor(members["image"][:], return_tensors="pt")["pixel_values"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        model(pixel_values=pixels, labels=torch.tensor(members["label"][:])).loss.backward()
        optimizer.step()
    report = audit_membership(model, processor, members, others, progress=False)
    assert report["loss"].auc.low > 0.6


def test_mistakes_are_named(tokenizer, halves):
    model = tiny_model(len(tokenizer))
    with pytest.raises(ValueError, match="There are no nonmembers"):
        audit_membership(model, tokenizer, halves[0], [], progress=False)
    with pytest.raises(ValueError, match=r"nonmembers\[1\] is the same record as members\[0\]"):
        audit_membership(model, tokenizer, halves[0], [halves[1][0], halves[0][0]], progress=False)
    with pytest.raises(ValueError, match=rf"The tokenizer has {len(tokenizer)} tokens and the model knows 50"):
        audit_membership(tiny_model(50), tokenizer, *halves, progress=False)
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"members\[\d+\]: the model gives NaN"):
        audit_membership(model, tokenizer, *halves, progress=False)


@pytest.mark.parametrize("native", [False, True])
def test_an_adapter_is_compared_with_its_base(tokenizer, halves, native, tmp_path):
    members, others = halves
    base = train(tiny_model(len(tokenizer), hidden=32), tokenizer, sentences(60, seed=9)).eval()
    adapted = get_peft_model(copy.deepcopy(base), LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    model = train(adapted, tokenizer, members).eval()
    if native:
        base.save_pretrained(tmp_path / "base")
        model.save_pretrained(tmp_path / "adapter")
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        whole.load_adapter(str(tmp_path / "adapter"))
        model = whole.eval()
    reports = [
        audit_membership(model, tokenizer, members, others, references=[reference], progress=False)
        for reference in ("base", base)
    ]
    for attack in ("ratio", "rmia", "ez", "wbc"):
        np.testing.assert_allclose(
            *(np.concatenate(report.scores[attack]) for report in reports), rtol=1e-4, atol=1e-5
        )
    assert reports[0]["ratio"].auc.value > 0.8
    # Afterwards it is itself again.
    again = audit_membership(model, tokenizer, members, others, progress=False)
    assert again["loss"].auc.value == reports[0]["loss"].auc.value


@pytest.mark.parametrize("more", [{"bias": "all"}, {"bias": "lora_only"}, {"task_type": "SEQ_CLS"}])
def test_an_adapter_that_changed_more_than_its_own_weights_has_no_base(tokenizer, halves, more):
    # peft leaves trained biases on when the adapter is off; a classifier's head was random before it.
    settings = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **more}
    model = tiny_model(len(tokenizer), hidden=32)
    adapted = get_peft_model(model, LoraConfig(**{**settings, "task_type": "CAUSAL_LM"}))
    adapted.peft_config["default"].task_type = settings["task_type"]
    with pytest.raises(ValueError, match="changed more than its own weights"):
        audit_membership(adapted, tokenizer, *halves, references=["base"], progress=False)


def test_only_an_adapter_has_a_base(tokenizer, halves):
    model = tiny_model(len(tokenizer))
    with pytest.raises(ValueError, match=r"no adapter. Name the model"):
        audit_membership(model, tokenizer, *halves, references=["base"], progress=False)
    with pytest.raises(ValueError, match=r"'public' is a name. Give the loaded model"):
        audit_membership(model, tokenizer, *halves, references=["public"], progress=False)


def test_the_teacher_of_an_adapter_may_have_none(tokenizer, halves):
    members, others = halves
    base = train(tiny_model(len(tokenizer), hidden=32), tokenizer, sentences(60, seed=9))
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    model = train(model, tokenizer, members, steps=10).eval()
    report = audit_model(
        model, tokenizer, members=members, nonmembers=others, references=["base"], teacher=base.eval(), progress=False
    )
    assert "ez" in [result.attack for result in report.membership["records"].results]
    assert "ez" not in [result.attack for result in report.teacher.membership["records"].results]
