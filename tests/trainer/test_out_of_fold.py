"""No row is answered by a teacher that saw it, whatever shuffles, packs, caches or stops on the way."""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model

from swingkd import (
    Folds,
    OutOfFoldTeacher,
    PrivateDistillationConfig,
    PrivateDistillationTrainer,
    RuleTagger,
    cache_teacher,
    train_out_of_fold,
)
from swingkd.data.columns import FOLD, UNSEEN
from swingkd.privacy.ledger_entry import compose
from swingkd.surrogates import Surrogates
from swingkd.tasks import task_of
from swingkd.trainer import crossfit
from swingkd.trainer.crossfit import learnt_columns
from swingkd.trainer.out_of_fold import ABOUT_FILE, FOLDS_FILE
from tests.harness import TEXTS, assert_same, tiny_model
from tests.tasks.setups import make_setup

K = 3
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


@pytest.fixture(scope="module")
def rows():
    # No two of them begin alike: a row is known by its first words.
    return Dataset.from_dict({"text": [f"{i} {chr(97 + i)} {TEXTS[i % len(TEXTS)]}" for i in range(24)]})


@pytest.fixture
def adapted(tokenizer):
    model = get_peft_model(tiny_model(len(tokenizer), seed=1), LORA, adapter_name="fold-0")
    for number in range(1, K):
        torch.manual_seed(number)
        model.add_adapter(f"fold-{number}", LORA)
    return model.eval()


@pytest.fixture
def whole(tokenizer):
    return [tiny_model(len(tokenizer), seed=10 + number).eval() for number in range(K)]


@pytest.fixture
def fitted(tokenizer, config, rows, tmp_path):
    """A function that trains tiny teachers out of fold."""

    def fit(base=None, data=rows, folder="teachers", **options):
        names = ("folds", "k", "held_out", "peft_config", "tagger", "surrogates", "train")
        given = {name: options.pop(name) for name in names if name in options}
        args = config(
            output_dir=str(tmp_path / folder),
            **({"max_steps": 3, "save_strategy": "steps", "save_steps": 1} | options),
        )
        base = base if base is not None else tiny_model(len(tokenizer), seed=1)
        return train_out_of_fold(base, args, data, tokenizer, **given)

    return fit


def trainer_of(teacher, student, tokenizer, config, data, **fields):
    return PrivateDistillationTrainer(
        copy.deepcopy(student),
        config(alpha=1.0, protection="none", **fields),
        teacher_model=teacher,
        train_dataset=data,
        eval_dataset=data.remove_columns(FOLD) if FOLD in data.column_names else data,
        processing_class=tokenizer,
    )


def spied(teacher, monkeypatch):
    """Note which ids each of the teachers is asked about."""
    asked = []

    def answer(self, number, inputs):
        asked.extend(zip(number.tolist(), inputs["input_ids"].tolist(), strict=True))
        return original(self, number, inputs)

    original = OutOfFoldTeacher._answer
    monkeypatch.setattr(OutOfFoldTeacher, "_answer", answer)
    return asked


