"""Numbers that are none, wherever they come in: one error that names them, no student, no card."""

import dataclasses
import json
import math
import time

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer, cache_teacher, distillation_loss
from swingkd.audit import epsilon_lower_bound
from swingkd.audit.continuation import extract_continuations
from swingkd.audit.generation import sample_texts
from swingkd.audit.records import text_records
from swingkd.data import DistillationCollator
from swingkd.decentralized import ClientArguments, PartitionSettings
from swingkd.decentralized.aggregation import DSFL, Cronus, RandomNeighbours, SDDist
from swingkd.decentralized.federation import FederationSettings
from swingkd.guards import _numbers
from swingkd.models.loading import load_pretrained
from swingkd.privacy import DPSGD, DPSettings, LedgerEntry, PrivacyLedger, PrivacyPlan, ShardAnswers
from swingkd.privacy.accounting import Releases, gaussian_epsilon
from swingkd.privacy.gaussian import gdp_delta, gdp_mu
from swingkd.targets import MollifiedTarget, NoisedTarget, PopulationTarget, TemperatureSettings
from swingkd.vision import ClassifierArguments, DataFreeArguments, GeneratorLoss, SampleSelectionArguments
from tests.harness import tiny_model

WRONG = (math.nan, math.inf, -math.inf)
FEDERATION = {"people": {}, "models": [{"kind": "MLP"}]}
# Every dataclass of settings, and what it needs beside the number.
SETTINGS = [
    (PrivateDistillationConfig, {"output_dir": "out", "report_to": []}),
    (ClassifierArguments, {"output_dir": "out"}),
    (DataFreeArguments, {"output_dir": "out"}),
    (SampleSelectionArguments, {"output_dir": "out"}),
    (GeneratorLoss, {}),
    (ClientArguments, {}),
    (PartitionSettings, {"data": {}, "client": "who", "text": "text"}),
    (FederationSettings, FEDERATION),
    (SDDist, {}),
    (RandomNeighbours, {}),
    (DSFL, {}),
    (Cronus, {}),
    (DPSettings, {"units": 100, "batch": 10, "steps": 5, "noise_multiplier": 1.0}),
    (PrivacyPlan, {"sampling_rate": 0.1, "steps": 5, "noise_multiplier": 1.0}),
    (LedgerEntry, {"mechanism": "Gaussian", "releases": 1, "delta": 1e-5, "noise_multiplier": 1.0}),
    (TemperatureSettings, {}),
]
# Where infinity has a meaning.
INFINITE = {"mollify_bound", "mollify_order"}


@pytest.mark.parametrize(("kind", "needed"), SETTINGS, ids=lambda value: getattr(value, "__name__", None))
def test_every_number_of_every_settings_is_guarded(kind, needed):
    names = [field.name for field in dataclasses.fields(kind) if field.name in _numbers(kind)]
    assert names
    kind(**needed)
    for name in names:
        for value in WRONG:
            if name in INFINITE and value == math.inf:
                continue
            with pytest.raises(ValueError, match=name):
                kind(**(needed | {name: value}))
        if _numbers(kind)[name]:
            with pytest.raises(ValueError, match=rf"{name}=1\.5 must be a whole number|{name}.*integer"):
                kind(**(needed | {name: 1.5}))


