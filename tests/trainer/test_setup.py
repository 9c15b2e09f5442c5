"""What the constructor decides, in which order it complains, and that it leaves the caller's settings alone."""

import ast
import copy
import dataclasses
import inspect
import re
import textwrap
from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PromptTuningConfig
from transformers import AutoModelForSequenceClassification, LlamaConfig

from swingkd import PrivateDistillationTrainer, RuleTagger, cache_teacher
from swingkd.targets import Drop, NoisedTarget
from swingkd.trainer import dp_trainer, evaluation, publishing, saving, sealing, searching, setup
from swingkd.trainer.protections import PROTECTIONS
from tests.harness import tiny_model


@pytest.fixture
def given(student, teacher, tokenizer, texts, config):
    """A function that makes a trainer; whatever is given differs."""

    def make(args=None, **others):
        fields = {key: others.pop(key) for key in list(others) if key in config().__dataclass_fields__}
        parts = {
            "model": student,
            "teacher_model": teacher,
            "train_dataset": texts,
            "processing_class": tokenizer,
            "tagger": RuleTagger(),
        }
        return PrivateDistillationTrainer(args=args or config(**fields), **(parts | others))

    return make


def state(args):
    return {field.name: copy.deepcopy(getattr(args, field.name)) for field in dataclasses.fields(args)}


@pytest.mark.parametrize("fields", [{}, {"target_epsilon": 8.0}, {"protection": "noise", "packing": True}])
def test_the_callers_settings_are_left_as_they_are(given, config, fields):
    args = config(**fields)
    before = state(args)
    trainer = given(args)
    trainer.train()
    trainer.evaluate(trainer.train_dataset)
    assert state(args) == before
    assert trainer.args is not args


def test_one_object_for_an_evaluation_and_then_a_distillation(given, config):
    args = config()
    evaluation = given(args, teacher_model=None, train_dataset=None, tagger=None)
    assert evaluation.args.protection == "none"
    assert given(args).args.protection == "surrogate"


def test_one_object_with_a_public_model_and_without(given, config, tokenizer):
    args = config()
    assert given(args, public_model=tiny_model(len(tokenizer), seed=5)).args.protection == "mollify"
    assert given(args).args.protection == "surrogate"


def test_one_object_for_shorter_models_and_then_for_longer(given, config, tokenizer):
    args = config(max_length=None)
    short = [tiny_model(len(tokenizer), seed=seed, max_position_embeddings=32) for seed in (1, 2)]
    assert given(args, model=short[0], teacher_model=short[1]).args.max_length == 32
    assert given(args).args.max_length == 256


def test_a_protection_with_a_typing_error_is_the_configs_own_error_whenever_it_was_set(given, config, texts, tmp_path):
    says = r"protection='populaton' is not known\. Choose one of surrogate, noise, mollify, population, none, drop\."
    with pytest.raises(ValueError, match=says):
        config(protection="populaton")
    args = config()
    args.protection = "populaton"
    with pytest.raises(ValueError, match=says):
        given(args)
    trainer = given()
    trainer.args.protection = "populaton"
    with pytest.raises(ValueError, match=says):
        trainer.train()


def test_a_cache_takes_no_protection_with_a_typing_error(config, teacher, texts, tokenizer):
    args = config()
    args.protection = "populaton"
    with pytest.raises(ValueError, match="protection='populaton' is not known"):
        cache_teacher(teacher, args, texts, tokenizer, tagger=RuleTagger())


def test_a_cache_leaves_the_settings_alone(config, teacher, texts, tokenizer):
    args = config(max_length=None)
    before = state(args)
    cache_teacher(teacher, args, texts, tokenizer, tagger=RuleTagger())
    assert state(args) == before


def test_every_protection_has_one_name(config):
    field = config().__dataclass_fields__["protection"]
    assert set(PROTECTIONS) == set(field.metadata["choices"])


def test_a_setup_cannot_be_changed(given):
    trainer = given()
    with pytest.raises(dataclasses.FrozenInstanceError):
        trainer.setup.args = None


