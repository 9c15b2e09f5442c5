"""Differential privacy through the trainer: the updates, the logs, the ledger, and what cannot be replayed."""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, Qwen2Config, Qwen2ForCausalLM

from swingkd import PrivacyLedger, PrivateDistillationTrainer, RuleTagger, cache_teacher
from swingkd.data import PII_COLUMNS
from swingkd.privacy import (
    NO_TEACHER,
    TEACHER_DATA,
    BudgetExceededError,
    PoissonBatches,
    PrivacyPlan,
    secret_generator,
)
from swingkd.trainer.ledgers import resumed_ledger
from tests.harness import TEXTS, tiny_model

ROOT = Path(__file__).parents[2]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def gpt2(vocabulary):
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=128,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    )
    return GPT2LMHeadModel(config)


def pythia(vocabulary):
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=vocabulary, **SIZES))


def qwen(vocabulary):
    return Qwen2ForCausalLM(
        Qwen2Config(vocab_size=vocabulary, num_key_value_heads=1, tie_word_embeddings=True, **SIZES)
    )


def llama(vocabulary):
    return tiny_model(vocabulary)


@pytest.fixture
def make(student, teacher, tokenizer, texts, config):
    """A function that makes a private trainer on the tiny models."""

    def make(*, student=student, teacher=teacher, data=texts, tagger=None, peft_config=None, **fields):
        defaults = {"noise_multiplier": 0.7, "per_device_train_batch_size": 12, "protection": "none"}
        return PrivateDistillationTrainer(
            student,
            config(**(defaults | fields)),
            teacher_model=teacher,
            train_dataset=data,
            processing_class=tokenizer,
            tagger=tagger,
            peft_config=peft_config,
        )

    return make


def replayable(monkeypatch, seed=5):
    """Draws that a test can repeat; nothing else may."""

    def generator(device="cpu"):
        return torch.Generator(device).manual_seed(seed)

    monkeypatch.setattr("swingkd.privacy.dp_sgd.secret_generator", generator)
    monkeypatch.setattr("swingkd.privacy.sampling.secret_generator", generator)


def by_hand(student, names, teacher, rows, plan, lr, steps, alpha, temperature, seed=5, owners=None):
    """DP-SGD on the distillation loss, one unit at a time; `names`: in which order parameters get their noise."""
    noise, draws = (torch.Generator().manual_seed(seed) for _ in range(2))
    units = None if owners is None else np.unique(owners, return_inverse=True)[1]
    batches = PoissonBatches(plan, units, rows=len(rows), most=1 if owners is None else 4, generator=draws)
    trained = [student.get_parameter(name) for name in names]
    for _ in range(steps):
        total = [torch.zeros_like(p) for p in trained]
        of_unit = {}
        for i in batches._draw():
            of_unit.setdefault(i if owners is None else owners[i], []).append(rows[i]["input_ids"])
        for own in of_unit.values():
            loss = 0
            for ids in own:
                ids = torch.tensor([ids])
                z, t = (model(input_ids=ids).logits[0, :-1].double() for model in (student, teacher))
                target = (t / temperature).softmax(-1).detach()
                soft = (target * (target.log() - (z / temperature).log_softmax(-1))).sum() * temperature**2
                loss = loss + alpha * soft + (1 - alpha) * F.cross_entropy(z, ids[0, 1:], reduction="sum")
            gradient = torch.autograd.grad(loss, trained)
            norm = float(torch.sqrt(sum(g.square().sum() for g in gradient)))
            factor = min(1.0, plan.clip_norm / (norm + 1e-6))
            total = [t + g * factor for t, g in zip(total, gradient, strict=True)]
        with torch.no_grad():
            for p, t in zip(trained, total, strict=True):
                std = plan.noise_multiplier * plan.clip_norm
                n = torch.normal(0.0, std, p.shape, generator=noise, dtype=p.dtype)
                p -= lr * (t + n) / (plan.sampling_rate * (len(rows) if owners is None else len(set(owners))))
    return student