@given(st.lists(st.integers(0, K - 1), min_size=1, max_size=9), st.integers(1, K - 1), st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_batch_of_several_folds_is_answered_row_by_row(folds, held_out, adapters):
    torch.manual_seed(0)
    if adapters:
        models = get_peft_model(tiny_model(40, seed=1), LORA, adapter_name="fold-0").eval()
        for number in range(1, K):
            models.add_adapter(f"fold-{number}", LORA)
    else:
        models = [tiny_model(40, seed=number).eval() for number in range(K)]
    teacher = OutOfFoldTeacher(models, held_out=held_out).eval()
    ids = torch.randint(0, 40, (len(folds), 7))
    with torch.no_grad():
        said = teacher(torch.tensor(folds), input_ids=ids, use_cache=False).logits.log_softmax(-1)
    for row, fold in enumerate(folds):
        probabilities = 0
        for place in range(held_out):
            number = (fold - place) % K
            if adapters:
                models.set_adapter(f"fold-{number}")
            one = models if adapters else models[number]
            # By the formula, in float64: the mean of those that were trained without this fold.
            assert fold in {(number + i) % K for i in range(held_out)}
            with torch.no_grad():
                probabilities = probabilities + one(input_ids=ids[row : row + 1]).logits[0].double().softmax(-1)
        torch.testing.assert_close(said[row].double(), (probabilities / held_out).log(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["adapted", "whole"])
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("held_out", [1, 2])
def test_no_row_is_answered_by_a_teacher_that_saw_it(
    kind, packing, held_out, request, student, tokenizer, config, rows, monkeypatch
):
    folds = Folds.of(rows, K, near_duplicates=False, seed=2)
    teacher = OutOfFoldTeacher(request.getfixturevalue(kind), folds, held_out=held_out)
    known = {
        tuple(tokenizer(text)["input_ids"][:3]): fold
        for text, fold in zip(rows["text"], folds.of_row.tolist(), strict=True)
    }
    assert len(known) == len(rows)
    asked = spied(teacher, monkeypatch)
    fields = {"max_length": 128, "packing": packing, "num_train_epochs": 2, "max_steps": -1, "eval_strategy": "epoch"}
    trainer = trainer_of(teacher, student, tokenizer, config, rows.shuffle(seed=5), **fields)
    assert trainer.evaluate()["eval_soft_loss"] > 0
    asked.clear()
    monkeypatch.setattr(trainer, "_maybe_log_save_evaluate", lambda *a, **k: None)
    trainer.train()
    seen = set()
    for number, ids in asked:
        begins = [tuple(ids[i : i + 3]) for i in range(len(ids)) if tuple(ids[i : i + 3]) in known]
        assert begins
        for begin in begins:
            assert known[begin] in {(number + place) % K for place in range(held_out)}
            seen.add(begin)
    assert seen == set(known)


def test_nor_after_it_was_stopped_and_went_on(adapted, student, tokenizer, config, rows, monkeypatch):
    """The teachers are loaded anew, the rows are dealt anew, and the order goes on within an epoch."""
    folds = Folds.of(rows, K, near_duplicates=False, seed=2)
    begins = [tuple(tokenizer(text)["input_ids"][:3]) for text in rows["text"]]
    known = dict(zip(begins, folds.of_row.tolist(), strict=True))

    def make(steps):
        fields = {"max_length": 128, "max_steps": steps, "save_strategy": "steps", "save_steps": 4}
        return trainer_of(OutOfFoldTeacher(adapted, folds), student, tokenizer, config, rows.shuffle(seed=5), **fields)

    make(4).train()
    asked = spied(None, monkeypatch)
    resumed = make(6)
    resumed.args.ignore_data_skip = False
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert len(asked) == 2 * 4
    assert all(known[tuple(ids[:3])] == number for number, ids in asked)


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])])
def test_teachers_are_trained_without_their_fold_and_loaded_again(
    fitted, rows, peft_config, tmp_path, tokenizer, monkeypatch
):
    trained = []
    inner = PrivateDistillationTrainer.train

    def train(self, *args, **kwargs):
        trained.append(len(self.train_dataset))
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(PrivateDistillationTrainer, "train", train)
    base = tiny_model(len(tokenizer), seed=1)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    teacher = fitted(base, peft_config=peft_config)
    assert trained == [int(np.sum(teacher.folds.of_row != fold)) for fold in range(2)]
    if peft_config is None:
        assert all(torch.equal(value, base.state_dict()[name]) for name, value in before.items())
    again = OutOfFoldTeacher.load(tmp_path / "teachers", tiny_model(len(tokenizer), seed=1) if peft_config else None)
    ids = torch.arange(12)[None].repeat(2, 1)
    said = [one.eval()(torch.tensor([0, 1]), input_ids=ids).logits for one in (teacher, again)]
    torch.testing.assert_close(said[0], said[1])
    assert not torch.allclose(said[0][0], said[0][1])
    assert again.folds.digest() == teacher.folds.digest()
    # Neither checkpoints nor pickles are left of what knows private text.
    assert not (tmp_path / "teachers" / "training").exists() or not any(
        (tmp_path / "teachers" / "training").rglob("*.*")
    )


