"""Differential privacy for any Trainer: equal to DP-SGD by hand, counted, silent, and refused where records meet."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer, GRPOTrainer, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from swingkd import PrivacyArguments, PrivacyLedger, PrivateDistillationTrainer, private
from swingkd.privacy import NO_TEACHER, TEACHER_DATA, TRANSFER_SET, PoissonBatches
from swingkd.trainer.private import _BATCHES
from tests.harness import NAMES, TEXTS, tiny_model
from tests.trainer.test_dp_trainer import replayable

PROMISE = PrivacyArguments(noise_multiplier=0.7, clip_norm=0.5)
COMMON = {
    "per_device_train_batch_size": 12,
    "max_steps": 3,
    "optim": "sgd",
    "learning_rate": 0.5,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "report_to": [],
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "logging_steps": 1,
}
TALK = {"text": TEXTS, "user": [text.split()[1] for text in TEXTS]}
PAIRS = {
    "prompt": [f"hello {name}, my pin is" for name in NAMES * 3],
    "chosen": [f" {i * 17 % 90 + 10}. thank you" for i in range(30)],
    "rejected": [f" {i * 31 % 90 + 10}" for i in range(30)],
}


@pytest.fixture
def model(tokenizer):
    """A student without dropout, in float64."""
    return tiny_model(len(tokenizer), seed=1).double()


def plain(model, tokenizer, folder, privacy=PROMISE, **fields):
    rows = Dataset.from_dict({"input_ids": tokenizer(TEXTS)["input_ids"]})
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    args = TrainingArguments(str(folder), **(COMMON | fields))
    return private(Trainer)(model, args, data_collator=collator, train_dataset=rows, privacy=privacy)


def sft(model, tokenizer, folder, privacy=PROMISE, rows=None, **fields):
    args = SFTConfig(str(folder), **(COMMON | fields))
    rows = Dataset.from_dict(TALK) if rows is None else rows
    return private(SFTTrainer)(model, args, train_dataset=rows, processing_class=tokenizer, privacy=privacy)


def dpo(model, tokenizer, folder, privacy=PROMISE, peft_config=None, **fields):
    args = DPOConfig(str(folder), beta=0.3, **(COMMON | fields))
    rows, options = Dataset.from_dict(PAIRS), {"processing_class": tokenizer, "peft_config": peft_config}
    reference = None if peft_config else copy.deepcopy(model)
    return private(DPOTrainer)(model, reference, args, train_dataset=rows, privacy=privacy, **options)


def text_loss(student, ids):
    """The mean over a text's tokens: what Trainer and SFTTrainer say of it alone."""
    ids = torch.tensor([ids])
    return F.cross_entropy(student(input_ids=ids).logits[0, :-1], ids[0, 1:])