@pytest.mark.parametrize(("family", "micro"), [(gpt2, 5), (llama, 1), (llama, 7), (llama, 64), (qwen, 5), (pythia, 5)])
def test_the_trainer_equals_dp_sgd_by_hand(make, tokenizer, teacher, monkeypatch, family, micro):
    replayable(monkeypatch)
    torch.manual_seed(0)
    student, teacher = family(len(tokenizer)).double(), copy.deepcopy(teacher).double()
    expected = copy.deepcopy(student)
    trainer = make(
        student=student,
        teacher=teacher,
        micro_batch_size=micro,
        max_steps=3,
        optim="sgd",
        learning_rate=0.5,
        lr_scheduler_type="constant",
        clip_norm=0.5,
        alpha=0.4,
        temperature=2.0,
        weight_decay=0.0,
    )
    rows = list(trainer.train_dataset)
    trainer.train()
    known = {id(p): name for name, p in student.named_parameters()}
    names = [known[id(p)] for group in trainer.optimizer.param_groups for p in group["params"]]
    by_hand(expected, names, teacher, rows, trainer.private.plan, 0.5, 3, 0.4, 2.0)
    for (name, p), q in zip(student.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("adapter", [False, True])
def test_ghost_clipping_and_the_fast_loss_change_nothing(make, tokenizer, teacher, monkeypatch, adapter):
    """Adapters: the head is frozen and the fast loss reads it, for ghost clipping as well."""
    replayable(monkeypatch)
    results = []
    for ghost, fused in ((False, True), (False, False), (True, True)):
        torch.manual_seed(0)
        peft = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False) if adapter else None
        trainer = make(
            student=tiny_model(len(tokenizer), seed=1).double(),
            teacher=copy.deepcopy(teacher).double(),
            peft_config=peft,
            ghost_clipping=ghost,
            fused_loss=fused,
            micro_batch_size=5,
            optim="sgd",
            learning_rate=0.5,
        )
        trainer.model.double()
        assert trainer.distillation.fused == (fused and adapter)
        trainer.train()
        results.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
    for other in results[1:]:
        for name, value in results[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-6, atol=1e-9, msg=name)


def test_users_are_clipped_and_counted_as_one(make, teacher, monkeypatch):
    replayable(monkeypatch)
    owners = [f"user-{i % 7}" for i in range(len(TEXTS))]
    student, teacher = tiny_model(teacher.config.vocab_size, seed=1).double(), copy.deepcopy(teacher).double()
    expected = copy.deepcopy(student)
    trainer = make(
        student=student,
        teacher=teacher,
        data=Dataset.from_dict({"text": TEXTS, "owner": owners}),
        privacy_unit="owner",
        per_device_train_batch_size=3,
        records_per_user=4,
        micro_batch_size=6,
        max_steps=3,
        clip_norm=0.5,
        noise_multiplier=0.7,
        optim="sgd",
        learning_rate=0.5,
        lr_scheduler_type="constant",
        alpha=0.4,
    )
    rows = list(trainer.train_dataset)
    assert trainer.private.plan.sampling_rate == 3 / 7
    trainer.train()
    known = {id(p): name for name, p in student.named_parameters()}
    names = [known[id(p)] for group in trainer.optimizer.param_groups for p in group["params"]]
    by_hand(expected, names, teacher, rows, trainer.private.plan, 0.5, 3, 0.4, 2.0, owners=owners)
    for (name, p), q in zip(student.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
    assert "for each owner (add or remove one)" in str(trainer.ledger)


def test_an_empty_draw_is_a_step_of_noise(make, monkeypatch):
    monkeypatch.setattr(PoissonBatches, "_draw", lambda self: [])
    trainer = make(max_steps=2, optim="sgd", learning_rate=1.0, lr_scheduler_type="constant", clip_norm=2.0)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = torch.cat([(p.detach() - before[n]).flatten() for n, p in trainer.model.named_parameters()])
    # Two draws of standard deviation noise * clip / expected batch.
    assert float(moved.std()) == pytest.approx(2**0.5 * 0.7 * 2.0 / 12, rel=0.05)
    assert trainer.ledger.entries[0].releases == 2


def test_what_is_not_private_is_not_logged(make, texts):
    trainer = make(logging_steps=1, max_steps=3, target_delta=1e-3)
    output = trainer.train()
    logged = set().union(*trainer.state.log_history)
    assert logged.isdisjoint({"loss", "grad_norm", "train_loss", "total_flos", "nonprivate_loss"})
    assert output.training_loss == 0
    assert "train_loss" not in output.metrics
    assert trainer.state.total_flos == trainer.state.num_input_tokens_seen == 0
    spent = [entry["epsilon"] for entry in trainer.state.log_history]
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(trainer.private.plan.epsilon)
    loud = make(logging_steps=1, log_nonprivate=True)
    loud.train()
    assert all("nonprivate_loss" in entry for entry in loud.state.log_history[:-1])
    assert not any("loss" in entry for entry in loud.state.log_history)


def test_the_same_seed_gives_other_noise_and_other_batches(make, tokenizer, monkeypatch):
    drawn, students = [], []
    original = PoissonBatches._draw
    monkeypatch.setattr(PoissonBatches, "_draw", lambda self: drawn.append(original(self)) or drawn[-1])
    for _ in range(2):
        student = tiny_model(len(tokenizer), seed=1)
        make(student=student, seed=7).train()
        students.append(student)
    half = len(drawn) // 2
    assert drawn[:half] != drawn[half:]
    one, two = (model.lm_head.weight for model in students)
    assert not torch.equal(one, two)


def test_nothing_in_the_output_folder_holds_a_generator(make, tmp_path, monkeypatch):
    made = []

    def remembered(device="cpu"):
        made.append(secret_generator(device))
        made.append(made[-1].get_state().numpy().tobytes())
        return made[-2]

    monkeypatch.setattr("swingkd.privacy.dp_sgd.secret_generator", remembered)
    monkeypatch.setattr("swingkd.privacy.sampling.secret_generator", remembered)
    make(save_strategy="steps", save_steps=1).train()
    generators, states = made[::2], made[1::2]
    assert len(generators) == 2  # of the batches and of the noise
    states += [generator.get_state().numpy().tobytes() for generator in generators]
    folder = tmp_path / "out" / "checkpoint-1"
    # Whatever else were written would have to be looked at here.
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "optimizer.pt",
        "privacy_ledger.json",
        "scheduler.pt",
        "tokenizer.json",
        "tokenizer_config.json",
        "trainer_state.json",
        "training_args.bin",
        "run_settings.json",
        "seal.json",
    }
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        content = path.read_bytes()  # torch and safetensors write tensors as they are
        for state in states:
            assert not any(state[start : start + 64] in content for start in range(24, 5000, 640))


