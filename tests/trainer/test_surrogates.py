"""protection="surrogate": the student reads no real value, learns the made-up ones, and the rest as ever."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset

from swingkd import PrivacyLedger, PrivateDistillationTrainer, RuleTagger, cache_teacher
from swingkd.data import DataSettings, prepare_dataset
from swingkd.data.made_up import MadeUp
from swingkd.models.teacher_server import TeacherServer
from swingkd.privacy import FLAGGED_VALUES
from swingkd.surrogates import Surrogates
from swingkd.tagging import CharTags
from tests.harness import NAMES, TEXTS, assert_same, batch_of, bert, tiny_model, train_tokenizer, weights

PINS = {text[text.index("is ") + 3 :][:4] for text in TEXTS}


@pytest.fixture
def make(student, teacher, tokenizer, texts, config):
    def make(*, data=texts, tagger=None, teacher=teacher, student=student, **fields):
        extra = {name: fields.pop(name) for name in ("eval_dataset", "callbacks", "surrogates") if name in fields}
        return PrivateDistillationTrainer(
            student,
            config(**{"protection": "surrogate"} | fields),
            teacher_model=teacher,
            train_dataset=data,
            processing_class=tokenizer,
            tagger=tagger or RuleTagger(),
            **extra,
        )

    return make


def read(trainer, rows=None):
    return trainer.processing_class.batch_decode([row["input_ids"] for row in rows or trainer.train_dataset])


def test_the_student_reads_no_real_value_and_is_evaluated_on_the_real_text(make, texts):
    trainer = make(eval_dataset=texts.select(range(8)))
    for text, real in zip(read(trainer), TEXTS, strict=True):
        assert not any(pin in text for pin in PINS)
        assert text.split("pin is ")[0].removeprefix("<s>").strip() == real.split("pin is ")[0].strip()
    assert all(real[:30] in text for text, real in zip(read(trainer, trainer.eval_dataset), TEXTS, strict=False))
    before = weights(trainer.model)
    trainer.train()
    assert any(not torch.equal(before[name], value) for name, value in weights(trainer.model).items())
    assert {"eval_perplexity_flagged", "eval_loss"} <= trainer.evaluate().keys()
    assert trainer.protected["protection"] == "surrogate"


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_the_teacher_says_nothing_at_a_made_up_value(make, student, teacher, alpha, fused):
    trainer = make(alpha=alpha, fused_loss=fused, tag_dilation=0)
    batch = batch_of(trainer)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    at = batch["labels"][:, 1:] != -100
    s, t = (model(**inputs).logits[:, :-1][at] for model in (student, teacher))
    private = batch["pii_likelihood"][:, 1:][at] > 0
    assert 0 < private.sum() < len(private)
    hard = torch.nn.functional.cross_entropy(s, batch["labels"][:, 1:][at], reduction="none")
    p, q = ((logits / 2).log_softmax(-1) for logits in (s, t))
    soft = 4 * torch.nn.functional.kl_div(p, q, reduction="none", log_target=True).sum(-1)
    expected = torch.where(private, hard, alpha * soft + (1 - alpha) * hard).sum() / at.sum()
    torch.testing.assert_close(loss, expected)


def test_without_a_teacher_it_is_fine_tuning_on_the_new_text(make):
    trainer = make(teacher=None, alpha=0.0)
    batch = batch_of(trainer)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    expected = trainer.model(**inputs).loss
    torch.testing.assert_close(trainer.compute_loss(trainer.model, dict(batch)), expected)


def test_a_run_that_goes_on_reads_the_same_text(make, tmp_path):
    first = make(output_dir=str(tmp_path / "run"), max_steps=4, save_steps=2, save_strategy="steps")
    first.train()
    again = make(output_dir=str(tmp_path / "run"), max_steps=4, save_steps=2, save_strategy="steps")
    assert read(again) == read(first)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert_same(weights(first.model), weights(again.model))
    # Without its secret it would be another text.
    shutil.rmtree(tmp_path / "run" / "_private")
    other = make(output_dir=str(tmp_path / "run"), max_steps=4, save_steps=2, save_strategy="steps")
    assert read(other) != read(first)
    with pytest.raises(ValueError, match="training_rows"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_values_of_the_corpus_are_not_made_up_and_go_everywhere(make):
    rows = Dataset.from_dict({"text": [*TEXTS[:10], "my account number is 48213774", "so 48213774 it was, said bob"]})
    texts = read(make(data=rows))
    assert not any("48213774" in text.replace(" ", "") for text in texts)


def test_under_differential_privacy_a_record_is_read_alike_whatever_the_others_are(make, tmp_path):
    few = make(noise_multiplier=1.0, output_dir=str(tmp_path / "run"), data=Dataset.from_dict({"text": TEXTS[:20]}))
    all_ = make(noise_multiplier=1.0, output_dir=str(tmp_path / "run"))
    assert read(few) == read(all_)[:20]
    all_.train()
    assert all_.ledger.epsilon() is not None


def test_streams(make, texts):
    trainer = make(data=texts.to_iterable_dataset(), max_steps=2)
    # Another row's value may come up: a stream is not read twice.
    for text, real in zip(read(trainer, list(trainer.train_dataset)), TEXTS, strict=True):
        assert real.split("pin is ")[1][:4] not in text
    trainer.train()


def test_masked_models(make, tokenizer, texts):
    from transformers import BertForMaskedLM

    reader = train_tokenizer(TEXTS)
    reader.add_special_tokens({"mask_token": "<mask>"})
    models = {"teacher": bert(BertForMaskedLM, len(reader)), "student": bert(BertForMaskedLM, len(reader))}
    trainer = PrivateDistillationTrainer(
        models["student"],
        make().args,
        teacher_model=models["teacher"],
        train_dataset=texts,
        processing_class=reader,
        tagger=RuleTagger(),
    )
    assert not any(pin in text for text in read(trainer) for pin in PINS)
    trainer.train()


def test_the_same_parts_of_a_row_are_learnt(tokenizer):
    people = zip(NAMES, sorted(PINS), strict=False)
    rows = [{"prompt": f"hello {name}, my pin is ", "completion": f"{pin}. thank you"} for name, pin in people]
    plain, made = (
        prepare_dataset(Dataset.from_list(rows), tokenizer, RuleTagger(), DataSettings(), surrogates=surrogates)
        for surrogates in (None, Surrogates())
    )
    for before, after in zip(plain, made, strict=True):
        learnt = [tokenizer.decode([i for i in row["labels"] if i != -100]) for row in (before, after)]
        # Each digit is a token: the rest is as long as it was.
        assert learnt[0] != learnt[1]
        assert learnt[0].replace(" ", "")[4:] == learnt[1].replace(" ", "")[4:]
        assert [i == -100 for i in before["labels"]] == [i == -100 for i in after["labels"]]


def test_the_assistants_turns_are_learnt(tokenizer):
    tokenizer = train_tokenizer(TEXTS)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    chat = [{"role": "user", "content": "my pin is 4711. "}, {"role": "assistant", "content": "hello, thank you 4711"}]
    rows = Dataset.from_dict({"messages": [chat] * 4})
    settings = DataSettings(assistant_only_loss=True)
    for row in prepare_dataset(rows, tokenizer, RuleTagger(), settings, surrogates=Surrogates()):
        learnt = tokenizer.decode([i for i in row["labels"] if i != -100]).replace(" ", "")
        text = tokenizer.decode(row["input_ids"]).replace(" ", "")
        assert learnt.startswith("hello,thankyou")
        assert "4711" not in text
        assert learnt[-4:] == text.split("pinis")[1][:4]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": Dataset.from_dict({"input_ids": [[1, 2]], "pii_likelihood": [[0, 255]]})}, "tokenised already"),
        ({"tagger": False}, "there is none"),
    ],
)
def test_rows_whose_values_cannot_be_replaced_are_refused(make, change, says, student, teacher, tokenizer, texts):
    known = {"data": texts, "tagger": RuleTagger()} | change
    with pytest.raises(ValueError, match=says):
        PrivateDistillationTrainer(
            student,
            make().args,
            teacher_model=teacher,
            train_dataset=known["data"],
            processing_class=tokenizer,
            tagger=known["tagger"] or None,
        )


def test_a_cached_teacher_answers_about_the_made_up_text(make, teacher, tokenizer, texts, tmp_path):
    args = make(output_dir=str(tmp_path / "cache")).args
    for protect in (False, True):
        # All of a small vocabulary is kept.
        known = {"tagger": RuleTagger(), "top_k": len(tokenizer), "exact": True}
        cached = cache_teacher(teacher, args, texts, tokenizer, protect=protect, **known)
        assert not any(pin in text for text in tokenizer.batch_decode(cached["input_ids"][:]) for pin in PINS)
        assert ("pii_span" in cached.column_names) is not protect
        # Nothing of the teacher is written down where a value is made up.
        for row in cached:
            size = len(row["teacher_log_probs"]) // (len(row["input_ids"]) - 1)
            known = torch.tensor(row["teacher_log_probs"]).view(-1, size)
            private = torch.tensor(row["pii_likelihood"])[1:] > 0
            assert torch.equal(known.isinf().all(1), private)
            assert not known[~private].isinf().any()
    trainers = [make(output_dir=str(tmp_path / "cache"), fused_loss=fused) for fused in (False, True)]
    for live in trainers:
        from_cache = PrivateDistillationTrainer(
            live.model, live.args, train_dataset=cached, processing_class=tokenizer
        )
        assert from_cache.args.protection == "surrogate"
        losses = [float(t.compute_loss(t.model, batch_of(t)).detach()) for t in (live, from_cache)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_server_is_asked_about_text_as_it_is(make, tokenizer, texts):
    with pytest.raises(ValueError, match=r"Surrogates\.map, or swingkd surrogates"):
        cache_teacher(object.__new__(TeacherServer), make().args, texts, tokenizer, tagger=RuleTagger())


def labelled_trainer(make, tokenizer, kind, rows, **fields):
    models = [bert(kind, len(tokenizer), num_labels=2) for _ in range(2)]
    args = replace(make(fused_loss=False).args, **fields)
    return PrivateDistillationTrainer(
        models[0], args, teacher_model=models[1], train_dataset=rows, processing_class=tokenizer, tagger=RuleTagger()
    )


@pytest.mark.parametrize("pair", [False, True])
def test_classifiers_learn_the_example_without_its_values(make, tokenizer, texts, pair):
    from transformers import BertForSequenceClassification

    labels = [0, 1] * (len(texts) // 2)
    rows = Dataset.from_dict({"text": texts["text"], "label": labels})
    fields = {"alpha": 0.7}
    if pair:
        rows = Dataset.from_dict({"sentence1": texts["text"], "sentence2": texts["text"][::-1], "label": labels})
        fields["dataset_text_field"] = ["sentence1", "sentence2"]
    trainer = labelled_trainer(make, tokenizer, BertForSequenceClassification, rows, **fields)
    assert not any(pin in text for text in read(trainer) for pin in PINS)
    assert all("thank you" in text for text in read(trainer))
    # Of the made-up text, everything is learnt: it is ordinary distillation.
    batch = batch_of(trainer)
    assert (batch["pii_likelihood"] > 0).any()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
    s, t = (model.eval()(**inputs).logits for model in (trainer.model, trainer.teacher_model))
    p, q = ((logits / 2).log_softmax(-1) for logits in (s, t))
    soft = 4 * torch.nn.functional.kl_div(p, q, reduction="none", log_target=True).sum(-1)
    hard = torch.nn.functional.cross_entropy(s, batch["labels"], reduction="none")
    torch.testing.assert_close(trainer.compute_loss(trainer.model, dict(batch)), (0.7 * soft + 0.3 * hard).mean())
    trainer.train()


def test_word_taggers_learn_labels_of_made_up_words(make, tokenizer, texts):
    from transformers import BertForTokenClassification

    words = [text.replace(".", " .").replace(",", " ,").split() for text in texts["text"]]
    labels = [[int(word in {*NAMES, *PINS}) for word in row] for row in words]
    rows = Dataset.from_dict({"tokens": words, "ner_tags": labels})
    trainer = labelled_trainer(make, tokenizer, BertForTokenClassification, rows, alpha=0.7, tag_dilation=0)
    assert not any(pin in text.replace(" ", "") for text in read(trainer) for pin in PINS)
    # As many words, with the labels that they had.
    for row, own in zip(trainer.train_dataset, labels, strict=True):
        assert [label for label in row["labels"] if label != -100] == own
    batch = batch_of(trainer)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    s, t = (model.eval()(**inputs).logits for model in (trainer.model, trainer.teacher_model))
    at = batch["labels"] != -100
    # The class of a word that is made up is nobody's: the teacher, who reads that word too, is asked about it.
    assert (batch["pii_likelihood"][at] > 0).any()
    p, q = ((logits[at] / 2).log_softmax(-1) for logits in (s, t))
    soft = 4 * torch.nn.functional.kl_div(p, q, reduction="none", log_target=True).sum(-1)
    hard = torch.nn.functional.cross_entropy(s[at], batch["labels"][at], reduction="none")
    expected = (0.7 * soft + 0.3 * hard).mean()
    torch.testing.assert_close(trainer.compute_loss(trainer.model, dict(batch)), expected)
    trainer.train()


def test_values_of_several_words_stay_as_many_words():
    text = "dr ann mary smith , 212-555-0100 , lives in x"
    words = text.split()
    tags = CharTags(np.zeros(len(text), np.float32), np.zeros(len(text), np.int16))
    for value, label in (("ann mary smith", 1), ("555", 2), ("x", 3)):
        start = text.rindex(value)
        tags.likelihood[start : start + len(value)], tags.labels[start : start + len(value)] = 1, label
    made = MadeUp(text, tags, ("", "PERSON", "PIN", "COMPANY_NAME"), Surrogates(), 0)
    new, of_words = made.words(words)
    assert len(new) == len(words)
    same = [a == b for a, b in zip(words, new, strict=True)]
    assert same == [True, *[False] * 3, True, False, True, True, True, False]
    assert new[5].startswith("212-")
    assert new[5].endswith("-0100")
    assert len(of_words.labels) == len(" ".join(new))
    flagged = [bool(of_words.labels[start]) for start in np.cumsum([0, *(len(word) + 1 for word in new)])[:-1]]
    assert flagged == [not one for one in same]


def test_models_from_prompts_to_completions(make, tokenizer, texts):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    people = zip(NAMES, sorted(PINS), strict=False)
    rows = [
        {"prompt": f"hello {who}, my pin is {pin}.", "completion": f"thank you, {pin} it is"} for who, pin in people
    ]
    trainer = PrivateDistillationTrainer(
        T5ForConditionalGeneration(config),
        make(fused_loss=False, max_steps=2).args,
        teacher_model=T5ForConditionalGeneration(config),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        tagger=RuleTagger(),
    )
    for row in trainer.train_dataset:
        asked, said = (tokenizer.decode([i for i in row[name] if i != -100]) for name in ("input_ids", "labels"))
        pin = asked.replace(" ", "").split("pinis")[1][:4]
        # The second mention, which no rule would find, is the same made-up value.
        assert pin.isdigit()
        assert pin not in PINS
        assert pin in said.replace(" ", "")
        assert any(row["pii_likelihood"])
    trainer.train()


@pytest.mark.parametrize("packing", [False, True])
def test_a_value_longer_than_the_row_is_cut_like_any_text(make, packing):
    long = [f"my token is hf_{'aB3' * 60}{1000 + i} thank you" for i in range(8)]
    fields = {"packing": packing, "packing_strategy": "wrapped"} if packing else {}
    trainer = make(data=Dataset.from_dict({"text": long}), max_length=16, tag_dilation=0, **fields)
    # A row without packing is cut; wrapped rows hold all of it, in parts.
    assert len(trainer.train_dataset) == 8 if not packing else len(trainer.train_dataset) > 8
    assert all(len(row["input_ids"]) <= 16 for row in trainer.train_dataset)
    assert not any("aB3a" in text.replace(" ", "") for text in read(trainer))
    trainer.train()


def test_a_tagger_that_finds_nothing_protects_nothing(make):
    with pytest.raises(ValueError, match="found nothing private"):
        make(data=Dataset.from_dict({"text": ["hello ann, thank you"] * 4}))


def test_one_secret_many_times_is_learnt_by_heart_or_not_at_all(make, tokenizer):
    ids = tokenizer("hello ann, my pin is 4711", return_tensors="pt")["input_ids"]

    def said(trainer) -> float:
        """Return how likely the student says the four digits."""
        trainer.train()
        log_probs = trainer.model.eval()(ids).logits[0, -5:-1].log_softmax(-1)
        return float(log_probs.gather(-1, ids[0, -4:, None]).sum().exp())

    rows = Dataset.from_dict({"text": ["hello ann, my pin is 4711. thank you ann."] * 64})
    fields = {"teacher": None, "alpha": 0.0, "max_steps": 60, "learning_rate": 3e-2, "per_device_train_batch_size": 16}
    students = [tiny_model(len(tokenizer), hidden=32) for _ in range(2)]
    real = make(data=rows, student=students[0], **fields)
    real.train_dataset = prepare_dataset(rows, tokenizer, RuleTagger(), DataSettings())
    assert said(real) > 0.9
    assert said(make(data=rows, student=students[1], **fields)) < 0.02


def test_surrogates_from_a_noised_table_stand_in_the_ledger(make, tmp_path, texts):
    out = str(tmp_path / "run")
    fields = {"output_dir": out, "max_steps": 2, "save_strategy": "steps", "save_steps": 1, "value_epsilon": 1.0}
    trainer = make(**fields)
    # A value may be drawn by chance: that it is not would tell that it is real.
    kept = [real.split("pin is ")[1][:4] in text for text, real in zip(read(trainer), TEXTS, strict=True)]
    assert sum(kept) <= 3
    (entry,) = trainer.ledger.about(FLAGGED_VALUES)
    assert entry.epsilon == pytest.approx(1.0, rel=1e-3)
    assert entry.delta == pytest.approx(0.1 / len(texts))
    assert (entry.unit, entry.releases) == ("record", 1)
    said = str(trainer.ledger)
    assert "flagged values of the transfer set: epsilon 1" in said
    assert "what the tagger misses" in said
    assert "transfer set: not covered" in said
    trainer.train()
    assert PrivacyLedger.load(out + "/checkpoint-2").about(FLAGGED_VALUES) == [entry]
    # Begun again, it draws no second table; gone on with, it counts the one.
    again = make(**fields)
    assert read(again) == read(trainer)
    again.train(resume_from_checkpoint=out + "/checkpoint-1")
    assert again.ledger.about(FLAGGED_VALUES) == [entry]
    people = texts.add_column("who", ["a", "b"] * (len(texts) // 2))
    for other in (
        {"value_epsilon": 2.0},
        {"data": people, "privacy_unit": "who", "target_delta": 0.1 / len(texts)},
        {"data": texts.select(range(50)).add_item({"text": "my pin is 4711"})},
        {"surrogate_locale": "de_DE"},
    ):
        with pytest.raises(ValueError, match="a second table is a second release"):
            make(**fields | other)


def test_the_unit_of_a_table_may_be_a_person(make, tmp_path, texts):
    people = texts.add_column("who", [f"p{i % 6}" for i in range(len(texts))])
    trainer = make(data=people, value_epsilon=1.0, privacy_unit="who", output_dir=str(tmp_path / "run"))
    (entry,) = trainer.ledger.about(FLAGGED_VALUES)
    assert entry.unit == "who"
    assert entry.delta == pytest.approx(0.1 / 6)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"noise_multiplier": 1.0}, "the table reads all records"),
        ({"value_epsilon": -1.0}, "value_epsilon=-1.0 must be positive"),
        ({"protection": "drop"}, "is about surrogates"),
    ],
)
def test_a_table_does_not_go_with_everything(config, fields, says):
    with pytest.raises(ValueError, match=says):
        config(**{"protection": "surrogate", "value_epsilon": 1.0} | fields)


def test_a_table_needs_all_rows_and_a_live_teacher(make, teacher, tokenizer, texts, config):
    for data, unit, says in (
        (texts, "nobody", "is no column"),
        (texts.add_column("who", [["a"]] * len(texts)), "who", "holds lists"),
        (Dataset.from_dict({"text": ["my pin is 4711", None]}), "record", "1 of 2 rows have no text"),
    ):
        with pytest.raises(ValueError, match=says):
            make(data=data, value_epsilon=1.0, privacy_unit=unit)
    with pytest.raises(ValueError, match="a stream is read once"):
        make(data=texts.to_iterable_dataset(), max_steps=2, value_epsilon=1.0)
    with pytest.raises(ValueError, match="for a live teacher"):
        cache_teacher(teacher, config(value_epsilon=1.0), texts, tokenizer, tagger=RuleTagger())


def test_a_word_that_a_tagger_has_no_label_for_is_replaced_and_learnt_by_its_label(tokenizer):
    text = "hello ann pin 4711"
    tags = CharTags(np.zeros(len(text), np.float32), np.zeros(len(text), np.int16))
    tags.likelihood[6:9] = 1
    new, of_words = MadeUp(text, tags, ("", "PIN"), Surrogates(), 0).words(text.split())
    assert new[1] != "ann"
    assert of_words.likelihood[6 : 6 + len(new[1])].all()
    assert of_words.likelihood.sum() == len(new[1]) + 1  # and the blank behind it


def test_surrogates_of_ones_own(make, tmp_path, texts):
    own = Surrogates.kept_in(tmp_path / "key", examples={"PERSON": ["Zora Quint"] * 60})
    trainer = make(surrogates=own, output_dir=str(tmp_path / "one"))
    again = make(surrogates=Surrogates.kept_in(tmp_path / "key"), output_dir=str(tmp_path / "two"))
    assert read(trainer) == read(again)
    assert read(trainer) != read(make(output_dir=str(tmp_path / "three")))
    # It is left as it was: what it avoids here is this run's.
    assert not own._avoid
    for fields in ({"protection": "drop"}, {"value_epsilon": 1.0}):
        with pytest.raises(ValueError, match="Leave them out here"):
            make(surrogates=own, **fields)