@pytest.mark.parametrize(
    "fields",
    [
        {"target_epsilon": math.nan},
        {"target_epsilon": -1.0},
        {"target_epsilon": 0.0},
        {"target_delta": -1.0},
        {"rounds": 1.5},
        {"rounds": math.nan},
        {"clip_norm": math.inf},
    ],
)
def test_clients_arguments(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        ClientArguments(**fields)


def test_targets_and_losses_take_no_such_numbers():
    for make in (
        lambda: NoisedTarget(None, scale=math.inf),
        lambda: NoisedTarget(None, scale=math.nan),
        lambda: MollifiedTarget(bound=math.nan),
        lambda: MollifiedTarget(order=math.nan),
        lambda: PopulationTarget(None, share=math.nan),
    ):
        with pytest.raises(ValueError, match=r"scale|bound|order|share"):
            make()
    logits = torch.zeros(1, 2, 4)
    for fields in ({"alpha": math.nan}, {"beta": math.inf}, {"alpha": 2.0}):
        with pytest.raises(ValueError, match="must lie in"):
            distillation_loss(logits, logits, {}, **fields)


def poisoned(model, value=math.nan):
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] = value
    return model


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("role", ["student", "teacher", "public model"])
def test_weights_are_looked_at_once_when_they_are_loaded(role, value, tmp_path, student, teacher, texts, tokenizer):
    public = tiny_model(len(tokenizer), seed=5)
    models = {"student": student, "teacher": teacher, "public model": public}
    poisoned(models[role], value).save_pretrained(tmp_path / "wrong")
    for given in (models[role], str(tmp_path / "wrong")):
        some = models | {role: given}
        with pytest.raises(ValueError, match=f"weights of the {role} are not finite .*embed_tokens"):
            PrivateDistillationTrainer(
                some["student"],
                PrivateDistillationConfig(output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[]),
                teacher_model=some["teacher"],
                train_dataset=texts,
                processing_class=tokenizer,
                public_model=some["public model"],
            )


def test_a_cache_that_holds_nan_is_refused(config, student, teacher, texts, tokenizer):
    args = config(protection="none")
    cached = cache_teacher(teacher, args, texts, tokenizer, exact=True)
    spoilt = cached.to_dict()
    spoilt["teacher_log_probs"][3][1] = math.nan
    spoilt = Dataset.from_dict(spoilt, features=cached.features)
    with pytest.raises(ValueError, match=r"teacher_log_probs .*not finite"):
        PrivateDistillationTrainer(student, args, teacher_model=None, train_dataset=spoilt, processing_class=tokenizer)


def test_a_training_that_blows_up_stops_without_a_card(tmp_path, config, student, teacher, texts, tokenizer):
    args = config(learning_rate=1e30, max_steps=20, protection="none", max_grad_norm=0.0, save_strategy="steps")
    args.save_steps = 1
    trainer = PrivateDistillationTrainer(
        student, args, teacher_model=teacher, train_dataset=texts, processing_class=tokenizer
    )
    with pytest.raises(ValueError, match=r"loss is (nan|inf) at step|weights of the student are not finite"):
        trainer.train()
    poisoned(trainer.model)
    for act in (trainer.create_model_card, trainer.save_model, lambda: trainer._save(str(tmp_path / "model"))):
        with pytest.raises(ValueError, match="weights of the student are not finite"):
            act()
    assert not list(tmp_path.rglob("README.md"))
    assert not list((tmp_path / "model").glob("*.safetensors"))


