import copy
import math

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PromptTuningConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from swingkd import PrivateDistillationTrainer, RuleTagger
from tests.harness import TEXTS, assert_same, batch_of, tiny_model, train_tokenizer, weights


@pytest.fixture
def make(student, teacher, tokenizer, texts, config):
    """A function that makes a trainer on the tiny models."""

    def make(*, tagger=None, student=student, teacher=teacher, data=texts, **fields):
        extra = {k: fields.pop(k) for k in ("eval_dataset", "public_model", "peft_config", "callbacks") if k in fields}
        return PrivateDistillationTrainer(
            student,
            config(**fields),
            teacher_model=teacher,
            train_dataset=data,
            processing_class=tokenizer,
            tagger=tagger or (None if fields.get("protection") == "none" else RuleTagger()),
            **extra,
        )

    return make


@pytest.mark.parametrize("fused", [False, True])
def test_protection_off_is_plain_distillation(make, student, teacher, fused):
    trainer = make(protection="none", alpha=0.7, temperature=3.0, fused_loss=fused)
    batch = batch_of(trainer)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    at = batch["labels"][:, 1:] != -100
    s, t = (model(**inputs).logits[:, :-1][at] for model in (student, teacher))
    soft = F.kl_div((s / 3).log_softmax(-1), (t / 3).log_softmax(-1), reduction="none", log_target=True).sum(-1) * 9.0
    hard = F.cross_entropy(s, batch["labels"][:, 1:][at], reduction="none")
    expected = (0.7 * soft + (1 - 0.7) * hard).sum() / at.sum()
    if fused:
        torch.testing.assert_close(loss, expected)
    else:
        assert torch.equal(loss, expected)


@pytest.mark.parametrize("protection", ["noise", "mollify", "population", "drop", "none"])
def test_every_protection_trains_and_evaluates(make, texts, tokenizer, protection):
    public = tiny_model(len(tokenizer), seed=5) if protection == "mollify" else None
    trainer = make(
        protection=protection, tagger=RuleTagger(), public_model=public, eval_dataset=texts.select(range(8))
    )
    before = weights(trainer.model)
    trainer.train()
    assert any(not torch.equal(before[name], value) for name, value in weights(trainer.model).items())
    metrics = trainer.evaluate()
    assert {"eval_perplexity", "eval_perplexity_flagged", "eval_perplexity_unflagged", "eval_loss"} <= metrics.keys()


def test_a_public_model_makes_mollified_targets_the_default(make, tokenizer):
    assert make().args.protection == "surrogate"
    assert make(public_model=tiny_model(len(tokenizer), seed=5)).args.protection == "mollify"


def test_evaluation_reports_exact_perplexities(make, texts, student):
    trainer = make(eval_dataset=texts.select(range(10)), per_device_eval_batch_size=3, protection="noise")
    metrics = trainer.evaluate()
    nll = {True: [], False: []}
    for row in trainer.eval_dataset:
        ids = torch.tensor([row["input_ids"]])
        logits = student(ids).logits[0, :-1]
        values = F.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
        for value, likelihood in zip(values, row["pii_likelihood"][1:], strict=True):
            nll[likelihood >= 128].append(value)
    everything = nll[True] + nll[False]
    for name, values in (("", everything), ("_flagged", nll[True]), ("_unflagged", nll[False])):
        expected = torch.tensor(values, dtype=torch.float64).mean().exp().item()
        assert metrics[f"eval_perplexity{name}"] == pytest.approx(expected, rel=1e-4)


def test_accumulation_equals_one_large_batch(make, student, teacher, texts):
    results = []
    for batch_size, steps in ((8, 1), (2, 4)):
        trainer = make(
            student=copy.deepcopy(student).double(),
            teacher=teacher.double(),
            protection="noise",
            max_steps=3,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            optim="sgd",
        )
        trainer.train()
        results.append(weights(trainer.model))
    assert_same(*results, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("protection", ["noise", "population"])
def test_a_killed_training_resumes_to_the_same_weights(make, student, protection):
    def run(until, resume=None):
        class StopError(Exception):
            pass

        trainer = make(
            student=copy.deepcopy(student),
            protection=protection,
            max_steps=6,
            save_strategy="steps",
            save_steps=2,
            hidden_weight=0.1,
        )
        step = trainer.training_step

        def killed(*args, **kwargs):
            if until is not None and trainer.state.global_step >= until:
                raise StopError
            return step(*args, **kwargs)

        trainer.training_step = killed
        try:
            trainer.train(resume_from_checkpoint=resume)
        except StopError:
            return None
        return weights(trainer.model)

    whole = run(None)
    # The same folder keeps the noise key, as it does after a kill.
    assert run(5) is None
    assert_same(run(None, resume=True), whole)


def test_a_new_run_in_another_folder_draws_another_key(make, tmp_path):
    keys = []
    for name in ("a", "b"):
        trainer = make(protection="noise", output_dir=str(tmp_path / name))
        keys.append(trainer.protection.key)
        assert (tmp_path / name / "_private" / "noise_key").exists()
    assert keys[0] != keys[1]


def test_adapters_train_and_save(make, tmp_path):
    trainer = make(peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]), hidden_weight=0.1)
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert saved
    assert all("lora" in name for name in saved)