def test_a_run_that_was_stopped_goes_on_teacher_by_teacher(fitted, rows, monkeypatch, tmp_path):
    fitted_once = []
    inner = crossfit._Fitting.fit

    def fit(self, base, data, folder, training):
        if folder.name == "fold-1" and not fitted_once.count("fold-1"):
            fitted_once.append("fold-1")
            raise KeyboardInterrupt
        fitted_once.append(folder.name)
        return inner(self, base, data, folder, training)

    monkeypatch.setattr(crossfit._Fitting, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        fitted(k=3)
    with pytest.raises(ValueError, match="no teacher for fold 1"):
        OutOfFoldTeacher.load(tmp_path / "teachers")
    teacher = fitted(k=3)
    assert fitted_once == ["fold-0", "fold-1", "fold-1", "fold-2"]
    with pytest.raises(ValueError, match="another held_out"):
        fitted(k=3, held_out=2)
    with pytest.raises(ValueError, match="another learning_rate"):
        fitted(k=3, learning_rate=3e-3)
    # A teacher that reads real values where the others read made-up ones.
    with pytest.raises(ValueError, match="another surrogates"):
        fitted(k=3, surrogates=Surrogates())
    with pytest.raises(ValueError, match="another tagger"):
        fitted(k=3, tagger=RuleTagger())
    with pytest.raises(ValueError, match="another adapted, adapter"):
        fitted(k=3, peft_config=LORA)
    with pytest.raises(ValueError, match="begun with 3 folds, not 2"):
        fitted(k=2)
    assert fitted().k == 3
    with pytest.raises(ValueError, match="of other folds"):
        fitted(folds=Folds.of(rows, 3, seed=11))
    with pytest.raises(ValueError, match="24 rows, and these are 20"):
        fitted(data=rows.select(range(20)))
    with pytest.raises(ValueError, match="were not dealt"):
        fitted(data=Dataset.from_dict({"text": [f"other {i}" for i in range(24)]}))
    assert teacher.k == 3


def test_a_teacher_that_was_stopped_goes_on_from_its_checkpoint(fitted, monkeypatch, tmp_path):
    whole = fitted(folder="whole")
    steps = []
    inner = PrivateDistillationTrainer.training_step

    def step(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(PrivateDistillationTrainer, "training_step", step)
    with pytest.raises(KeyboardInterrupt):
        fitted(folds=whole.folds)
    again = fitted()
    assert steps == [0, 1, 2, 2, 0, 1, 2]
    for one, other in zip(whole.models, again.models, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict())


def test_a_function_of_ones_own_trains(fitted, rows, tokenizer, tmp_path):
    given = []

    def train(data, folder):
        given.append(set(data["text"]))
        assert folder.is_dir()
        return tiny_model(len(tokenizer), seed=len(given))

    teacher = fitted(k=2, train=train)
    assert given[0].isdisjoint(given[1])
    assert given[0] | given[1] == set(rows["text"])
    assert not torch.equal(*(model.lm_head.weight for model in teacher.models))


@pytest.mark.parametrize("kind", ["adapted", "whole"])
def test_cached_targets_are_those_of_the_live_teachers(kind, request, student, tokenizer, config, rows, tmp_path):
    folds = Folds.of(rows, K, near_duplicates=False, seed=2)
    teacher = OutOfFoldTeacher(request.getfixturevalue(kind), folds)
    fields = {"alpha": 1.0, "protection": "none", "max_length": 128}
    cached = cache_teacher(teacher, config(**fields), rows, tokenizer, top_k=len(tokenizer), exact=True)
    losses = []
    for data, one in ((rows, teacher), (cached, None)):
        trainer = PrivateDistillationTrainer(
            copy.deepcopy(student), config(**fields), teacher_model=one, train_dataset=data, processing_class=tokenizer
        )
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
        losses.append(trainer.compute_loss(trainer.model, batch).detach())
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="Set alpha=1"):
        PrivateDistillationTrainer(
            student, config(protection="none"), teacher_model=None, train_dataset=cached, processing_class=tokenizer
        )


def test_surrogates_go_with_it(adapted, student, tokenizer, config, rows):
    folds = Folds.of(rows, K, near_duplicates=False, seed=2)
    trainer = PrivateDistillationTrainer(
        student,
        config(alpha=1.0),
        teacher_model=OutOfFoldTeacher(adapted, folds),
        train_dataset=rows,
        processing_class=tokenizer,
        tagger=RuleTagger(),
    )
    assert trainer.args.protection == "surrogate"
    assert trainer.train_dataset[FOLD] == folds.of_row.tolist()
    trainer.train()


def test_what_was_not_dealt_is_evaluated_by_any_teacher(adapted, student, tokenizer, config, rows):
    teacher = OutOfFoldTeacher(adapted, Folds.of(rows, K, near_duplicates=False, seed=2))
    trainer = trainer_of(teacher, student, tokenizer, config, rows)
    assert set(trainer.eval_dataset[FOLD]) == {UNSEEN}
    other = Dataset.from_dict({"text": ["nobody saw this", "nor that"]})
    assert trainer.evaluate(other)["eval_soft_loss"] > 0
    with pytest.raises(ValueError, match="were not dealt"):
        trainer_of(teacher, student, tokenizer, config, other)


def test_what_would_undo_it_is_refused(adapted, whole, student, tokenizer, config, rows):
    folds = Folds.of(rows, K, near_duplicates=False, seed=2)
    with pytest.raises(ValueError, match="Set alpha=1"):
        PrivateDistillationTrainer(
            student,
            config(protection="none"),
            teacher_model=OutOfFoldTeacher(adapted, folds),
            train_dataset=rows,
            processing_class=tokenizer,
        )
    with pytest.raises(ValueError, match="hidden_weight=0"):
        trainer_of(OutOfFoldTeacher(whole, folds), student, tokenizer, config, rows, hidden_weight=1.0)
    with pytest.raises(ValueError, match="do not say in which fold"):
        trainer_of(OutOfFoldTeacher(adapted), student, tokenizer, config, rows)
    with pytest.raises(ValueError, match="there are folds 0 to 2"):
        trainer_of(OutOfFoldTeacher(adapted), student, tokenizer, config, rows.add_column(FOLD, [5] * len(rows)))
    with pytest.raises(ValueError, match="a stream"):
        trainer_of(OutOfFoldTeacher(adapted, folds), student, tokenizer, config, rows.to_iterable_dataset())
    with pytest.raises(ValueError, match="fold-3 is missing"):
        OutOfFoldTeacher(adapted, k=4)
    with pytest.raises(ValueError, match="3 folds, and there are 2 teachers"):
        OutOfFoldTeacher(whole[:2], folds)
    with pytest.raises(ValueError, match="two or more"):
        OutOfFoldTeacher(whole[:1])
    with pytest.raises(ValueError, match="to learn from"):
        OutOfFoldTeacher(whole, held_out=3)
    trainer = trainer_of(OutOfFoldTeacher(adapted, folds), student, tokenizer, config, rows)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    del batch[FOLD]
    with pytest.raises(ValueError, match="The batch lacks teacher_fold"):
        trainer.compute_loss(trainer.model, batch)


@pytest.mark.parametrize("protection", ["none", "population"])
def test_a_student_that_begins_as_one_of_the_teachers_is_refused(protection, whole, tokenizer, config, rows):
    folds = Folds.of(rows, K, near_duplicates=False, seed=2)
    with pytest.raises(ValueError, match="begins with layers of the teacher"):
        PrivateDistillationTrainer(
            copy.deepcopy(whole[2]),
            config(alpha=1.0, protection=protection),
            teacher_model=OutOfFoldTeacher(whole, folds),
            train_dataset=rows,
            processing_class=tokenizer,
            tagger=RuleTagger() if protection != "none" else None,
        )


def test_every_teacher_begins_with_the_same_weights(tokenizer, config, tmp_path, monkeypatch):
    """PEFT leaves the head in the base that an adapter trained: the next teacher would begin with what its own
    held-out rows have taught."""
    begun = []

    class Spy(PrivateDistillationTrainer):
        def train(self, *args, **kwargs):
            weights = self.model.state_dict()
            # Adapters are drawn anew; all else is the base's.
            begun.append({name: value.clone() for name, value in weights.items() if "lora_A" not in name})
            return super().train(*args, **kwargs)

    monkeypatch.setattr("swingkd.trainer.crossfit.PrivateDistillationTrainer", Spy)
    setup = make_setup("text-classification", tokenizer)
    adapter = LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS", modules_to_save=["pooler"])
    args = config(output_dir=str(tmp_path / "teachers"), max_steps=3, task="text-classification", learning_rate=0.1)
    teacher = train_out_of_fold(setup.teacher, args, setup.data, setup.processing_class, peft_config=adapter, k=3)
    assert len(begun) == 3
    for other in begun[1:]:
        assert_same(begun[0], other)
    heads = [value for name, value in teacher.state_dict().items() if "classifier.modules_to_save" in name]
    assert len(heads) == 6
    assert not torch.equal(heads[0], heads[2])


def test_rows_are_dealt_by_what_is_learnt_from_them(tokenizer):
    """A chat is read before a text, whatever its column is called; a classifier reads the column that is named."""
    args = PrivateDistillationConfig("out", dataset_text_field="note", report_to=[])
    language, classifier = task_of("", "text-generation"), task_of("", "text-classification")
    rows = {"note": ["a"], "id": ["1"]}
    chats = {**rows, "messages": [[{"role": "user", "content": "a"}]]}
    assert learnt_columns(args, language, Dataset.from_dict(rows)) == ["note"]
    assert learnt_columns(args, language, Dataset.from_dict(chats)) is None
    assert learnt_columns(args, classifier, Dataset.from_dict(chats)) == ["note"]
    assert learnt_columns(args, language, Dataset.from_dict({"text": ["a"]})) is None


def test_teachers_of_an_earlier_version_are_gone_on_with_where_that_is_safe(fitted, tokenizer, config, tmp_path):
    def older(folder):
        path = tmp_path / folder / ABOUT_FILE
        about = json.loads(path.read_text())
        about["settings"] = {
            k: v for k, v in about["settings"].items() if k not in ("adapter", "tagger", "surrogates")
        }
        path.write_text(json.dumps(about))

    fitted(peft_config=LORA)
    older("teachers")
    assert fitted(peft_config=LORA).k == 2
    setup = make_setup("text-classification", tokenizer)
    adapter = LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    args = config(output_dir=str(tmp_path / "heads"), max_steps=1, task="text-classification")
    train_out_of_fold(setup.teacher, args, setup.data, setup.processing_class, peft_config=adapter)
    older("heads")
    with pytest.raises(ValueError, match="begun by an earlier version"):
        train_out_of_fold(setup.teacher, args, setup.data, setup.processing_class, peft_config=adapter)


def test_rows_of_another_division_are_refused(fitted, rows, tmp_path):
    fitted()
    Folds.of(rows, K, seed=5).save(tmp_path / "teachers" / FOLDS_FILE)
    with pytest.raises(ValueError, match="answered by one that saw it"):
        OutOfFoldTeacher.load(tmp_path / "teachers")


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        (LoraConfig(target_modules=["q_proj"], bias="all"), "biases of the base"),
        (LoraConfig(target_modules=["q_proj"], use_dora=True), "DoRA"),
        (IA3Config(target_modules=["q_proj"], feedforward_modules=[]), "IA3"),
    ],
)
def test_adapters_that_a_batch_cannot_mix_are_refused_before_any_is_trained(adapter, says, fitted, tmp_path):
    with pytest.raises(ValueError, match=says):
        fitted(peft_config=adapter)
    assert not (tmp_path / "teachers").exists()