def broken_file(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_file_with_a_missing_or_another_models_tensor_is_refused(tmp_path, student):
    name = "model.layers.0.mlp.up_proj.weight"
    student.save_pretrained(tmp_path)
    broken_file(tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=rf"lacks 1 of the model's tensors \(such as {name}\)"):
        load_pretrained(AutoModelForCausalLM, str(tmp_path))
    student.save_pretrained(tmp_path)
    extra = "model.layers.7.mlp.up_proj.weight"
    broken_file(tmp_path, lambda tensors: tensors.update({extra: torch.zeros(2, 2)}))
    with pytest.raises(ValueError, match=rf"no place for \(such as {extra}\)"):
        load_pretrained(AutoModelForCausalLM, str(tmp_path))
    student.save_pretrained(tmp_path)
    broken_file(tmp_path, lambda tensors: tensors.update({"other_head.weight": torch.zeros(2, 2)}))
    load_pretrained(AutoModelForCausalLM, str(tmp_path))


@pytest.mark.parametrize("option", [{"trust_remote_code": True}, {"use_safetensors": False}])
def test_no_option_lets_a_folder_run_code(option, config, tmp_path, student):
    student.save_pretrained(tmp_path)
    for field in ("model_init_kwargs", "teacher_model_init_kwargs"):
        for given in (option, json.dumps(option)):
            with pytest.raises(ValueError, match=next(iter(option))):
                config(**{field: given})
    with pytest.raises(ValueError, match=next(iter(option))):
        load_pretrained(AutoModelForCausalLM, str(tmp_path), **option)
    with pytest.raises(ValueError, match=next(iter(option))):
        FederationSettings(people={}, models=[{"name": str(tmp_path), **option}])


# --- accountants -----------------------------------------------------------------------------------------------------


def test_deltas_too_small_to_be_computed_with_are_refused_with_the_way_out():
    releases = [Releases(1.0, 0.5, 100)]
    for delta in (1e-13, 1e-14, 1e-16, 1e-300):
        with pytest.raises(ValueError, match=r"too small to be computed with: use 1e-12 or more .*rdp"):
            gaussian_epsilon(releases, delta)
        with pytest.raises(ValueError, match="too small"):
            PrivacyPlan(0.5, 100, 1.0, delta=delta)
        assert gaussian_epsilon(releases, delta, "rdp") > gaussian_epsilon(releases, 1e-12)
        assert PrivacyPlan(0.5, 100, 1.0, delta=delta, accountant="rdp").epsilon > 0
        assert PrivacyPlan(1.0, 100, 1.0, delta=delta).epsilon > 0
    inside, outside = torch.arange(40.0) + 50, torch.arange(40.0)
    with pytest.raises(ValueError, match="too small"):
        epsilon_lower_bound(inside, outside, delta=1e-14, method="f_dp")


@pytest.mark.parametrize("delta", [1e-10, 1e-11, 1e-12])
def test_the_sharper_audit_bound_works_at_small_deltas(delta):
    assert gdp_delta(1.0, gdp_mu(1.0, delta)) == pytest.approx(delta, rel=1e-3)
    inside, outside = torch.arange(400.0) + 500, torch.arange(400.0)
    found = epsilon_lower_bound(inside, outside, delta=delta, method="f_dp")
    looser = epsilon_lower_bound(inside, outside, delta=1e-5, method="f_dp")
    # The Gaussian trade-off that explains so much has a larger epsilon where less is forgiven.
    assert 1 < looser.epsilon < found.epsilon


@pytest.mark.parametrize(
    "releases",
    [
        [Releases(1.0, 1e-9, 10**9)],
        [Releases(1e6, 0.01, 1000)],
        [Releases(1e-3, 0.5, 10**9)],
        [Releases(1 + i / 100, 0.01, 100) for i in range(100)],
    ],
    ids=["many", "noisy", "loud", "of many kinds"],
)
def test_whatever_a_ledger_may_hold_is_added_up_in_a_moment(releases):
    """Where the tight accountant would take gigabytes or minutes: by a bound that is never too small."""
    began = time.process_time()
    found = gaussian_epsilon(releases, 1e-5)
    assert time.process_time() - began < 20  # it took 50 s, or 13 GB
    bound = gaussian_epsilon(releases, 1e-5, "rdp")
    assert found > 0
    assert found <= 2 * bound


def test_more_noise_or_a_larger_delta_never_costs_more():
    few = [Releases(1.0, 0.01, 1000)]
    assert gaussian_epsilon(few, 0.999) <= gaussian_epsilon(few, 0.05)
    assert gaussian_epsilon([Releases(1e6, 0.01, 1000)], 1e-5) <= gaussian_epsilon([Releases(1e3, 0.01, 1000)], 1e-5)
    assert PrivacyLedger([LedgerEntry("Gaussian", releases=3, delta=0.999, noise_multiplier=1.0)]).lines()


# --- numbers given to functions and objects ---


def test_objects_of_privacy_take_no_such_numbers():
    model = torch.nn.Linear(2, 2)
    plan = PrivacyPlan(0.5, 10, 1.0)
    for units in (math.nan, 0, -5, 2.5, True):
        with pytest.raises(ValueError, match="units="):
            DPSGD(model, torch.optim.SGD(model.parameters(), 0.1), plan, units)
    dp = DPSGD(model, torch.optim.SGD(model.parameters(), 0.1), plan, 4)
    for value in WRONG:
        with pytest.raises(ValueError, match="weight="):
            dp.beside(lambda: model.weight.sum(), value)
        with pytest.raises(ValueError, match="loss="):
            dp.beside(lambda v=value: model.weight.sum() * v, 1.0)
        with pytest.raises(ValueError, match="budget="):
            PrivacyLedger(budget=value)
        with pytest.raises(ValueError, match="epsilon="):
            PrivacyPlan.solve(epsilon=value, sampling_rate=0.1, steps=5)
        if value != -math.inf:
            with pytest.raises(ValueError, match="noise_multiplier="):
                ShardAnswers(value)
    losses = model(torch.ones(3, 2)).sum(1)
    for units in (torch.tensor([math.nan, 1, 2]), torch.tensor([0, 1])):
        with pytest.raises(ValueError, match="units must be whole numbers, one for each of the 3 rows"):
            dp.accumulate(losses, units)


class AsItIs:
    """A protection of one's own, that changes nothing."""

    def protect(self, log_probs, positions):
        return log_probs


def test_the_loss_as_a_function_takes_no_such_numbers(student, teacher, tokenizer):
    batch = DistillationCollator(tokenizer.pad_token_id)([{"input_ids": tokenizer("hello bob")["input_ids"]}] * 2)
    read = {name: batch[name] for name in ("input_ids", "attention_mask")}
    one, two = student(**read).logits, teacher(**read).logits
    assert distillation_loss(one, two, batch).isfinite()
    for logits in ((one * math.nan, two), (one, two * math.nan)):
        with pytest.raises(ValueError, match="The loss is nan"):
            distillation_loss(*logits, batch)
    private = batch | {"pii_likelihood": torch.ones_like(batch["pii_likelihood"])}
    for given in (batch, private):
        with pytest.raises(ValueError, match="The loss is nan"):
            distillation_loss(one, two * math.nan, given, protection=AsItIs())
    for likelihood in (math.nan, -3.0, 255.0):
        wrong = batch | {"pii_likelihood": torch.full_like(batch["pii_likelihood"], likelihood)}
        with pytest.raises(ValueError, match="pii_likelihood must lie in"):
            distillation_loss(one, two, wrong)
    for count in WRONG:
        with pytest.raises(ValueError, match="num_items_in_batch"):
            distillation_loss(one, two, batch, num_items_in_batch=count)


def test_a_teacher_that_is_none_is_not_cached(config, teacher, texts, tokenizer):
    with pytest.raises(ValueError, match="weights of the teacher are not finite"):
        cache_teacher(poisoned(teacher), config(protection="none"), texts, tokenizer)


def test_a_cache_of_impossible_probabilities_is_refused(config, student, teacher, texts, tokenizer):
    args = config(protection="none")
    cached = cache_teacher(teacher, args, texts, tokenizer, exact=True)
    spoilt = cached.to_dict()
    spoilt["teacher_log_probs"][3][1] = 50.0
    spoilt = Dataset.from_dict(spoilt, features=cached.features)
    with pytest.raises(ValueError, match=r"teacher_log_probs holds 50.0, which is the logarithm of no probability"):
        PrivateDistillationTrainer(student, args, teacher_model=None, train_dataset=spoilt, processing_class=tokenizer)


@pytest.mark.parametrize("fields", [{"top_k": -1}, {"top_k": 0}, {"temperature": math.nan}, {"queries": (0,)}])
def test_attacks_take_no_such_numbers(student, tokenizer, fields):
    records = text_records(["hello bob, my pin is 1234."] * 2, "texts")
    with pytest.raises(ValueError, match=next(iter(fields))):
        extract_continuations(student, tokenizer, records, prefix_tokens=2, suffix_tokens=2, **fields)
    # Here 0 means all tokens, as it does to `generate`.
    if fields.get("top_k", 0) < 0:
        with pytest.raises(ValueError, match="top_k"):
            sample_texts(student, tokenizer, ["hello"], max_new_tokens=2, progress=False, **fields)