def test_the_hint_projection_is_trained_but_not_shipped(make, tmp_path):
    trainer = make(hidden_weight=1.0)
    before = trainer.model.hint_projection.weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, trainer.model.hint_projection.weight)
    trainer.save_model(str(tmp_path / "student"))
    assert not any("hint" in name for name in load_file(tmp_path / "student" / "model.safetensors"))
    AutoModelForCausalLM.from_pretrained(tmp_path / "student")


def test_models_by_name(make, student, teacher, tokenizer, texts, config, tmp_path):
    for name, model in (("s", student), ("t", teacher)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    trainer = PrivateDistillationTrainer(
        str(tmp_path / "s"),
        config(teacher_model_init_kwargs={"dtype": "bfloat16"}),
        teacher_model=str(tmp_path / "t"),
        train_dataset=texts,
        tagger=RuleTagger(),
    )
    assert trainer.teacher_model.dtype == torch.bfloat16
    trainer.train()


def test_padded_heads_are_cut_to_the_tokenizer(make, tokenizer):
    wide = tiny_model(len(tokenizer) + 13, seed=4)
    trainer = make(teacher=wide, protection="population")
    trainer.train()
    assert trainer.protection.table.log_probs.size(1) == len(tokenizer)


def test_streaming_data(make):
    stream = IterableDataset.from_generator(lambda: ({"text": text} for text in TEXTS))
    for protection in ("noise", "population"):
        make(data=stream, protection=protection).train()


def test_an_object_can_be_the_protection(student, teacher, tokenizer, texts, config):
    class Uniform:
        def protect(self, log_probs, positions):
            return torch.full_like(log_probs, -torch.tensor(float(log_probs.size(-1))).log().item())

    trainer = PrivateDistillationTrainer(
        student,
        config(),
        teacher_model=teacher,
        train_dataset=texts,
        processing_class=tokenizer,
        tagger=RuleTagger(),
        target_protection=Uniform(),
    )
    trainer.train()


def test_the_hidden_part_of_secrets_stays_out_of_the_logs(make, caplog, capsys):
    # Longer than any number of tokens a second, which four digits were once taken for.
    texts = [text.replace("pin is ", "pin is 81407") for text in TEXTS]
    trainer = make(data=Dataset.from_dict({"text": texts}), protection="noise", logging_steps=1)
    trainer.train()
    printed = capsys.readouterr()
    for text in texts:
        secret = text.split()[5].rstrip(".")
        assert len(secret) == 9
        assert secret not in caplog.text + printed.out + printed.err


def test_the_logs_tell_tokens_a_second(make):
    trainer = make(protection="noise", logging_steps=1)
    trainer.train()
    assert all(entry["train_tokens_per_second"] > 0 for entry in trainer.state.log_history if "loss" in entry)


def test_raw_text_can_be_evaluated(make, texts):
    trainer = make(protection="noise", eval_dataset=texts.select(range(8)))
    assert trainer.evaluate(texts.select(range(8)))["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"])


def test_a_student_in_half_precision_learns_hints(make, student):
    make(student=student.to(torch.bfloat16), hidden_weight=1.0).train()


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_without_any_label_changes_nothing(make, fused):
    rows = Dataset.from_dict(
        {"prompt": ["my pin is 4711. " * 20, "hello"], "completion": ["hello", " ann, my pin is 4711."]}
    )
    trainer = make(
        data=rows, max_length=24, protection="noise", per_device_train_batch_size=1, max_steps=6, fused_loss=fused
    )
    trainer.train()
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


def test_prompt_tuning_is_refused(make):
    with pytest.raises(ValueError, match=r"PromptTuningConfig puts tokens of its own.*LoraConfig"):
        make(peft_config=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))


def test_packed_records_do_not_choose_each_others_draws(tokenizer):
    from swingkd.tasks import CausalLM

    end = tokenizer.eos_token_id
    ids = torch.tensor([[7, 8, end, 9, 10, 11]])
    zeros = torch.zeros_like(ids)
    batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    batch |= {"pii_likelihood": zeros.float(), "pii_group": zeros, "pii_shape": zeros, "pii_span": zeros}
    found = CausalLM().predicted(batch, 2, end)
    assert found.labels.tolist() == [8, end, 9, 10, 11]
    assert found.context.tolist() == [[-1, 7], [7, 8], [-1, -1], [-1, 9], [9, 10]]


# --- mistakes are found before the first step -----------------------------------------------------------------------


def test_the_teacher_is_the_student(make, student):
    with pytest.raises(ValueError, match="teacher is the student"):
        make(teacher=student)


def test_nothing_says_what_is_private(make, texts, student, teacher, tokenizer, config):
    with pytest.raises(ValueError, match=r"neither a tagger nor a pii_likelihood column.*RuleTagger"):
        PrivateDistillationTrainer(
            student, config(), teacher_model=teacher, train_dataset=texts, processing_class=tokenizer
        )


