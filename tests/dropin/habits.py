"""Habits of people who come from `Trainer` and TRL: what these do, what this trainer does, and how that is seen.

Each row of docs/drop_in.md is one of these, and a test.  `same` means the same, `told` another thing that is said (in
a note or in the table), `refused` an error before the first step that says what to do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer, RuleTagger
from tests.harness import TEXTS, bert, masking, names, pictures, processor, tiny_model, vit

CLASSES = {"text": TEXTS[:12], "label": [0, 1, 2] * 4}
WORDS = {"tokens": [text.split() for text in TEXTS[:8]]}
WORDS["ner_tags"] = [[i % 3 for i in range(len(row))] for row in WORDS["tokens"]]
CHAT = [{"role": "user", "content": "hello ann"}, {"role": "assistant", "content": "my pin is 4071"}]
TEMPLATE = (
    "{% for tool in tools or [] %}tool {{ tool['function']['name'] }} {% endfor %}"
    "{% for m in messages %}{{ m['role'] }}: {% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}\n{% endfor %}"
)


class Bench:
    """Tiny models and rows, and the trainers that are made of them."""

    def __init__(self, tokenizer, config, folder):
        self.tokenizer, self.config, self.folder = tokenizer, config, folder
        self.texts = Dataset.from_dict({"text": TEXTS})

    @property
    def chatting(self):
        reader = copy.deepcopy(self.tokenizer)
        reader.chat_template = TEMPLATE
        return reader

    def student(self, **options):
        return tiny_model(len(self.tokenizer), seed=1, **options)

    def teacher(self):
        return tiny_model(len(self.tokenizer), hidden=24, seed=2)

    def lm(self, rows=None, args=None, tagger=None, **given):
        fields = {name: given.pop(name) for name in list(given) if name in _FIELDS}
        options = {"teacher_model": self.teacher(), "processing_class": self.tokenizer, "tagger": tagger} | given
        if "model_init" not in options:
            options.setdefault("model", self.student())
        if args is None:
            args = self.config(**({"protection": "none"} if tagger is None else {}) | fields)
        return PrivateDistillationTrainer(args=args, train_dataset=self.texts if rows is None else rows, **options)

    def classifier(self, rows=None, kind=BertForSequenceClassification, tagger=None, **given):
        fields = {name: given.pop(name) for name in list(given) if name in _FIELDS}
        torch.manual_seed(0)
        models = [bert(kind, len(self.tokenizer), num_labels=3) for _ in range(2)]
        options = {"model": models[0], "teacher_model": models[1], "processing_class": self.tokenizer} | given
        fields = ({"protection": "none"} if tagger is None else {"protection": "noise"}) | fields
        rows = Dataset.from_dict(CLASSES if kind is BertForSequenceClassification else WORDS) if rows is None else rows
        return PrivateDistillationTrainer(args=self.config(**fields), train_dataset=rows, tagger=tagger, **options)

    def masked(self, **given):
        reader = masking(self.tokenizer)
        models = [bert(BertForMaskedLM, len(reader)) for _ in range(2)]
        fields = {name: given.pop(name) for name in list(given) if name in _FIELDS}
        return PrivateDistillationTrainer(
            models[0],
            self.config(**({"protection": "none"} | fields)),
            train_dataset=self.texts,
            teacher_model=models[1],
            processing_class=reader,
            **given,
        )

    def images(self, **given):
        rows = given.pop("rows", None)
        fields = {name: given.pop(name) for name in list(given) if name in _FIELDS}
        return PrivateDistillationTrainer(
            vit(**names(("calm", "angry", "sad"))),
            self.config(**({"protection": "none"} | fields)),
            train_dataset=pictures() if rows is None else rows,
            teacher_model=vit(seed=1, **names(("calm", "angry", "sad"))),
            processing_class=processor(8),
            **given,
        )


_FIELDS = {field.name for field in __import__("dataclasses").fields(PrivateDistillationConfig)}


def loss_of(trainer, rows=6) -> float:
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(rows)])
    trainer.model.eval()
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch))


def trained(trainer):
    trainer.train()
    assert all(np.isfinite(log.get("train_loss", 0.0)) for log in trainer.state.log_history)
    return trainer


def refused(says: str, make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@dataclass(frozen=True)
class Habit:
    """A habit: what it is, what `Trainer` or TRL do, what this trainer does (`same`, `told` or `refused`), and why."""

    name: str
    theirs: str
    ours: str
    about: str
    check: Callable[[Bench], Any]


HABITS: list[Habit] = []


def habit(name: str, theirs: str, ours: str, about: str = ""):
    assert ours in ("same", "told", "refused")

    def add(check):
        HABITS.append(Habit(name, theirs, ours, about, check))
        return check

    return add


# --- the constructor -------------------------------------------------------------------------------------------------


@habit(
    "`Trainer(model, args, collator, rows)` by position",
    "this order",
    "same",
    "the teacher is named: `teacher_model=`",
)
def _(b):
    trainer = PrivateDistillationTrainer(
        b.student(), b.config(protection="none"), None, b.texts, None, b.tokenizer, teacher_model=b.teacher()
    )
    trained(trainer)


@habit("`GKDTrainer(model, teacher, args)` by position", "TRL's order", "refused", "says which argument is which")
def _(b):
    refused("args is a LlamaForCausalLM", lambda: PrivateDistillationTrainer(b.student(), b.teacher(), b.config()))


@habit("`args` left out", "defaults", "same")
def _(b, monkeypatch=None):
    assert PrivateDistillationConfig.of(None).temperature == 2.0


@habit("plain `TrainingArguments`", "taken", "same", "every field is kept; ours have their defaults")
def _(b):
    args = TrainingArguments(str(b.folder / "plain"), max_steps=1, use_cpu=True, report_to=[], learning_rate=0.25)
    trainer = b.lm(args=args, tagger=RuleTagger(), public_model=tiny_model(len(b.tokenizer), seed=5))
    assert (trainer.args.learning_rate, trainer.args.max_steps) == (0.25, 1)
    assert trainer.args.protection == "mollify"


@habit("TRL's `SFTConfig`", "taken by SFTTrainer", "same", "fields without a meaning here are refused by name")
def _(b):
    from trl import SFTConfig

    args = SFTConfig(str(b.folder / "sft"), max_steps=1, use_cpu=True, bf16=False, report_to=[], max_length=32)
    made = PrivateDistillationConfig.of(args)
    assert (made.max_length, made.max_steps) == (32, 1)
    wrong = SFTConfig(str(b.folder / "sft"), use_cpu=True, bf16=False, report_to=[], eos_token="</s>")
    refused("eos_token of SFTConfig has no meaning", lambda: PrivateDistillationConfig.of(wrong))


@habit(
    "TRL's `GKDConfig`",
    "taken by GKDTrainer",
    "refused",
    "another loss under the same names; `lmbda` and `max_new_tokens` are settings here too",
)
def _(b):
    args = copy.copy(TrainingArguments(str(b.folder / "gkd"), use_cpu=True, report_to=[]))
    args.lmbda = 0.5
    refused("describes another loss", lambda: PrivateDistillationConfig.of(args))


@habit("`Seq2SeqTrainingArguments(predict_with_generate=True)`", "for Seq2SeqTrainer", "refused")
def _(b):
    args = Seq2SeqTrainingArguments(str(b.folder), use_cpu=True, report_to=[], predict_with_generate=True)
    refused("predict_with_generate", lambda: PrivateDistillationConfig.of(args))


@habit(
    "changing `args` after the trainer was made",
    "takes effect",
    "told",
    "the trainer has a copy: change `trainer.args`",
)
def _(b):
    args = b.config(protection="none")
    trainer = b.lm(args=args)
    args.max_steps = 9
    assert trainer.args.max_steps == 2
    trainer.args.max_steps = 1
    assert trained(trainer).state.global_step == 1


@habit("`model_init`", "the student is made anew for each run", "same")
def _(b):
    trainer = b.lm(model_init=lambda: b.student())
    first = trained(trainer).state.log_history[-1]["train_loss"]
    assert trained(trainer).state.log_history[-1]["train_loss"] == pytest.approx(first)


@habit("`model` and `model_init`", "an error", "refused")
def _(b):
    refused("not both", lambda: b.lm(model=b.student(), model_init=lambda: b.student()))


@habit("`model_init` with `optimizers`", "an error", "refused", "pass `optimizer_cls_and_kwargs`")
def _(b):
    weights = torch.nn.Parameter(torch.zeros(1))
    refused(
        "make a new one|makes a new one",
        lambda: b.lm(model_init=lambda: b.student(), optimizers=(torch.optim.SGD([weights]), None)),
    )


@habit(
    "`hyperparameter_search(backend='optuna')`",
    "searches",
    "same",
    "language models: the evaluation loss is what falls",
)
def _(b):
    trainer = b.lm(
        model_init=lambda: b.student(), eval_dataset=b.texts.select(range(8)), eval_strategy="epoch", max_steps=1
    )
    trained_at = []

    def space(trial):
        return {
            "temperature": trial.suggest_float("temperature", 1.0, 4.0),
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1),
        }

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            trained_at.append((args.temperature, args.learning_rate))

    trainer.add_callback(Watch)
    best = trainer.hyperparameter_search(space, n_trials=3, backend="optuna")
    assert len(set(trained_at)) == 3
    assert best.objective < 10
    assert trainer.distillation.args is trainer.args


@habit("`hyperparameter_search` without `model_init`", "an error", "refused")
def _(b):
    refused("Make the trainer with model_init", lambda: b.lm().hyperparameter_search(n_trials=1))


@habit(
    "`hyperparameter_search` under differential privacy", "nothing to say", "refused", "each trial would spend anew"
)
def _(b):
    trainer = b.lm(model_init=lambda: b.student(), noise_multiplier=1.0)
    refused("Each trial", lambda: trainer.hyperparameter_search(n_trials=1))


@habit("searching over `max_length`", "nothing to say", "refused", "the rows are tokenised already")
def _(b):
    trainer = b.lm(model_init=lambda: b.student())
    refused(
        "changes max_length",
        lambda: trainer.hyperparameter_search(
            lambda trial: {"max_length": trial.suggest_int("max_length", 5, 9)}, n_trials=1, backend="optuna"
        ),
    )


@habit(
    "`compute_loss_func`",
    "replaces the loss",
    "refused",
    "`swingkd.functional` has the loss for a trainer of your own",
)
def _(b):
    refused("would replace the distillation loss", lambda: b.lm(compute_loss_func=lambda *a, **k: 0))


@habit("`optimizers=(optimizer, None)`", "used", "same")
def _(b):
    model = b.student()
    own = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = b.lm(model=model, optimizers=(own, None))
    assert trained(trainer).optimizer.optimizer is own


@habit("`optimizers` with `hidden_weight`", "nothing to say", "refused", "the projection would not be trained")
def _(b):
    model = b.student()
    own = torch.optim.SGD(model.parameters(), lr=0.1)
    refused("learns a projection", lambda: b.lm(model=model, optimizers=(own, None), hidden_weight=1.0))


@habit("`optimizer_cls_and_kwargs`", "used", "same")
def _(b):
    trainer = trained(b.lm(optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.5})))
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)


@habit("a function, a plain module or a compiled model as `model`", "works, or fails late", "refused")
def _(b):
    for wrong in (b.student, torch.nn.Linear(2, 2), {"a": 1}):
        refused("Pass a model of transformers", lambda wrong=wrong: b.lm(model=wrong))


@habit("`peft_config`", "an adapter is trained", "same")
def _(b):
    adapter = LoraConfig(r=2, target_modules=["q_proj"])
    trainer = trained(b.lm(peft_config=adapter))
    assert isinstance(trainer.model, PeftModel)


@habit("a `PeftModel` with `peft_config`", "TRL: an error", "refused")
def _(b):
    adapter = LoraConfig(r=2, target_modules=["q_proj"])
    refused("has an adapter already", lambda: b.lm(model=get_peft_model(b.student(), adapter), peft_config=adapter))


@habit("`peft_config` as a dict", "TRL: an error", "refused")
def _(b):
    refused("peft_config is a dict", lambda: b.lm(peft_config={"r": 2}))


@habit("a student in bfloat16", "trained so", "told", "trained so, with a warning")
def _(b, caplog=None):
    model = b.student().to(torch.bfloat16)
    trainer = b.lm(model=model)
    assert trainer.model.dtype == torch.bfloat16


@habit("`model_init_kwargs` beside a loaded model", "TRL: passed over with a warning", "refused")
def _(b):
    refused("is loaded already", lambda: b.lm(model_init_kwargs={"dtype": "float32"}))


@habit("`model_init_kwargs={'torch_dtype': ...}`", "TRL: passed over", "told", "it is followed")
def _(b):
    b.student().save_pretrained(b.folder / "named")
    trainer = b.lm(model=str(b.folder / "named"), model_init_kwargs={"torch_dtype": "bfloat16"})
    assert trainer.model.dtype == torch.bfloat16


@habit(
    "a seed for new heads and adapters",
    "`model_init`: from the seed",
    "same",
    "adapters and heads are drawn from `args.seed`",
)
def _(b):
    adapter = LoraConfig(r=2, target_modules=["q_proj"])

    def drawn(seed):
        torch.manual_seed(np.random.default_rng().integers(1 << 30))
        model = b.lm(peft_config=adapter, seed=seed).model
        return torch.cat([p.flatten() for n, p in model.named_parameters() if "lora_A" in n])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


# --- data ------------------------------------------------------------------------------------------------------------


@habit("`DatasetDict` as `train_dataset`", "an unclear error", "refused", "names its splits")
def _(b):
    refused(r"DatasetDict with the splits 'train', 'test'", lambda: b.lm(DatasetDict(train=b.texts, test=b.texts)))


@habit("`DatasetDict` as `eval_dataset`", "each split is evaluated", "same")
def _(b):
    trainer = b.lm(eval_dataset=DatasetDict(one=b.texts.select(range(4)), two=b.texts.select(range(4))))
    assert {"eval_one_perplexity", "eval_two_perplexity"} <= trainer.evaluate().keys()


@habit(
    "a list of dicts, a torch data set or a frame", "`Trainer` takes the first two", "refused", "`Dataset.from_list`"
)
def _(b):
    refused(r"Dataset\.from_list", lambda: b.lm([{"text": "hello"}]))
    refused(r"Dataset\.from_list", lambda: b.lm(torch.utils.data.TensorDataset(torch.zeros(2))))
    refused(r"Dataset\.from_pandas", lambda: b.lm(b.texts.to_pandas()))


@habit("the name of a split as `eval_dataset`", "fails late", "refused")
def _(b):
    refused("Make it a data set", lambda: b.lm(eval_dataset="validation"))


@habit("streams", "read with `max_steps`", "same")
def _(b):
    trained(b.lm(b.texts.to_iterable_dataset()))


@habit("`dispatch_batches=True` on a stream", "works for rows of one length", "refused")
def _(b):
    refused(
        "dispatch_batches", lambda: b.lm(b.texts.to_iterable_dataset(), accelerator_config={"dispatch_batches": True})
    )


@habit("streams on several processes", "TRL: each reads its own share", "same", "`dispatch_batches=False` is set")
def _(b):
    assert b.lm(b.texts.to_iterable_dataset()).args.accelerator_config.dispatch_batches is False


@habit("streams of images", "work", "same")
def _(b):
    def rows():
        yield from pictures()

    trained(b.images(rows=IterableDataset.from_generator(rows)))
    trained(b.images(rows=pictures().to_iterable_dataset()))


@habit(
    "tokenised rows that still have their text",
    "nothing to tag",
    "same",
    "the text is tagged, and aligned to the tokens",
)
def _(b):
    rows = b.texts.map(lambda row: b.tokenizer(row["text"]))
    trainer = b.lm(rows, tagger=RuleTagger(), population_min_spans=1)
    assert any(map(any, trainer.train_dataset["pii_likelihood"][:]))


@habit("tokenised rows without their text, and a tagger", "nothing to tag", "refused")
def _(b):
    rows = b.texts.map(lambda row: b.tokenizer(row["text"]), remove_columns=["text"])
    refused("text is gone", lambda: b.lm(rows, tagger=RuleTagger()))


@habit("rows padded to `max_length`", "trained with a mask", "same", "padding is taken off; batches are padded anew")
def _(b):
    plain = b.texts.map(lambda row: b.tokenizer(row["text"]), remove_columns=["text"])
    padded = b.texts.map(
        lambda row: b.tokenizer(row["text"], padding="max_length", max_length=40), remove_columns=["text"]
    )
    assert loss_of(b.lm(plain)) == pytest.approx(loss_of(b.lm(padded)), rel=1e-6)


@habit("`sentence1` and `sentence2`", "the script tokenises pairs", "same", "read as a pair, token types included")
def _(b):
    pairs = Dataset.from_dict({"sentence1": TEXTS[:6], "sentence2": TEXTS[6:12], "label": [0, 1, 2] * 2})
    trainer = b.classifier(pairs)
    expected = b.tokenizer(TEXTS[0], TEXTS[6])
    assert trainer.train_dataset[0]["input_ids"] == expected["input_ids"]


@habit("`dataset_text_field=['a', 'b']`", "nothing to say", "same", "any pair of columns")
def _(b):
    pairs = Dataset.from_dict({"a": TEXTS[:6], "b": TEXTS[6:12], "label": [0, 1, 2] * 2})
    trainer = b.classifier(pairs, dataset_text_field=["a", "b"], tagger=RuleTagger())
    assert trainer.train_dataset[0]["input_ids"] == b.tokenizer(TEXTS[0], TEXTS[6])["input_ids"]
    refused("pair, which a classifier reads", lambda: b.lm(pairs, dataset_text_field=["a", "b"]))


@habit("a column `label` and a column `labels`", "`labels` wins", "refused", "name one: `dataset_label_field`")
def _(b):
    rows = Dataset.from_dict(CLASSES | {"labels": CLASSES["label"]})
    refused("Name the one to learn", lambda: b.classifier(rows))


@habit("rows of `messages`", "the chat template is used", "same")
def _(b):
    trained(b.lm(Dataset.from_dict({"messages": [CHAT] * 8}), processing_class=b.chatting))


@habit("`tools` beside the messages", "the template gets them", "same")
def _(b):
    tools = [{"type": "function", "function": {"name": "search"}}]
    plain = b.lm(Dataset.from_dict({"messages": [CHAT] * 4}), processing_class=b.chatting)
    with_tools = Dataset.from_dict({"messages": [CHAT] * 4, "tools": [tools] * 4})
    trainer = b.lm(with_tools, processing_class=b.chatting)
    assert "search" in b.tokenizer.decode(trainer.train_dataset[0]["input_ids"])
    assert "search" not in b.tokenizer.decode(plain.train_dataset[0]["input_ids"])


@habit("`conversations` with `from` and `value`", "TRL converts them", "same")
def _(b):
    shared = [[{"from": "human", "value": "hello ann"}, {"from": "gpt", "value": "my pin is 4071"}]] * 4
    for column in ("conversations", "messages"):
        trainer = b.lm(Dataset.from_dict({column: shared}), processing_class=b.chatting)
        assert "assistant: my pin" in b.tokenizer.decode(trainer.train_dataset[0]["input_ids"])


@habit("turns without a role", "an empty text is trained", "refused")
def _(b):
    rows = Dataset.from_dict({"messages": [[{"text": "hello"}]] * 4})
    refused("need a 'role' and a 'content'", lambda: b.lm(rows, processing_class=b.chatting))


@habit("`assistant_only_loss`", "the assistant's turns are learnt", "same")
def _(b):
    trainer = b.lm(Dataset.from_dict({"messages": [CHAT] * 4}), processing_class=b.chatting, assistant_only_loss=True)
    learnt = [i for i in trainer.train_dataset[0]["labels"] if i != -100]
    assert b.tokenizer.decode(learnt).strip() == "my pin is 4071"


@habit("`assistant_only_loss` on prompt and completion", "the assistant's turns are learnt", "same")
def _(b):
    rows = Dataset.from_dict({"prompt": [CHAT[:1]] * 4, "completion": [[CHAT[1], CHAT[0], CHAT[1]]] * 4})
    trainer = b.lm(rows, processing_class=b.chatting, assistant_only_loss=True)
    learnt = b.tokenizer.decode([i for i in trainer.train_dataset[0]["labels"] if i != -100])
    assert "hello" not in learnt and learnt.count("4071") == 2  # noqa: PT018


@habit("`assistant_only_loss` on plain text", "TRL: an error", "refused")
def _(b):
    refused("is for chats", lambda: b.lm(assistant_only_loss=True))


@habit("`completion_only_loss`", "default: yes for prompt and completion", "same")
def _(b):
    rows = Dataset.from_dict({"prompt": ["hello "] * 4, "completion": ["ann"] * 4})
    one, two = (b.lm(rows, completion_only_loss=only) for only in (None, False))
    assert one.train_dataset[0]["labels"][1] == -100
    assert two.train_dataset[0]["labels"][1] != -100


@habit("`assistant_masks` and `completion_mask` of tokenised rows", "TRL: folded into the labels", "same")
def _(b):
    ids = [b.tokenizer(text)["input_ids"] for text in TEXTS[:6]]
    masks = [[0] * 5 + [1] * (len(row) - 5) for row in ids]
    for name in ("assistant_masks", "completion_mask"):
        trainer = b.lm(Dataset.from_dict({"input_ids": ids, name: masks}))
        assert trainer.train_dataset[0]["labels"] == [-100] * 5 + ids[0][5:]


@habit("`seq_lengths` of packed rows", "TRL: texts are kept apart", "same")
def _(b):
    ids = [b.tokenizer(text)["input_ids"] for text in TEXTS[:6]]
    joined = {
        "input_ids": [ids[0] + ids[1], ids[2] + ids[3]],
        "seq_lengths": [[len(ids[0]), len(ids[1])], [len(ids[2]), len(ids[3])]],
    }
    apart = loss_of(b.lm(Dataset.from_dict({"input_ids": ids[:4]})), 4)
    assert loss_of(b.lm(Dataset.from_dict(joined)), 2) == pytest.approx(apart, rel=1e-5)


@habit("`packing=True`", "TRL: best fit, texts kept apart", "same", "refused where a model's attention cannot")
def _(b):
    trainer = trained(b.lm(packing=True, max_length=64))
    assert max(map(len, trainer.train_dataset["input_ids"][:])) <= 64
    refused("does not keep the texts of a packed row apart", lambda: b.masked(packing=True))


@habit("`packing_strategy='wrapped'`", "cut anywhere", "same")
def _(b):
    trainer = b.lm(packing=True, packing_strategy="wrapped", max_length=32)
    assert {len(row) for row in trainer.train_dataset["input_ids"][:-1]} == {32}


@habit("`packing` for classifiers", "nothing to say", "refused")
def _(b):
    refused("packing=True joins texts", lambda: b.classifier(packing=True))


@habit("an `image` column beside text", "TRL: an error", "refused")
def _(b):
    rows = Dataset.from_dict({"text": TEXTS[:4], "image": [1, 2, 3, 4]})
    refused("has the column image", lambda: b.lm(rows))


@habit("`max_length=None`", "TRL: rows are not cut", "told", "cut at what the models allow, 1,024 at most")
def _(b):
    rows = Dataset.from_dict({"text": [" ".join(TEXTS)]})
    assert len(b.lm(rows, max_length=None).train_dataset[0]["input_ids"]) == 256


@habit("`with_transform`", "applied when rows are read", "refused", "another text could be shown than was tagged")
def _(b):
    refused("has a transform", lambda: b.lm(b.texts.with_transform(lambda batch: batch)))


@habit("a tokenizer without a padding token", "TRL: pads with the end", "same", "in a copy; real ends stay learnt")
def _(b):
    bare = copy.deepcopy(b.tokenizer)
    bare.pad_token = None
    trained(b.lm(processing_class=bare))
    assert bare.pad_token is None


@habit("a name as `processing_class`", "fails late", "refused")
def _(b):
    refused("processing_class is a str", lambda: b.lm(processing_class="gpt2"))


@habit("`DataCollatorWithPadding`", "pads", "same", "ours takes its place: it pads what is private too")
def _(b):
    given = {"tagger": RuleTagger()}
    own, theirs = b.classifier(**given), b.classifier(**given, data_collator=DataCollatorWithPadding(b.tokenizer))
    assert loss_of(theirs) == pytest.approx(loss_of(own))
    assert loss_of(theirs) > 0


@habit("`DataCollatorForLanguageModeling(mlm=False)`", "pads", "same", "ours takes its place")
def _(b):
    collator = DataCollatorForLanguageModeling(b.tokenizer, mlm=False)
    given = {"tagger": RuleTagger(), "protection": "drop"}
    assert loss_of(b.lm(**given, data_collator=collator)) == pytest.approx(loss_of(b.lm(**given)))


@habit("`DataCollatorForLanguageModeling(mlm_probability=0.6)`", "masks so many", "same")
def _(b):
    collator = DataCollatorForLanguageModeling(masking(b.tokenizer), mlm_probability=0.6)
    shares = []
    for given in (None, collator):
        trainer = b.masked(data_collator=given)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(40)])
        shares.append(float((batch["labels"] != -100).float().sum() / batch["attention_mask"].sum()))
    assert shares[0] < 0.25 < 0.45 < shares[1]


@habit("`DataCollatorForTokenClassification`", "pads", "same", "ours takes its place")
def _(b):
    given = {"kind": BertForTokenClassification, "tagger": RuleTagger()}
    own = b.classifier(**given)
    theirs = b.classifier(**given, data_collator=DataCollatorForTokenClassification(b.tokenizer))
    assert loss_of(theirs) == pytest.approx(loss_of(own))


@habit(
    "a collator of one's own that keeps the columns as they are", "used", "same", "0 to 255 is read as a likelihood"
)
def _(b):
    def collate(rows):
        return default_data_collator([{k: v for k, v in row.items() if k != "text"} for row in rows])

    rows = Dataset.from_dict({"text": [TEXTS[0]] * 8, "label": [0, 1] * 4})
    own = b.classifier(rows, tagger=RuleTagger())
    theirs = b.classifier(rows, tagger=RuleTagger(), data_collator=collate)
    assert loss_of(theirs) == pytest.approx(loss_of(own))


# --- training --------------------------------------------------------------------------------------------------------


@habit("`gradient_accumulation_steps`", "the same loss", "same")
def _(b):
    def weights(size, steps):
        trainer = b.lm(
            per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_steps=1, optim="sgd", seed=3
        )
        return torch.cat([p.detach().flatten() for p in trained(trainer).model.parameters()])

    torch.testing.assert_close(weights(8, 1), weights(2, 4), rtol=1e-4, atol=1e-6)


@habit("`label_smoothing_factor`", "smooths", "refused", "the soft targets smooth the labels")
def _(b):
    refused("label_smoothing_factor=0.1", lambda: b.lm(label_smoothing_factor=0.1))


@habit("`debug='underflow_overflow'`", "looks at every output", "refused", "with `fused_loss=False` it runs")
def _(b):
    refused("debug=", lambda: b.lm(debug="underflow_overflow"))


@habit("`neftune_noise_alpha`, `gradient_checkpointing`, `optim`, schedulers", "used", "same")
def _(b):
    trained(b.lm(neftune_noise_alpha=5.0, gradient_checkpointing=True, optim="adafactor", lr_scheduler_type="cosine"))


@habit("`max_steps` and epochs, workers, `dataloader_drop_last`", "used", "same")
def _(b):
    trainer = trained(b.lm(max_steps=-1, num_train_epochs=1, dataloader_num_workers=1, dataloader_drop_last=True))
    assert trainer.state.global_step == 15


@habit("`save_only_model=True`, then resume", "goes on with a new optimizer", "refused", "start from its weights")
def _(b):
    fields = {"save_strategy": "steps", "save_steps": 1, "save_only_model": True}
    trainer = trained(b.lm(**fields))
    refused("holds the weights alone", lambda: b.lm(**fields).train(resume_from_checkpoint=True))
    assert trainer.state.global_step == 2


@habit("`resume_from_checkpoint=True` without a checkpoint", "an error", "refused")
def _(b):
    refused(
        "There is no checkpoint in",
        lambda: b.lm(output_dir=str(b.folder / "empty")).train(resume_from_checkpoint=True),
    )
    refused("There is no checkpoint", lambda: b.lm().train(resume_from_checkpoint=str(b.folder / "nowhere")))


@habit("resuming with another learning rate, or other rows", "goes on", "refused", "names what differs")
def _(b):
    fields = {"save_strategy": "steps", "save_steps": 1}
    trained(b.lm(**fields))
    refused("learning_rate", lambda: b.lm(**fields, learning_rate=0.5).train(resume_from_checkpoint=True))


@habit("`restore_callback_states_from_checkpoint`", "callbacks go on as they were", "same")
def _(b):
    fields = {"save_strategy": "steps", "save_steps": 1, "protection": "drop", "tagger": RuleTagger()}
    trained(b.lm(**fields))
    trainer = b.lm(**fields, restore_callback_states_from_checkpoint=True, max_steps=4)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4


@habit("`load_best_model_at_end`", "by the evaluation loss", "same")
def _(b):
    best = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    trainer = trained(b.lm(eval_dataset=b.texts.select(range(8)), load_best_model_at_end=True, **best))
    assert trainer.state.best_metric == min(
        log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log
    )


@habit("`load_best_model_at_end` with hints", "nothing to say", "same", "the best projection comes back too")
def _(b):
    best = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    trainer = b.lm(eval_dataset=b.texts.select(range(8)), load_best_model_at_end=True, hidden_weight=0.5, **best)
    kept = {}

    class Keep(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            kept[state.global_step] = trainer.model.hint_projection.weight.detach().clone()

    trainer.add_callback(Keep)
    trained(trainer)
    torch.testing.assert_close(trainer.model.hint_projection.weight, kept[trainer.state.best_global_step])


@habit("`metric_for_best_model='perplexity'`", "the largest is taken for the best", "told", "the least is the best")
def _(b):
    assert b.config(metric_for_best_model="perplexity").greater_is_better is False


@habit("`EarlyStoppingCallback`", "stops", "same")
def _(b):
    trainer = b.lm(
        eval_dataset=b.texts.select(range(8)),
        callbacks=[EarlyStoppingCallback(1)],
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        max_steps=5,
        load_best_model_at_end=True,
        learning_rate=0.0,
    )
    assert trained(trainer).state.global_step < 5


@habit("callbacks by class or object, `add_callback`", "called", "same")
def _(b):
    seen = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(state.global_step)

    trainer = b.lm(callbacks=[Count])
    trainer.add_callback(Count())
    trained(trainer)
    assert seen == [1, 1, 2, 2]


# --- evaluation ------------------------------------------------------------------------------------------------------


@habit(
    "`math.exp(eval_loss)` as the perplexity",
    "of a language model's loss it is",
    "told",
    "`eval_loss` is the loss that is trained; read `eval_perplexity`",
)
def _(b):
    trainer = b.lm(alpha=0.0)
    found = trainer.evaluate(b.texts.select(range(8)))
    assert np.exp(found["eval_loss"]) == pytest.approx(found["eval_perplexity"], rel=1e-4)
    mixed = b.lm(alpha=0.5).evaluate(b.texts.select(range(8)))
    assert mixed["eval_perplexity"] == pytest.approx(found["eval_perplexity"], rel=1e-4)
    assert mixed["eval_loss"] != pytest.approx(found["eval_loss"])


@habit("`compute_metrics` of a classifier", "in place of any other", "same")
def _(b):
    trainer = b.classifier(compute_metrics=lambda p: {"classes": p.predictions.shape[1]})
    found = trainer.evaluate(Dataset.from_dict(CLASSES))
    assert found["eval_classes"] == 3
    assert "eval_accuracy" not in found


@habit(
    "`compute_metrics` and `preprocess_logits_for_metrics` of a language model",
    "logits are kept for them",
    "same",
    "perplexities beside them",
)
def _(b):
    trainer = b.lm(
        compute_metrics=lambda p: {"shape": p.predictions.ndim},
        preprocess_logits_for_metrics=lambda x, y: x.argmax(-1),
    )
    found = trainer.evaluate(b.texts.select(range(5)))
    assert found["eval_shape"] == 2
    assert "eval_perplexity" in found


@habit("`include_for_metrics=['inputs', 'loss']`", "handed on", "same")
def _(b):
    seen = {}
    trainer = b.classifier(
        compute_metrics=lambda p: seen.update(inputs=p.inputs, losses=p.losses) or {},
        include_for_metrics=["inputs", "loss"],
    )
    trainer.evaluate(Dataset.from_dict(CLASSES))
    assert len(seen["inputs"]) == 12
    assert len(seen["losses"]) == 12


@habit("`eval_do_concat_batches=False`", "lists of batches", "same")
def _(b):
    seen = []
    trainer = b.classifier(
        eval_do_concat_batches=False,
        per_device_eval_batch_size=5,
        compute_metrics=lambda p: seen.append(p.predictions) or {},
    )
    trainer.evaluate(Dataset.from_dict(CLASSES))
    assert [len(part) for part in seen[0]] == [5, 5, 2]


@habit("`batch_eval_metrics=True`", "batch by batch", "same", "ours too")
def _(b):
    rows = Dataset.from_dict(CLASSES)
    one = b.classifier(batch_eval_metrics=True, per_device_eval_batch_size=5).evaluate(rows)
    assert one["eval_accuracy"] == pytest.approx(b.classifier().evaluate(rows)["eval_accuracy"])


@habit("`prediction_loss_only=True`", "the loss alone", "same", "perplexities and the loss: no logits")
def _(b):
    trainer = b.classifier(prediction_loss_only=True)
    assert trainer.predict(Dataset.from_dict(CLASSES)).predictions is None


@habit("`predict` of a language model", "logits", "same")
def _(b):
    assert b.lm().predict(b.texts.select(range(3))).predictions.shape[-1] == len(b.tokenizer)


@habit("`predict` and `evaluate` on rows without labels", "logits, no loss", "same")
def _(b):
    output = b.classifier().predict(Dataset.from_dict({"text": TEXTS[:5]}))
    assert output.predictions.shape == (5, 3)
    assert output.label_ids is None
    assert b.images().predict(pictures().remove_columns("label")).predictions.shape == (12, 3)


@habit("`evaluate(metric_key_prefix='test')`, sets by name", "used", "same")
def _(b):
    trainer = b.lm(eval_dataset={"held": b.texts.select(range(4))})
    assert "test_perplexity" in trainer.evaluate(b.texts.select(range(4)), metric_key_prefix="test")
    assert "eval_held_perplexity" in trainer.evaluate()


@habit("`eval_accumulation_steps`, `eval_on_start`", "used", "same")
def _(b):
    trained(
        b.lm(
            eval_dataset=b.texts.select(range(8)),
            eval_strategy="steps",
            eval_steps=1,
            eval_accumulation_steps=1,
            eval_on_start=True,
        )
    )


# --- models ----------------------------------------------------------------------------------------------------------


@habit("mixtures with `output_router_logits`", "the auxiliary loss is added", "same")
def _(b):
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    options = {
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "max_position_embeddings": 256,
        "router_aux_loss_coef": 0.5,
    }
    torch.manual_seed(0)
    model = MixtralForCausalLM(
        MixtralConfig(vocab_size=len(b.tokenizer), **sizes, **options, output_router_logits=True)
    )
    trainer = b.lm(model=model, alpha=0.0)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    model.eval()
    expected = model(**{k: batch[k] for k in ("input_ids", "attention_mask", "labels")}).loss
    assert float(trainer.compute_loss(model, batch)) == pytest.approx(float(expected), rel=1e-5)


@habit("images without `pii_likelihood`", "nothing to say", "refused", "says which column to add")
def _(b):
    refused("which images are private", lambda: b.images(protection="drop"))


# --- afterwards ------------------------------------------------------------------------------------------------------


@habit("`save_model`, `AutoModel.from_pretrained`", "the student", "same")
def _(b):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = trained(b.lm())
    trainer.save_model(str(b.folder / "saved"))
    AutoModelForCausalLM.from_pretrained(b.folder / "saved")
    AutoTokenizer.from_pretrained(b.folder / "saved")


@habit("`trainer.state.log_history`, `trainer_state.json`", "what was logged", "same", "and what was protected")
def _(b):
    trainer = trained(b.lm(tagger=RuleTagger(), protection="drop", save_strategy="steps", save_steps=2))
    assert 0 < trainer.protected["flagged"] < 1
    text = (b.folder / "out" / "checkpoint-2" / "trainer_state.json").read_text()
    assert "SayWhatIsProtected" in text