def test_a_resumed_run_counts_each_step_once(make, tmp_path):
    fields = {
        "max_steps": 5,
        "save_strategy": "steps",
        "save_steps": 2,
        "target_epsilon": 30.0,
        "noise_multiplier": None,
    }
    make(**fields).train()
    out = tmp_path / "out"
    assert [PrivacyLedger.load(out / f"checkpoint-{n}").entries[0].releases for n in (2, 4, 5)] == [2, 4, 5]
    # Steps that somebody may have seen are not forgotten.
    with pytest.raises(ValueError, match="holds a later checkpoint"):
        make(**fields).train(resume_from_checkpoint=str(out / "checkpoint-2"))
    for later in (4, 5):
        shutil.rmtree(out / f"checkpoint-{later}")
    again = make(**fields)
    again.train(resume_from_checkpoint=str(out / "checkpoint-2"))
    (entry,) = again.ledger.entries
    assert entry.releases == 5
    assert again.ledger.epsilon() == pytest.approx(again.private.plan.epsilon)
    assert PrivacyLedger.load(out / "checkpoint-5").entries[0].releases == 5


def test_private_and_ordinary_steps_are_never_one_run(make, tmp_path, config, student, teacher, tokenizer, texts):
    args = config(protection="none", save_strategy="steps", save_steps=1)
    ordinary = PrivateDistillationTrainer(
        student, args, teacher_model=teacher, train_dataset=texts, processing_class=tokenizer
    )
    ordinary.train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    with pytest.raises(ValueError, match=r"noise_multiplier=None \(now 0.7\)"):
        make(max_steps=3).train(resume_from_checkpoint=str(checkpoint))
    # What was done counts, and not only what is said of it.
    with pytest.raises(ValueError, match="2 steps behind it, 0 of them with differential privacy"):
        resumed_ledger(ordinary.ledger, str(checkpoint), 2, private=True)
    shutil.rmtree(tmp_path / "out")
    make(save_strategy="steps", save_steps=1).train()
    with pytest.raises(ValueError, match=r"noise_multiplier=0.7 \(now None\)"):
        ordinary.train(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(ValueError, match="would lose it by going on without"):
        resumed_ledger(ordinary.ledger, str(checkpoint), 2, private=False)


def test_a_trainer_without_data_never_trains_in_the_open(make, texts):
    trainer = make(data=None)
    trainer.train_dataset = texts
    with pytest.raises(ValueError, match="made without a training set"):
        trainer.train()


def test_fields_that_are_set_later_are_checked_too(config, student, teacher, tokenizer, texts):
    args = config(protection="none")
    args.target_epsilon, args.packing = 8.0, True
    with pytest.raises(ValueError, match="packing=True"):
        PrivateDistillationTrainer(
            student, args, teacher_model=teacher, train_dataset=texts, processing_class=tokenizer
        )


def test_the_sum_before_the_noise_is_gone_afterwards(make):
    trainer = make()
    trainer.train()
    for name in ("summed_grad", "grad_sample", "grad"):
        assert all(getattr(p, name, None) is None for p in trainer.model.parameters())


def test_a_checkpoint_without_its_ledger_is_refused(make, tmp_path):
    make(max_steps=2, save_strategy="steps", save_steps=1).train()
    (tmp_path / "out" / "checkpoint-2" / "privacy_ledger.json").unlink()
    with pytest.raises(ValueError, match=r"privacy_ledger.json of .* is gone"):
        make(max_steps=3).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))