def test_nothing_private_in_the_data(make):
    with pytest.raises(ValueError, match="found nothing private"):
        make(data=Dataset.from_dict({"text": ["hello", "thank you"]}))


def test_without_a_padding_token_rows_are_padded_with_the_end(student, teacher, tokenizer, config, caplog):
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    texts = Dataset.from_dict({"text": [*TEXTS, f"{TEXTS[0]} {TEXTS[1]}"]})
    given = {"teacher_model": teacher, "train_dataset": texts, "processing_class": bare, "tagger": RuleTagger()}
    trainer = PrivateDistillationTrainer(student, config(), **given)
    assert "padded with </s>" in caplog.text
    assert bare.pad_token is None, "the user's own tokenizer was changed"
    assert trainer.processing_class.pad_token == trainer.processing_class.eos_token == "</s>"
    rows = sorted(trainer.train_dataset, key=lambda row: len(row["input_ids"]))
    batch, length = trainer.data_collator([rows[0], rows[-1]]), len(rows[0]["input_ids"])
    assert length < len(rows[-1]["input_ids"])
    assert batch["labels"][0, length - 1] == tokenizer.eos_token_id, "the real end is not learnt any more"
    assert (batch["labels"][0, length:] == -100).all()
    assert (batch["input_ids"][0, length:] == tokenizer.eos_token_id).all()
    trainer.train()
    trainer.save_model()
    saved = AutoTokenizer.from_pretrained(trainer.args.output_dir)
    assert saved.pad_token == "</s>"
    bare.eos_token = None
    with pytest.raises(ValueError, match="neither a padding token nor one that ends a text"):
        PrivateDistillationTrainer(student, config(), **given)


def test_rows_longer_than_the_model(make):
    with pytest.raises(ValueError, match=r"max_length=512 is longer than the student model allows \(256 positions\)"):
        make(max_length=512)
    rows = Dataset.from_dict({"input_ids": [[5] * 300], "pii_likelihood": [[255] * 300]})
    with pytest.raises(ValueError, match="300 tokens, the student model allows 256"):
        make(data=rows)


def test_a_head_smaller_than_the_tokenizer(make):
    with pytest.raises(ValueError, match=r"teacher model predicts 100 tokens.*share one tokenizer"):
        make(teacher=tiny_model(100))


def test_another_tokenizer(make, teacher, tokenizer, texts, tmp_path, config, student):
    teacher.save_pretrained(tmp_path / "t")
    train_tokenizer(["something else entirely, with words of its own"] * 5).save_pretrained(tmp_path / "t")
    with pytest.raises(ValueError, match="has another tokenizer"):
        make(teacher=str(tmp_path / "t"))


def test_mollify_without_a_public_model(make):
    with pytest.raises(ValueError, match="public_model="):
        make(protection="mollify")


def test_resuming_without_the_secrets_it_began_with(make, tmp_path):
    trainer = make(protection="noise", save_strategy="steps", save_steps=1)
    trainer.train()
    (tmp_path / "out" / "_private" / "noise_key").unlink()
    with pytest.raises(ValueError, match=r"noise_key is missing. Copy the _private folder"):
        make(protection="noise", max_steps=3).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))


def test_too_few_secrets_for_an_average(make):
    with pytest.raises(ValueError, match=r"no kind of private token with 5000 distinct spans"):
        make(protection="population", population_min_spans=5000).train()


def test_likelihoods_that_are_fractions(make):
    rows = Dataset.from_dict({"input_ids": [[5, 6, 7]], "pii_likelihood": [[0.0, 0.9, 0.0]]})
    with pytest.raises(ValueError, match=r"no whole numbers.*255"):
        make(data=rows)


def test_a_row_without_text(make):
    with pytest.raises(ValueError, match=r"1 of 2 rows have no text.*filter"):
        make(data=Dataset.from_dict({"text": ["my pin is 4711", None]}))


def test_an_added_padding_token_is_no_other_tokenizer(student, teacher, tokenizer, texts, config, tmp_path):
    tokenizer.save_pretrained(tmp_path / "t")
    wide = tiny_model(len(tokenizer) + 8, seed=4)
    wide.save_pretrained(tmp_path / "t")
    more = copy.deepcopy(tokenizer)
    more.add_special_tokens({"pad_token": "<another>"})
    PrivateDistillationTrainer(
        tiny_model(len(more)),
        config(),
        teacher_model=str(tmp_path / "t"),
        train_dataset=texts,
        processing_class=more,
        tagger=RuleTagger(),
    )


def test_nothing_to_learn(make):
    rows = Dataset.from_dict({"prompt": ["my pin is 4711. " * 20], "completion": ["hello"]})
    with pytest.raises(ValueError, match=r"No token of the training set has a label.*raise max_length"):
        make(data=rows, max_length=16)


def test_an_empty_training_set(make):
    with pytest.raises(ValueError, match=r"empty|no row"):
        make(data=Dataset.from_dict({"text": []}))