def answer(student, row, name):
    prompt, ids = row["prompt_ids"], torch.tensor([row["prompt_ids"] + row[f"{name}_ids"]])
    logits = student(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return logits.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum()


def pair_loss(student, row, reference, beta=0.3):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7), of one pair."""
    with torch.no_grad():
        known = answer(reference, row, "chosen") - answer(reference, row, "rejected")
    return -F.logsigmoid(beta * (answer(student, row, "chosen") - answer(student, row, "rejected") - known))


def by_hand(student, names, units, loss, plan, lr=0.5, steps=3, seed=5, most=1):
    """DP-SGD, one unit at a time; `units`: the rows of each unit; `names`: in which order the noise is drawn."""
    noise, draws = (torch.Generator().manual_seed(seed) for _ in range(2))
    rows = [row for own in units for row in own]
    of = [number for number, own in enumerate(units) for _ in own]
    alone = len(rows) == len(units)
    numbers = None if alone else np.array(of)
    batches = PoissonBatches(plan, numbers, rows=len(rows), most=most, generator=draws)
    trained = [student.get_parameter(name) for name in names]
    for _ in range(steps):
        total, drawn = [torch.zeros_like(p) for p in trained], {}
        for i in batches._draw():
            drawn.setdefault(of[i], []).append(rows[i])
        for own in drawn.values():
            gradient = torch.autograd.grad(sum(loss(student, row) for row in own), trained)
            norm = float(torch.sqrt(sum(g.square().sum() for g in gradient)))
            total = [t + g * min(1.0, plan.clip_norm / (norm + 1e-6)) for t, g in zip(total, gradient, strict=True)]
        with torch.no_grad():
            for p, t in zip(trained, total, strict=True):
                n = torch.normal(0.0, plan.noise_multiplier * plan.clip_norm, p.shape, generator=noise, dtype=p.dtype)
                p -= lr * (t + n) / (plan.sampling_rate * len(units))
    return student


def order(trainer):
    known = {id(p): name for name, p in trainer.model.named_parameters()}
    return [known[id(p)] for group in trainer.optimizer.param_groups for p in group["params"]]


def assert_equal(model, expected):
    # TRL computes some of its losses in float32, whatever the model is in.
    for (name, p), q in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        torch.testing.assert_close(p, q[1], rtol=1e-6, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("make", [plain, sft])
def test_text_trainers_equal_dp_sgd_by_hand(model, tokenizer, tmp_path, monkeypatch, make):
    replayable(monkeypatch)
    expected = copy.deepcopy(model)
    trainer = make(model, tokenizer, tmp_path)
    units = [[row["input_ids"]] for row in trainer.train_dataset]
    trainer.train()
    by_hand(expected, order(trainer), units, text_loss, trainer.private.plan)
    assert_equal(model, expected)


def test_a_pair_of_answers_is_one_unit(model, tokenizer, tmp_path, monkeypatch):
    replayable(monkeypatch)
    expected, reference = copy.deepcopy(model), copy.deepcopy(model)
    trainer = dpo(model, tokenizer, tmp_path)
    units = [[row] for row in trainer.train_dataset]
    trainer.train()
    by_hand(expected, order(trainer), units, lambda s, row: pair_loss(s, row, reference), trainer.private.plan)
    assert_equal(model, expected)
    (entry,) = trainer.ledger.about(TRANSFER_SET)
    assert (entry.releases, entry.unit) == (3, "record")


def test_a_users_texts_are_clipped_as_one(model, tokenizer, tmp_path, monkeypatch):
    replayable(monkeypatch)
    expected = copy.deepcopy(model)
    privacy = PrivacyArguments(noise_multiplier=0.7, clip_norm=0.5, privacy_unit="user", records_per_user=4)
    trainer = sft(model, tokenizer, tmp_path, privacy, per_device_train_batch_size=4)
    # Rows of a user need not follow each other; here the draw is compared, so they do.
    trainer.train_dataset = trainer.train_dataset.sort("user")
    trainer.private = trainer._private_run(privacy, trainer.train_dataset)
    of = {}
    for row in trainer.train_dataset:
        of.setdefault(row["user"], []).append(row["input_ids"])
    trainer.train()
    by_hand(expected, order(trainer), list(of.values()), text_loss, trainer.private.plan, most=4)
    assert_equal(model, expected)
    assert trainer.ledger.about(TRANSFER_SET)[0].unit == "user"


# --- the promise ---------------------------------------------------------------------------------------------------


def test_the_ledger_counts_and_goes_with_the_weights(model, tokenizer, tmp_path):
    promise = PrivacyArguments(target_epsilon=6.0)
    trainer = sft(model.float(), tokenizer, tmp_path, promise, num_train_epochs=2, max_steps=-1)
    trainer.train()
    trainer.save_model()
    ledger = PrivacyLedger.of_weights(tmp_path)
    assert ledger.about(TRANSFER_SET)[0].releases == trainer.state.global_step == 10
    assert 5 < ledger.epsilon() <= 6
    assert ledger.epsilon() == trainer.ledger.epsilon()
    # A model that goes on from it has spent both.
    again = sft(str(tmp_path), tokenizer, tmp_path / "again", promise)
    (earlier,) = again.ledger.about(f"earlier {TRANSFER_SET}")
    assert earlier.releases == 10


def test_a_resumed_run_counts_each_step_once(model, tokenizer, tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4}
    trainer = sft(model.float(), tokenizer, tmp_path, **fields)
    trainer.train()
    whole = trainer.ledger.epsilon()
    for step in (3, 4):
        (tmp_path / f"checkpoint-{step}").rename(tmp_path / f"gone-{step}")
    again = sft(tiny_model(len(tokenizer), seed=1), tokenizer, tmp_path, **fields)
    again.train(resume_from_checkpoint=True)
    assert again.resumed
    assert again.ledger.about(TRANSFER_SET)[0].releases == 4
    assert again.ledger.epsilon() == pytest.approx(whole)
    other = PrivacyArguments(noise_multiplier=0.9, clip_norm=0.5)
    with pytest.raises(ValueError, match=r"checkpoint-4 was written with noise_multiplier=0.7 \(now 0.9\)"):
        sft(tiny_model(len(tokenizer), seed=1), tokenizer, tmp_path, other, **fields).train(True)


def test_a_budget_stops_a_run_before_it_begins(model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="epsilon"):
        sft(model, tokenizer, tmp_path, PrivacyArguments(target_epsilon=0.1, noise_multiplier=0.7))


@pytest.mark.parametrize("make", [sft, dpo])
def test_nothing_exact_is_logged(model, tokenizer, tmp_path, make, capsys):
    trainer = make(model.float(), tokenizer, tmp_path)
    result = trainer.train()
    trainer.save_state()
    allowed = {"step", "epoch", "learning_rate", "epsilon", "total_flos"}
    allowed |= {"train_runtime", "train_samples_per_second", "train_steps_per_second"}
    logs = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert len(logs) == 4
    assert {name for entry in logs for name in entry} <= allowed
    assert result.training_loss == 0
    assert not trainer._metrics["train"]
    assert [entry["epsilon"] for entry in logs] == sorted(entry["epsilon"] for entry in logs)
    printed = capsys.readouterr().out
    assert "loss" not in printed.replace("train_loss", "").replace("'0'", "")
    assert "entropy" not in printed


def test_the_loss_is_logged_where_it_is_asked_for_and_said_to_be_uncovered(model, tokenizer, tmp_path):
    privacy = PrivacyArguments(noise_multiplier=0.7, log_nonprivate=True)
    trainer = sft(model.float(), tokenizer, tmp_path, privacy)
    trainer.train()
    assert trainer.state.log_history[0]["nonprivate_loss"] > 1
    assert "the logged loss is not covered" in trainer.ledger.about(TRANSFER_SET)[0].caveat


def test_evaluation_is_the_trainers_own(model, tokenizer, tmp_path):
    rows = Dataset.from_dict({"text": TEXTS[:6]})
    args = SFTConfig(str(tmp_path), **COMMON)
    data = {"train_dataset": Dataset.from_dict(TALK), "eval_dataset": rows}
    trainer = private(SFTTrainer)(model.float(), args, **data, processing_class=tokenizer, privacy=PROMISE)
    trainer.train()
    found = trainer.evaluate()
    assert {"eval_loss", "eval_mean_token_accuracy"} <= found.keys() | trainer.state.log_history[-1].keys()
    assert "eval_mean_token_accuracy" in trainer.state.log_history[-1]


def test_the_same_seed_gives_other_noise(tokenizer, tmp_path):
    ends = []
    for i in range(2):
        student = tiny_model(len(tokenizer), seed=1)
        sft(student, tokenizer, tmp_path / str(i)).train()
        ends.append(student.lm_head.weight.detach())
    assert not torch.equal(*ends)


def test_adapters_of_every_kind_and_weights_that_nothing_reads(model, tokenizer, tmp_path):
    model = model.float()
    model.register_parameter("unread", nn.Parameter(torch.zeros(2)))
    config = LoraConfig(r=2, use_dora=True, target_modules=["q_proj"], modules_to_save=["lm_head"])
    trainer = dpo(model, tokenizer, tmp_path, peft_config=config)
    before = trainer.model.state_dict()["base_model.model.model.embed_tokens.weight"].clone()
    trainer.train()
    assert torch.equal(before, trainer.model.state_dict()["base_model.model.model.embed_tokens.weight"])
    trainer.save_model()
    assert any("lora_magnitude_vector" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    assert PrivacyLedger.of_weights(tmp_path).epsilon() > 0


def test_your_own_loss_is_what_is_clipped(model, tokenizer, tmp_path, monkeypatch):
    class Twice(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return 2 * super().compute_loss(model, inputs)

    replayable(monkeypatch)
    expected = copy.deepcopy(model)
    rows = Dataset.from_dict({"input_ids": tokenizer(TEXTS)["input_ids"]})
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    args = TrainingArguments(str(tmp_path), **COMMON)
    trainer = private(Twice)(model, args, data_collator=collator, train_dataset=rows, privacy=PROMISE)
    trainer.train()
    units = [[row["input_ids"]] for row in rows]
    by_hand(expected, order(trainer), units, lambda s, ids: 2 * text_loss(s, ids), trainer.private.plan)
    assert_equal(model, expected)
    assert args.max_grad_norm == 1.0, "the caller's own settings are left as they are"


# --- what others found -----------------------------------------------------------------------------------------------


def test_what_is_evaluated_on_the_way_tells_no_count_of_private_tokens(model, tokenizer, tmp_path):
    """TRL notes how many tokens were trained on beside an evaluation: the size of each secret draw."""

    class Says(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            trainer.log({"eval_mine": 1.0})

    held_out = Dataset.from_dict({"text": TEXTS[:4]})
    args = SFTConfig(str(tmp_path), **(COMMON | {"eval_strategy": "steps", "eval_steps": 1}))
    data = {"train_dataset": Dataset.from_dict(TALK), "eval_dataset": held_out, "processing_class": tokenizer}
    trainer = private(SFTTrainer)(model.float(), args, **data, privacy=PROMISE, callbacks=[Says()])
    trainer.train()
    logs = trainer.state.log_history
    assert {entry.get("eval_num_tokens", 0) for entry in logs} == {0}
    assert all({"epoch", "step", "epsilon", "eval_mine"} == entry.keys() for entry in logs if "eval_mine" in entry)
    assert "num_tokens" not in {name for entry in logs for name in entry}
    assert trainer.evaluate(metric_key_prefix="test")["test_loss"] > 0
    assert "test_loss" in trainer.state.log_history[-1]
    trainer.log({"mine": 3.0})
    assert trainer.state.log_history[-1]["mine"] == 3.0


def test_a_training_set_that_was_replaced_is_refused(model, tokenizer, tmp_path):
    trainer = sft(model, tokenizer, tmp_path)
    trainer.train_dataset = trainer.train_dataset.shuffle(seed=1)
    with pytest.raises(ValueError, match="the promise is about the first one"):
        trainer.train()


def test_a_users_rows_are_one_unit_wherever_they_stand(model, tokenizer, tmp_path):
    privacy = PrivacyArguments(noise_multiplier=0.7, privacy_unit="user")
    run = sft(model, tokenizer, tmp_path, privacy, per_device_train_batch_size=4).private
    rows = [{"user": name} for name in ("ann", "bob", "ann", "bob", "ann")]
    assert [len(own) for own in run._of_units(rows)] == [3, 2]


def test_a_checkpoint_keeps_no_state_of_a_generator(tokenizer, tmp_path):
    student = tiny_model(len(tokenizer), seed=1, attention_dropout=0.3)
    states = []
    for i in range(2):
        trainer = sft(student, tokenizer, tmp_path / str(i), save_strategy="steps", save_steps=1, max_steps=1)
        trainer.train()
        states.append(torch.random.get_rng_state())
        assert not list(tmp_path.glob("**/rng_state*"))
    # And none is left behind that would tell how much was drawn.
    assert torch.equal(*states)


def test_a_loss_whose_memory_is_empty_at_first_is_found_later(model, tokenizer, tmp_path):
    class Running(Trainer):
        """What it keeps of the rows is nothing before the first step."""

        begun, mean = None, 0.0

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = super().compute_loss(model, inputs)
            self.begun = float(loss) if self.begun is None else self.begun
            reward = (self.begun - loss).clamp_min(0)
            if self.state.global_step:
                self.mean += float(reward) + 0.1
            return loss - self.mean

    args = TrainingArguments(str(tmp_path), **COMMON)
    rows = Dataset.from_dict({"input_ids": tokenizer(TEXTS)["input_ids"]})
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = private(Running)(model, args, data_collator=collator, train_dataset=rows, privacy=PROMISE)
    with pytest.raises(ValueError, match="the loss remembers rows"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_the_ledger_knows_what_it_does_not_know(model, tokenizer, tmp_path):
    class Distils(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return super().compute_loss(model, inputs)

    args = TrainingArguments(str(tmp_path), **COMMON)
    rows = Dataset.from_dict({"input_ids": tokenizer(TEXTS)["input_ids"]})
    own = private(Distils)(model, args, train_dataset=rows, privacy=PROMISE)
    assert own.ledger.unknown[TEACHER_DATA].startswith("nothing is known of the data of other models")
    assert dpo(model, tokenizer, tmp_path).ledger.unknown[TEACHER_DATA] == NO_TEACHER
    other, options = tiny_model(len(tokenizer), seed=9).double(), {"processing_class": tokenizer, "privacy": PROMISE}
    args = DPOConfig(str(tmp_path), **COMMON)
    trainer = private(DPOTrainer)(model, other, args, train_dataset=Dataset.from_dict(PAIRS), **options)
    assert trainer.ledger.unknown[TEACHER_DATA].startswith("nothing is known")


@pytest.mark.parametrize("unit", ["record", "user"])
def test_columns_that_the_model_does_not_take_are_nobodys_business(model, tokenizer, tmp_path, unit):
    rows = Dataset.from_dict(TALK | {"input_ids": tokenizer(TEXTS)["input_ids"], "record": list(range(60))})
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    args = TrainingArguments(str(tmp_path), **(COMMON | {"per_device_train_batch_size": 4}))
    privacy = PrivacyArguments(noise_multiplier=0.7, privacy_unit=unit)
    given = {"data_collator": collator, "train_dataset": rows, "eval_dataset": rows.select(range(4))}
    trainer = private(Trainer)(model.float(), args, **given, privacy=privacy)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


def test_a_column_that_is_called_record_is_a_column(tokenizer, tmp_path):
    rows = Dataset.from_dict({"x": torch.randn(20, 3).tolist(), "record": torch.randn(20).tolist()})

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x, record):
            return {"loss": (x @ self.weight - record).square().mean()}

    args = TrainingArguments(str(tmp_path), **(COMMON | {"per_device_train_batch_size": 4}))
    private(Trainer)(Linear(), args, train_dataset=rows, privacy=PROMISE).train()


def test_a_loss_of_several_numbers_says_so(model, tokenizer, tmp_path):
    class Many(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return torch.ones(3, requires_grad=True)

    rows = Dataset.from_dict({"input_ids": tokenizer(TEXTS)["input_ids"]})
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    given = {"data_collator": collator, "train_dataset": rows, "privacy": PROMISE}
    with pytest.raises(ValueError, match=r"tensor of shape \[3\]: one number is needed"):
        private(Many)(model, TrainingArguments(str(tmp_path), **COMMON), **given).train()


@pytest.mark.parametrize("strategy", ["every_save", "end"])
def test_nothing_but_what_is_named_is_pushed(model, tokenizer, tmp_path, monkeypatch, strategy):
    sent = []

    class Hub:
        def __init__(self, token=None):
            self.token = token

        def create_commit(self, name, operations, **kwargs):
            sent.append([operation.path_in_repo for operation in operations])

    monkeypatch.setattr("swingkd.trainer.sealing.HfApi", Hub)
    monkeypatch.setattr(SFTTrainer, "init_hf_repo", lambda self, token=None, private=None: None)
    push = {"push_to_hub": True, "hub_model_id": "me/x", "hub_token": "hf_SECRET", "hub_strategy": strategy}
    trainer = sft(model.float(), tokenizer, tmp_path, save_strategy="steps", save_steps=1, **push)
    trainer.hub_model_id = "me/x"
    trainer.train()
    trainer.push_to_hub()
    names = {name for part in sent for name in part}
    assert {"model.safetensors", "privacy_ledger.json"} <= names
    assert not any(name.endswith((".pt", ".pth", ".bin", ".lock")) or name == "run_settings.json" for name in names)
    for path in tmp_path.glob("**/training_args.bin"):
        assert b"hf_SECRET" not in path.read_bytes()
    assert len(sent) == (4 if strategy == "every_save" else 1)
    with pytest.raises(ValueError, match="pushes whole checkpoints"):
        sft(model, tokenizer, tmp_path, **(push | {"hub_strategy": "checkpoint"}))


def test_gradients_are_not_watched(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_WATCH", "all")
    args = SFTConfig(str(tmp_path), **COMMON)
    args.report_to = ["wandb"]
    with pytest.raises(ValueError, match="WANDB_WATCH sends histograms of gradients"):
        private(SFTTrainer)(model, args, train_dataset=Dataset.from_dict(TALK), privacy=PROMISE)


# --- what is refused -----------------------------------------------------------------------------------------------


def test_upstream_still_makes_its_batches_where_we_look():
    assert all(hasattr(Trainer, name) for name in (*_BATCHES, "training_step"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GRPOTrainer, "GRPOTrainer.get_train_dataloader makes batches or steps"),
        (KTOTrainer, "KTOTrainer._get_train_sampler makes batches or steps"),
        (PrivateDistillationTrainer, "has differential privacy already: set target_epsilon"),
        (dict, "is no class of transformers' Trainer"),
        (type("Mine", (Trainer,), {"training_step": lambda *_: 0}), "Mine.training_step makes"),
    ],
)
def test_trainers_in_which_records_meet_are_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        private(kind)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"packing": True}, "packing=True and differential privacy do not go together"),
        ({"padding_free": True}, "padding_free=True"),
        ({"activation_offloading": True}, "activation_offloading=True"),
        ({"torch_compile": True}, "torch_compile=True"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2"),
        ({"max_grad_norm": 0.5}, "max_grad_norm=0.5"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True"),
        ({"per_device_train_batch_size": 100}, "A batch of 100 is drawn from 60 units"),
    ],
)
def test_settings_that_break_the_guarantee_are_refused(model, tokenizer, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        sft(model, tokenizer, tmp_path, **fields)


def test_what_nobody_could_count_is_refused(model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="Give target_epsilon or noise_multiplier"):
        PrivacyArguments()
    with pytest.raises(ValueError, match=r"target_delta=1.0 must be well below"):
        PrivacyArguments(target_epsilon=1.0, target_delta=1.0)
    with pytest.raises(ValueError, match="say what is promised"):
        sft(model, tokenizer, tmp_path, 8.0)
    with pytest.raises(ValueError, match="A stream cannot be sampled"):
        sft(model, tokenizer, tmp_path, rows=Dataset.from_dict(TALK).to_iterable_dataset())
    with pytest.raises(ValueError, match="privacy_unit='author' is no column"):
        sft(model, tokenizer, tmp_path, PrivacyArguments(noise_multiplier=1.0, privacy_unit="author"))
    with pytest.raises(ValueError, match="hyperparameter_search would release"):
        sft(model, tokenizer, tmp_path).hyperparameter_search()
    args = TrainingArguments(str(tmp_path), **COMMON)
    with pytest.raises(ValueError, match="model_init makes several models"):
        private(Trainer)(args=args, model_init=lambda: model, privacy=PROMISE)
    with pytest.raises(ValueError, match="made without a training set"):
        private(Trainer)(model, args, privacy=PROMISE).train()


class Counting(nn.Module):
    """A model that remembers how many rows it has read."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x, labels):
        self.seen += 1
        return {"loss": (x @ self.weight - labels).square().mean()}