def test_half_written_checkpoints_are_passed_over(make, tmp_path):
    make(max_steps=3, save_strategy="steps", save_steps=1).train()
    killed = tmp_path / "out" / "checkpoint-3"
    (killed / "trainer_state.json").write_text('{"global_step"')
    (killed / "seal.json").unlink()
    (killed / "unfinished").touch()
    again = make(max_steps=3)
    again.train(resume_from_checkpoint=True)
    assert again.ledger.entries[0].releases == 3
    assert again.state.global_step == 3


def test_a_budget_stops_a_run_before_it_is_overspent(make, tmp_path):
    trainer = make(target_epsilon=30.0, noise_multiplier=None, save_strategy="steps", save_steps=1)
    trainer.train()
    with pytest.raises(BudgetExceededError, match="of it is spent"):
        trainer.train()
    # Nor does a resumed run go on past it: more steps were solved for more noise, but some are spent already.
    longer = make(target_epsilon=30.0, noise_multiplier=None, max_steps=40)
    with pytest.raises(BudgetExceededError, match="38 more releases"):
        longer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    with pytest.raises(BudgetExceededError, match="Train for fewer steps, add noise"):
        make(target_epsilon=0.5, noise_multiplier=0.7)


@pytest.mark.slow
def test_killed_at_random_it_resumes_and_counts_each_step_once(tmp_path):
    script = ROOT / "tests" / "trainer" / "train_privately.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    rng = np.random.default_rng()
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path), "24"]
    kills = 0
    for _ in range(12):
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        progress = tmp_path / "step"
        # Kill it somewhere in the next few steps, in whatever it is doing there.
        start = int(progress.read_text() or 0) if progress.exists() else 0
        target, deadline = start + int(rng.integers(2, 9)), time.time() + 60
        while process.poll() is None and time.time() < deadline:
            if progress.exists() and int(progress.read_text() or 0) >= target and kills < 3:
                time.sleep(float(rng.uniform(0, 0.05)))
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        output = process.communicate()[0].decode()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, output[-2000:]
    assert kills == 3
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["releases"] == result["steps"] == 24
    assert result["epsilon"] == pytest.approx(PrivacyPlan(**result["plan"]).epsilon)


# --- the teacher's side ----------------------------------------------------------------------------------------------