def test_an_adapter_as_a_pickle_is_not_read(fitted, tokenizer, tmp_path):
    fitted(peft_config=LoraConfig(r=2, target_modules=["q_proj"]))
    folder = tmp_path / "teachers" / "fold-1"
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="is gone"):
        OutOfFoldTeacher.load(tmp_path / "teachers", tiny_model(len(tokenizer), seed=1))
    assert isinstance(fitted(peft_config=LoraConfig(r=2, target_modules=["q_proj"]), folder="other").one, PeftModel)


@pytest.mark.parametrize("adapters", [False, True])
def test_classifiers_of_texts_have_heads_of_their_own(adapters, tokenizer, config, tmp_path):
    setup = make_setup("text-classification", tokenizer)
    setup.teacher.save_pretrained(tmp_path / "base")
    rows = setup.data
    fields = {"max_steps": 4, "task": "text-classification", "learning_rate": 0.1}
    peft_config = LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS") if adapters else None
    args = config(output_dir=str(tmp_path / "teachers"), **fields)
    train_out_of_fold(str(tmp_path / "base"), args, rows, setup.processing_class, peft_config=peft_config)
    teacher = OutOfFoldTeacher.load(tmp_path / "teachers").eval()
    ids = torch.tensor([tokenizer("hello ann")["input_ids"]] * 2)
    logits = teacher(torch.tensor([0, 1]), input_ids=ids).logits
    assert logits.shape == (2, 3)
    assert not torch.allclose(*logits)
    trainer = PrivateDistillationTrainer(
        setup.student,
        config(alpha=1.0, protection="none"),
        teacher_model=str(tmp_path / "teachers"),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.train_dataset[FOLD] == teacher.folds.add_to(rows)[FOLD]
    assert trainer.setup.models.names["teacher"].startswith("2 out-of-fold teachers")


def test_classifiers_of_images(config, tmp_path, tokenizer):
    setup = make_setup("image-classification", tokenizer)
    folds = Folds.of(setup.data, 2, near_duplicates=False)
    args = config(output_dir=str(tmp_path / "teachers"))
    teacher = train_out_of_fold(setup.teacher, args, setup.data, setup.processing_class, folds=folds)
    trainer = PrivateDistillationTrainer(
        setup.student,
        config(alpha=1.0, protection="none"),
        teacher_model=teacher,
        train_dataset=setup.data,
        processing_class=setup.processing_class,
    )
    trainer.train()
    assert trainer.train_dataset[FOLD] == folds.add_to(setup.data)[FOLD]


@pytest.mark.parametrize(("k", "held_out", "drawn"), [(2, 1, "apart"), (3, 1, "apart"), (3, 2, "apart"), (2, 1, "of")])
def test_teachers_with_differential_privacy_promise_it_together(
    k, held_out, drawn, fitted, rows, student, tokenizer, config, tmp_path
):
    folds = Folds.apart(rows, k, seed=1) if drawn == "apart" else Folds.of(rows, k, near_duplicates=False, seed=1)
    tiny_model(len(tokenizer), seed=1).save_pretrained(tmp_path / "base")
    private = {"noise_multiplier": 1.0, "per_device_train_batch_size": 4, "max_length": 64, "save_strategy": "no"}
    teacher = fitted(str(tmp_path / "base"), folds=folds, held_out=held_out, **private)
    trainer = trainer_of(teacher, student, tokenizer, config, rows)
    told = trainer.ledger.epsilon("teacher's training data")
    if drawn == "of":
        assert told is None
        assert "trained without the record" in str(trainer.ledger)
        return
    # By hand: a record is in the training rows of all teachers but those that held its fold out.
    entries = [ledger.as_teacher() for ledger in teacher.ledgers]
    saw = [[n for n in range(k) if fold not in {(n + i) % k for i in range(held_out)}] for fold in range(k)]
    by_fold = [compose([entry for number in numbers for entry in entries[number]])[0] for numbers in saw]
    assert told >= max(by_fold) * (1 - 1e-3)
    if held_out < k - 1:
        assert told < sum(compose(part)[0] for part in entries)
    assert f"{k - held_out} of {k} teachers" in trainer.ledger.about("teacher's training data")[0].caveat