def test_the_errors_come_in_this_order(given, config, student, teacher, tokenizer, texts, tmp_path):
    """Every mistake at once: mended one by one, each gives way to the next.  What is cheap to see comes first."""
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = bare.eos_token = None
    torch.manual_seed(0)
    classifier = AutoModelForSequenceClassification.from_config(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=2,
        )
    )
    args = config(target_epsilon=8.0, lmbda=0.5)
    args.protection, args.alpha = "populaton", 2.0
    wrong = {
        "args": args,
        "model": teacher,
        "train_dataset": IterableDataset.from_generator(lambda: iter(())),
        "teacher_processing_class": copy.deepcopy(tokenizer),
        "processing_class": bare,
        "peft_config": PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
        "public_model": str(tmp_path / "nowhere"),
        "tagger": None,
    }
    args.push_to_hub, args.hub_strategy = True, transformers.trainer_utils.HubStrategy.CHECKPOINT
    empty = Dataset.from_dict({"text": []})
    ordinary = Dataset.from_dict({"text": ["hello there", "thank you"]})
    mends = [
        ("protection='populaton' is not known", lambda: setattr(args, "protection", "population")),
        ("alpha=2.0 must lie in", lambda: setattr(args, "alpha", 0.5)),
        ("protection='population' and differential privacy", lambda: setattr(args, "protection", "mollify")),
        ("The teacher is the student", lambda: wrong.update(model=classifier)),
        ("pushes whole checkpoints", lambda: setattr(args, "push_to_hub", False)),
        ("A stream cannot be sampled", lambda: wrong.update(train_dataset=ordinary)),
        ("lmbda=0.5 needs a teacher that reads", lambda: setattr(args, "lmbda", 0.0)),
        ("neither a padding token nor", lambda: wrong.update(processing_class=tokenizer)),
        ("There is no folder", lambda: wrong.update(public_model=None)),
        ("pass public_model=", lambda: setattr(args, "protection", "noise")),
        ("The student model is a LlamaForSequenceClassification", lambda: wrong.update(model=student)),
        ("puts tokens of its own before the text", lambda: wrong.update(peft_config=None)),
        ("there is neither a tagger nor a", lambda: wrong.update(tagger=RuleTagger())),
        ("found nothing private in the training set", lambda: wrong.update(train_dataset=empty)),
        ("The data set is empty", lambda: wrong.update(train_dataset=texts)),
    ]
    for says, mend in mends:
        with pytest.raises(ValueError, match=re.escape(says)):
            given(**wrong)
        mend()
    given(**wrong).train()


def test_the_constructor_and_each_step_of_the_setup_can_be_read_at_once():
    steps = (
        setup.load_models,
        setup.choose_protection,
        setup.check_fit,
        setup.add_adapter,
        setup.prepare_rows,
        PrivateDistillationTrainer.__init__,
    )
    for step in steps:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(step))).body
        assert function.end_lineno - function.body[0].lineno < 45, step.__name__


def test_upstream_still_has_the_lines_that_our_hooks_name():
    """Each overridden private method of `Trainer` quotes the line that it replaces or follows."""
    upstream = inspect.getsource(transformers.Trainer)
    classes = (
        dp_trainer.DPTrainer,
        sealing.SealingTrainer,
        publishing.PublishingTrainer,
        evaluation.EvaluatingTrainer,
        searching.SearchingTrainer,
        saving.SavingTrainer,
        PrivateDistillationTrainer,
    )
    hooks = [
        (name, method)
        for kind in classes
        for name, method in vars(kind).items()
        if name.startswith("_") and not name.startswith("__") and hasattr(transformers.Trainer, name)
        if inspect.isfunction(method)
    ]
    assert len(hooks) >= 7
    for name, method in hooks:
        quoted = re.search(r"# [A-Z][^`]*`([^`]+)`", inspect.getsource(method))
        assert quoted, f"{name} names no line of Trainer"
        assert quoted[1].split("...")[0] in upstream, f"{name}: {quoted[1]}"


def test_own_protections_and_adapters_still_come_through(given):
    trainer = given(target_protection=Drop(), peft_config=LoraConfig(target_modules=["q_proj"]), model=tiny_model(400))
    trainer.train()
    assert isinstance(trainer.protection, Drop)
    assert Path(trainer.args.output_dir).exists()


def test_the_trainers_own_settings_may_be_changed_until_it_trains(given, config):
    """transformers once froze its settings, and hyperparameter searches broke: ours are a copy, and no frozen one."""
    args = config(alpha=0.5, protection="none", max_steps=1)
    trainer = given(args, tagger=None)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    before = float(trainer.compute_loss(trainer.model, dict(batch)))
    trainer.args.alpha, trainer.args.max_steps = 0.0, 3
    assert float(trainer.compute_loss(trainer.model, dict(batch))) != before
    trainer.train()
    assert trainer.state.global_step == 3
    assert (args.alpha, args.max_steps) == (0.5, 1)


def test_a_copy_is_not_made_anew(config):
    """TRL once copied with dataclasses.replace, which sets up the process and its device again."""
    args = config()
    args.run_name = "set since"
    own = args.settled(max_length=7)
    assert own.distributed_state is args.distributed_state
    assert (own.run_name, own.max_length, args.max_length) == ("set since", 7, 64)


def test_a_protection_of_ones_own_is_not_overruled_by_a_name(given):
    """Its targets are softened as the settings say, and nothing says that another one was used."""
    own = NoisedTarget(None, scale=0.0)
    trainer = given(target_protection=own, max_temperature=9.0)
    assert trainer.args.protection is None
    assert trainer.protection is own
    assert trainer.args.temperature_settings.maximum == 9.0
    assert trainer._identity["target_protection"] == "NoisedTarget"
    assert given()._identity["target_protection"] is None