def test_a_private_teacher_and_its_student(make, tokenizer, tmp_path, student):
    """Trained from text alone with alpha=0; its student's ledger says what the teacher's folder says."""
    trainer = make(teacher=None, alpha=0.0, max_steps=3)
    assert trainer.ledger.unknown[TEACHER_DATA] == NO_TEACHER
    trainer.train()
    trainer.save_model(str(tmp_path / "teacher"))
    student = PrivateDistillationTrainer(
        tiny_model(len(tokenizer), seed=3),
        make(noise_multiplier=None).args,
        teacher_model=str(tmp_path / "teacher"),
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=tokenizer,
    )
    assert student.ledger.epsilon(TEACHER_DATA) == pytest.approx(trainer.ledger.epsilon())
    assert student.ledger.epsilon() is None
    student.train()
    student.save_model(str(tmp_path / "student"))
    assert str(PrivacyLedger.load(tmp_path / "student")) == str(student.ledger)
    # Other weights in its folder, or in a folder of it, are not those that the ledger speaks of.
    folder = str(tmp_path / "teacher")
    assert student.ledger.covers(TEACHER_DATA)
    args = make(noise_multiplier=None).args
    args.teacher_model_init_kwargs = {"revision": "main"}
    other = PrivateDistillationTrainer(
        tiny_model(len(tokenizer)), args, teacher_model=folder, processing_class=tokenizer
    )
    assert not other.ledger.covers(TEACHER_DATA)
    args.teacher_model_init_kwargs = None
    # Trained on, it brings its ledger along.
    more = make(noise_multiplier=None).args
    more.alpha = 0.0
    rows = {"train_dataset": Dataset.from_dict({"text": TEXTS}), "processing_class": tokenizer}
    student = PrivateDistillationTrainer(folder, more, teacher_model=None, **rows)
    assert student.ledger.lines()[2].startswith("earlier transfer set: epsilon")
    # Other weights in its place: the ledger says nothing of them, whether they teach or learn.
    tiny_model(len(tokenizer), seed=8).save_pretrained(folder)
    other = PrivateDistillationTrainer(
        tiny_model(len(tokenizer)), args, teacher_model=folder, processing_class=tokenizer
    )
    assert not other.ledger.covers(TEACHER_DATA)
    student = PrivateDistillationTrainer(folder, more, teacher_model=None, **rows)
    assert "earlier transfer set: not covered; its ledger was not sealed for these weights" in str(student.ledger)
    # An object may have been trained on since it was loaded: nobody knows.
    assert "not covered" in str(make(teacher=tiny_model(len(tokenizer), seed=9)).ledger.lines()[1])


def test_learning_from_text_alone_is_ordinary_training(make, tokenizer, texts, config):
    student = tiny_model(len(tokenizer), seed=1).double()
    trainer = PrivateDistillationTrainer(
        student, config(alpha=0.0), teacher_model=None, train_dataset=texts, processing_class=tokenizer
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    loss = trainer.compute_loss(trainer.model, dict(batch))
    logits = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten()))
    with pytest.raises(ValueError, match="set alpha=0"):
        PrivateDistillationTrainer(
            student, config(), teacher_model=None, train_dataset=texts, processing_class=tokenizer
        )


def test_protected_targets_go_with_it(make):
    trainer = make(protection=None, tagger=RuleTagger(), max_steps=2)
    assert trainer.args.protection == "surrogate"
    trainer.train()
    assert trainer.ledger.entries[0].releases == 2
    # Rows that are tokenised have no text in which values could be replaced.
    rows = trainer.train_dataset.select_columns(["input_ids", "labels", *PII_COLUMNS])
    assert make(protection=None, data=rows, output_dir=str(trainer.args.output_dir) + "2").args.protection == "noise"


# --- PITFALLS: settings ----------------------------------------------------------------------------------------------