def test_models_that_remember_rows_are_refused(tmp_path):
    rows = Dataset.from_dict({"x": torch.randn(20, 3).tolist(), "labels": torch.randn(20).tolist()})
    args = TrainingArguments(str(tmp_path), **(COMMON | {"per_device_train_batch_size": 4}))
    with pytest.raises(ValueError, match="seen changes while the model reads"):
        private(Trainer)(Counting(), args, train_dataset=rows, privacy=PROMISE).train()
    norm = nn.Sequential(nn.BatchNorm1d(3))
    norm.forward = lambda x, labels: None
    with pytest.raises(ValueError, match="keeps running averages"):
        private(Trainer)(norm, args, train_dataset=rows, privacy=PROMISE).train()


def test_a_loss_that_remembers_rows_is_refused(model, tokenizer, tmp_path):
    class Relative(Trainer):
        """The loss beside those that it saw, as some preference losses have it."""

        seen = ()

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = super().compute_loss(model, inputs)
            self.seen = (*self.seen, float(loss))
            return loss - sum(self.seen)

    args = TrainingArguments(str(tmp_path), **COMMON)
    rows = Dataset.from_dict({"input_ids": tokenizer(TEXTS)["input_ids"]})
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = private(Relative)(model, args, data_collator=collator, train_dataset=rows, privacy=PROMISE)
    with pytest.raises(ValueError, match="after others were read: the loss remembers rows"):
        trainer.train()


def test_a_loss_that_draws_is_not_taken_for_one_that_remembers(tokenizer, tmp_path):
    student = tiny_model(len(tokenizer), seed=1, attention_dropout=0.3)
    before = torch.random.get_rng_state()
    trainer = sft(student, tokenizer, tmp_path, neftune_noise_alpha=5.0)
    trainer.train()
    assert trainer.state.global_step == 3
    assert not torch.equal(before, torch.random.get_rng_state())


def test_a_trained_model_in_half_precision_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"Trainable weights are torch.bfloat16"):
        sft(tiny_model(len(tokenizer)).bfloat16(), tokenizer, tmp_path).train()


def test_a_reward_model_learns_pairs(tokenizer, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    reward = LlamaForSequenceClassification(
        LlamaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, **sizes)
    )
    args = RewardConfig(str(tmp_path), **COMMON)
    rows = Dataset.from_dict(PAIRS)
    trainer = private(RewardTrainer)(reward, args, train_dataset=rows, processing_class=tokenizer, privacy=PROMISE)
    trainer.train()
    assert trainer.ledger.about(TRANSFER_SET)[0].releases == 3
