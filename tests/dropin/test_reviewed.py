"""Ways in which protection, or the meaning of an argument, was lost without a word; each was seen."""

import copy
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DataCollatorForLanguageModeling,
    DataCollatorWithFlattening,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

from swingkd import RuleTagger, TeacherServer, cache_teacher
from swingkd.data import DataSettings, prepare_dataset
from swingkd.data.packing import pack
from tests.dropin.habits import CLASSES, Bench, loss_of
from tests.harness import TEXTS
from tests.models.served import Served, serving


@pytest.fixture
def bench(tokenizer, config, tmp_path):
    return Bench(tokenizer, config, tmp_path)


def test_a_collator_that_drops_what_is_private_is_refused(bench):
    """The log would go on to say that private tokens are protected."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as TrlCollator

    for collator in (TrlCollator(pad_token_id=bench.tokenizer.pad_token_id), DataCollatorWithFlattening()):
        trainer = bench.lm(tagger=RuleTagger(), protection="drop", data_collator=collator)
        with pytest.raises(ValueError, match="nothing would be protected"):
            trainer.train()
    assert math.isfinite(loss_of(bench.lm(data_collator=TrlCollator(pad_token_id=bench.tokenizer.pad_token_id))))


class Watch(TrainerCallback):
    """Notes what a step is protected by, and what the settings say."""

    def __init__(self, trainer):
        self.trainer, self.seen = trainer, []

    def on_step_begin(self, args, state, control, **kwargs):
        self.seen.append(
            (args.noise_scale, self.trainer.protection.scale, self.trainer.distillation.args.alpha, args.alpha)
        )


def test_each_trial_is_protected_as_its_settings_say(bench):
    trainer = bench.lm(
        model_init=lambda: bench.student(),
        tagger=RuleTagger(),
        protection="noise",
        max_steps=1,
        eval_dataset={"one": bench.texts.select(range(6)), "two": bench.texts.select(range(6, 12))},
        eval_strategy="epoch",
    )
    watch = Watch(trainer)
    trainer.add_callback(watch)
    search = {"n_trials": 3, "backend": "optuna"}
    best = trainer.hyperparameter_search(
        lambda trial: {
            "noise_scale": trial.suggest_float("noise_scale", 1, 9),
            "alpha": trial.suggest_float("alpha", 0.1, 0.9),
        },
        **search,
    )
    assert math.isfinite(best.objective)
    assert len({scale for scale, *_ in watch.seen}) == 3
    assert all(scale == used and alpha == now for scale, used, alpha, now in watch.seen)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", 1.0),
        ("target_epsilon", 8.0),
        ("protection", "drop"),
        ("hidden_weight", 0.5),
        ("fused_loss", False),
    ],
)
def test_a_search_changes_nothing_that_is_settled(bench, name, value):
    trainer = bench.lm(model_init=lambda: bench.student(), tagger=RuleTagger(), protection="noise", max_steps=1)
    with pytest.raises(ValueError, match=f"The search changes {name}"):
        trainer.hyperparameter_search(
            lambda trial: {name: trial.suggest_categorical(name, [value])}, n_trials=1, backend="optuna"
        )


def test_an_unknown_word_is_text(config):
    words = {"[UNK]": 0, "[PAD]": 1, "hello": 2, ",": 3, "my": 4, "pin": 5, "is": 6, ".": 7}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    reader = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]")
    rows = Dataset.from_dict({"text": ["hello , my pin is 4071 ."] * 3})
    direct = prepare_dataset(rows, reader, RuleTagger(), DataSettings())
    done = rows.map(lambda row: {"input_ids": reader(row["text"])["input_ids"]})
    again = prepare_dataset(done, reader, RuleTagger(), DataSettings())
    assert again["pii_likelihood"][:] == direct["pii_likelihood"][:]
    assert max(map(max, again["pii_likelihood"][:])) == 255


def test_packed_rows_are_not_joined_into_one_text(bench):
    once = pack({"input_ids": [[1, 2, 3], [4, 5], [6]]}, "bfd", 6)
    twice = pack(once, "bfd", 12)
    assert [row.tolist() for row in twice["position_ids"]] == [[0, 1, 2, 0, 1, 0]]
    trainer = bench.lm(packing=True, max_length=64)
    whole = trainer.evaluate(trainer.train_dataset)["eval_perplexity"]
    again = trainer.evaluate(trainer.train_dataset.select(range(len(trainer.train_dataset))))["eval_perplexity"]
    assert again == pytest.approx(whole, rel=1e-6)
    assert trainer.predict(bench.texts.select(range(10))).predictions.shape[0] == 10


def test_a_teacher_that_mixes_texts_is_not_cached_on_packed_rows(bench):
    bloom = BloomForCausalLM(BloomConfig(vocab_size=len(bench.tokenizer), hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="does not keep the texts of a packed row apart"):
        cache_teacher(bloom, bench.config(packing=True, max_length=64), bench.texts, bench.tokenizer)


def test_no_key_and_no_password_is_told(bench, caplog):
    with serving(Served(bench.teacher(), bench.tokenizer)) as url:
        assert TeacherServer(url, api_key="sk-secret\n").model == "tiny"
        with pytest.raises(ValueError, match="holds a blank") as caught:
            TeacherServer(url, api_key="sk-sec ret")
        assert "sk-sec" not in str(caught.value)
        with pytest.raises(ValueError, match="name and a password") as caught:
            TeacherServer(url.replace("http://", "http://ann:hunter2@"))
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ValueError, match="does not answer") as caught:
        TeacherServer("http://127.0.0.1:9/v1", api_key="sk-secret", attempts=1)
    assert caught.value.__cause__ is None


def test_another_teacher_under_one_name_is_another(bench):
    named = []
    for seed in (1, 2):
        model = bench.student(hidden=24) if seed == 1 else bench.teacher()
        with serving(Served(model, bench.tokenizer)) as url:
            server = TeacherServer(url)
            server.check(bench.tokenizer, 5)
            named.append(server.fingerprint)
    assert named[0] != named[1]


def test_a_private_run_with_model_init_runs_twice(bench):
    trainer = bench.lm(model_init=lambda: bench.student(), noise_multiplier=1.0)
    trainer.train()
    once = trainer.ledger.epsilon()
    trainer.train()
    assert trainer.ledger.epsilon() > once
    assert trainer.ledger.entries[0].releases == 4


def test_tokenised_rows_without_text_are_predicted(bench):
    trainer = bench.classifier(tagger=RuleTagger())
    rows = Dataset.from_dict(CLASSES)
    done = rows.map(lambda row: bench.tokenizer(row["text"]), remove_columns=["text", "label"])
    expected = trainer.predict(rows).predictions
    np.testing.assert_allclose(trainer.predict(done).predictions, expected, atol=1e-6)
    test = Dataset.from_dict({"text": CLASSES["text"], "label": [-1] * 12})
    output = trainer.predict(test)
    assert output.label_ids is None
    np.testing.assert_allclose(output.predictions, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"mlm": False}, "masks nothing"), ({"whole_word_mask": True}, "whole_word_mask=True masks words")],
)
def test_collators_whose_settings_would_be_lost_are_refused(bench, options, says):
    reader = copy.deepcopy(bench.tokenizer)
    reader.add_special_tokens({"mask_token": "<mask>"})
    collator = DataCollatorForLanguageModeling(reader, **options)
    with pytest.raises(ValueError, match=says):
        bench.masked(data_collator=collator)


def test_the_best_of_several_data_sets_is_that_of_one(bench):
    """As reported of sentence-transformers: an error after the first evaluation, hours from the start."""
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1}
    sets = {"one": bench.texts.select(range(6)), "two": bench.texts.select(range(6, 12))}
    for metric in (None, "perplexity"):
        with pytest.raises(ValueError, match=r"'eval_one_(loss|perplexity)'"):
            bench.lm(eval_dataset=sets, metric_for_best_model=metric, save_steps=1, **best)
    trainer = bench.lm(eval_dataset=sets, metric_for_best_model="eval_two_perplexity", save_steps=1, **best)
    trainer.train()
    assert trainer.state.best_metric == min(
        log["eval_two_perplexity"] for log in trainer.state.log_history if "eval_two_perplexity" in log
    )


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_tokens_that_a_server_rules_out_have_finite_gradients(bench, beta):
    """As reported of TRL's reverse KL with a teacher behind a server: the loss was finite, its gradient was not."""

    def ruled_out(answer):
        for choice in answer["choices"]:
            for one in choice["prompt_logprobs"][1:]:
                for value in one.values():
                    value["logprob"] = -9999.0 if value["rank"] >= 5 else value["logprob"]
        return answer

    served = Served(bench.teacher(), bench.tokenizer)
    with serving(served) as url:
        server, args = TeacherServer(url), bench.config(protection="none")
        served.always = ruled_out
        rows = cache_teacher(
            server, args, bench.texts.select(range(12)), bench.tokenizer, top_k=10, tagger=RuleTagger()
        )
    trainer = bench.lm(rows, teacher_model=None, beta=beta, protection="drop")
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(6)])
    trainer.compute_loss(trainer.model, batch).backward()
    assert all(p.grad.isfinite().all() for p in trainer.model.parameters())


@pytest.mark.slow
def test_a_search_over_adapters(bench):
    """As asked for of TRL, whose trainers make the adapter at once."""
    trainer = bench.lm(
        model_init=lambda: bench.student(),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
        eval_dataset=bench.texts.select(range(6)),
        eval_strategy="epoch",
        max_steps=1,
    )
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)}, n_trials=2, backend="optuna"
    )
    assert math.isfinite(best.objective)


def test_what_would_train_nothing_is_refused(bench):
    model = bench.student()
    own = (torch.optim.SGD(model.parameters(), lr=0.1), None)
    with pytest.raises(ValueError, match="holds weights of the model as it was"):
        bench.lm(model=model, optimizers=own, peft_config=LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="Let it take compute_result"):
        bench.lm(batch_eval_metrics=True, compute_metrics=lambda prediction: {})
    with pytest.raises(ValueError, match="teacher_model gives a Linear"):
        bench.lm(teacher_model=torch.nn.Linear(2, 2))
    assert len(TEXTS) == 60