def test_the_settings_that_it_needs_are_set(config):
    args = config(target_epsilon=8.0, gradient_checkpointing=True)
    assert args.max_grad_norm == 0
    assert args.ignore_data_skip
    assert args.include_num_input_tokens_seen == "no"
    assert args.gradient_checkpointing_kwargs["use_reentrant"]
    assert config().max_grad_norm == 1.0


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True"),
        ({"optim": "galore_adamw_layerwise", "optim_target_modules": "all-linear"}, "optim="),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2"),
        ({"fp16": True}, "fp16=True"),
        ({"torch_compile": True}, "torch_compile=True"),
        ({"use_liger_kernel": True}, "use_liger_kernel=True"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy="),
        ({"packing": True}, "packing=True"),
        ({"protection": "population"}, "protection='population'"),
        ({"hidden_weight": 0.1}, "hidden_weight=0.1"),
        ({"ghost_clipping": True, "bf16": True}, "ghost_clipping=True"),
        ({"ghost_clipping": True, "privacy_unit": "user"}, "privacy_unit='user'"),
        ({"ghost_clipping": True, "gradient_checkpointing": True}, "gradient_checkpointing=True"),
        ({"max_grad_norm": 0.5}, "max_grad_norm=0.5"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1.0"),
        ({"target_delta": 1.0}, "target_delta=1.0"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"micro_batch_size": 0}, "micro_batch_size=0"),
        ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}, "use_reentrant"),
    ],
)
def test_settings_that_break_the_guarantee_are_refused(config, fields, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        config(target_epsilon=8.0, **fields)


def test_cached_averages_are_refused(make, teacher, tokenizer, texts, config):
    args = config(protection="population", output_dir=config().output_dir + "/cache")
    public = Dataset.from_dict({"text": [f"good day, your pin is {1000 + i}, bye" for i in range(30)]})
    cached = cache_teacher(
        teacher, args, public, tokenizer, tagger=RuleTagger(), top_k=4, protect=True, private_dataset=texts
    )
    with pytest.raises(ValueError, match="averages over the rows"):
        make(teacher=None, data=cached, protection=None)


def test_data_that_cannot_be_sampled_is_refused(make, texts):
    with pytest.raises(ValueError, match="stream"):
        make(data=texts.to_iterable_dataset())
    with pytest.raises(ValueError, match=r"privacy_unit='user' is no column of the training set \(text\)"):
        make(privacy_unit="user")
    missing = texts.add_column("user", [None] + ["a"] * (len(texts) - 1))
    with pytest.raises(ValueError, match="1 rows have no user"):
        make(data=missing, privacy_unit="user")
    lists = texts.add_column("user", [["a"]] * len(texts))
    with pytest.raises(ValueError, match="names or numbers of users are needed"):
        make(data=lists, privacy_unit="user")
    missing = texts.add_column("user", [float("nan")] + [1.0] * (len(texts) - 1))
    with pytest.raises(ValueError, match="1 rows have no user"):
        make(data=missing, privacy_unit="user")
    with pytest.raises(ValueError, match="must lie between 0 and 1 / units"):
        make(target_delta=0.9)
    with pytest.raises(ValueError, match="A batch of 100 is drawn from 60 units"):
        make(per_device_train_batch_size=100)


@pytest.mark.parametrize("adapter", [False, True])
def test_gradient_checkpointing_works(make, tokenizer, adapter):
    peft = LoraConfig(r=2, target_modules=["q_proj"]) if adapter else None
    trainer = make(gradient_checkpointing=True, peft_config=peft)
    trainer.train()
    assert trainer.ledger.entries[0].releases == 2


@pytest.mark.reported
def test_a_checkpoint_that_was_killed_before_its_seal_is_taken_again(make, tmp_path):
    """Its steps are noised anew, so the first ones' weights must not stay: nobody counts them."""
    make(max_steps=3, save_strategy="steps", save_steps=1).train()
    killed = tmp_path / "out" / "checkpoint-3"
    (killed / "seal.json").unlink()
    (killed / "unfinished").touch()
    again = make(max_steps=4, save_strategy="steps", save_steps=4)
    again.train(resume_from_checkpoint=True)
    assert again.ledger.entries[0].releases == again.state.global_step == 4
    # It was taken, and written, again.
    assert (killed / "seal.json").exists()
    assert not (killed / "unfinished").exists()


@pytest.mark.reported
@pytest.mark.parametrize("resume", [True, "checkpoint-2"])
def test_a_later_checkpoint_of_unknown_origin_is_not_passed_over(make, tmp_path, resume):
    make(max_steps=3, save_strategy="steps", save_steps=1).train()
    (tmp_path / "out" / "checkpoint-3" / "seal.json").unlink()
    with pytest.raises(ValueError, match="holds a later checkpoint"):
        make(max_steps=4).train(resume_from_checkpoint=resume if resume is True else str(tmp_path / "out" / resume))
    for path in (tmp_path / "out").glob("*/seal.json"):
        path.unlink()
    # Of an older version, say: nothing begins anew over them, in silence.
    with pytest.raises(ValueError, match=r"has no seal\.json"):
        make(max_steps=4).train(resume_from_checkpoint=True)
