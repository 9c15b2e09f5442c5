"""Rows that somebody tokenised: padded on either side, nested otherwise, packed, evaluated, with more columns."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    LayoutLMConfig,
    LayoutLMForTokenClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
    XLNetLMHeadModel,
)

from swingkd import PrivateDistillationTrainer
from swingkd.data.padding import OF_EACH_TOKEN, unpadded
from tests.harness import TEXTS, bert, masking, tiny_model


@pytest.fixture
def ids(tokenizer):
    return [tokenizer(text)["input_ids"] for text in TEXTS[:12]]


@pytest.fixture
def train(student, teacher, tokenizer, config):
    def run(rows, evaluation=None, **fields):
        args = config(**({"protection": "none"} | fields))
        rows = Dataset.from_dict(rows) if isinstance(rows, dict) else rows
        return PrivateDistillationTrainer(
            student,
            args,
            teacher_model=teacher,
            train_dataset=rows,
            eval_dataset=evaluation,
            processing_class=tokenizer,
        )

    return run


def padded(ids, pad, left, more=5):
    longest = max(map(len, ids)) + more
    out = {"input_ids": [], "attention_mask": []}
    for row in ids:
        fill = longest - len(row)
        out["input_ids"].append([pad] * fill + row if left else row + [pad] * fill)
        out["attention_mask"].append([0] * fill + [1] * len(row) if left else [1] * len(row) + [0] * fill)
    return out


# --- padding ---


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6), st.integers(0, 4)), min_size=1, max_size=6), st.booleans()
)
def test_what_the_mask_leaves_is_what_remains(rows, stream):
    text = {
        "input_ids": [[9] * left + list(range(n)) + [9] * right for left, n, right in rows],
        "pii_likelihood": [[255] * left + [3] * n + [255] * right for left, n, right in rows],
        "attention_mask": [[0] * left + [1] * n + [0] * right for left, n, right in rows],
        "other": [[1, 2]] * len(rows),
    }
    data = Dataset.from_dict(text)
    data = unpadded(data.to_iterable_dataset() if stream else data, list(text), OF_EACH_TOKEN)
    for row, (_, n, _) in zip(data, rows, strict=True):
        assert list(row["input_ids"]) == list(range(n))
        assert list(row["pii_likelihood"]) == [3] * n
        assert list(row["attention_mask"]) == [1] * n
        assert list(row["other"]) == [1, 2]


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("packing", [True, False])
def test_padding_on_either_side_teaches_nothing(train, ids, tokenizer, left, packing):
    plain = train({"input_ids": ids}, packing=packing)
    by_hand = train(padded(ids, tokenizer.pad_token_id, left), packing=packing)
    assert [list(row) for row in by_hand.train_dataset["input_ids"]] == [
        list(row) for row in plain.train_dataset["input_ids"]
    ]
    wanted, found = (t.evaluate(t.train_dataset)["eval_perplexity"] for t in (plain, by_hand))
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("left", [True, False])
def test_words_are_masked_wherever_the_padding_was(config, tokenizer, ids, left):
    reader = masking(tokenizer)
    models = [bert(BertForMaskedLM, len(reader)) for _ in range(2)]
    rows = Dataset.from_dict(padded(ids, reader.pad_token_id, left, more=40))
    trainer = PrivateDistillationTrainer(
        models[0], config(protection="none"), teacher_model=models[1], train_dataset=rows, processing_class=reader
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(12)])
    asked = batch["labels"] != -100
    assert 0.05 < asked.sum() / sum(map(len, ids)) < 0.3  # 15 % of the text
    assert (batch["unmasked_ids"][asked] != reader.pad_token_id).all()


def test_a_mask_within_a_row_is_no_padding(train, ids):
    mask = [[1] * len(row) for row in ids]
    mask[3][2] = 0
    with pytest.raises(ValueError, match="leaves out tokens between others"):
        train({"input_ids": ids, "attention_mask": mask})


def test_a_row_that_is_all_padding_is_refused(train, ids):
    mask = [[1] * len(row) for row in ids]
    mask[3] = [0] * len(ids[3])
    with pytest.raises(ValueError, match="input_ids has no token in row 3"):
        train({"input_ids": ids, "attention_mask": mask})
    with pytest.raises(ValueError, match="input_ids has no token in row 1"):
        train({"input_ids": [ids[0], [], *ids[2:]]})


def test_packing_joins_only_what_belongs_together(train, ids):
    labels = [list(row) for row in ids]
    labels[2] = labels[2][:-1]
    for wrong, says in ((labels, "labels cannot be packed"), ([None, *ids[1:]], "labels cannot be packed")):
        with pytest.raises(ValueError, match=says):
            train({"input_ids": ids, "labels": wrong}, packing=True)


# --- the shape of columns ---


@pytest.mark.parametrize("name", ["labels", "attention_mask", "pii_likelihood", "position_ids"])
def test_one_number_is_not_spread_over_a_row(train, ids, name):
    with pytest.raises(ValueError, match=f"column {name} holds one number a row, and a list of numbers is needed"):
        train({"input_ids": ids, name: [1] * len(ids)})


def test_nor_does_a_list_stand_for_an_example(config, tokenizer, ids):
    models = [bert(BertForSequenceClassification, len(tokenizer), num_labels=3) for _ in range(2)]
    for name, values in (("labels", [[1] * len(row) for row in ids]), ("pii_likelihood", [[1]] * len(ids))):
        rows = Dataset.from_dict({"input_ids": ids, "labels": [1] * len(ids)} | {name: values})
        with pytest.raises(ValueError, match=f"column {name} holds a list of numbers a row, and one number is needed"):
            PrivateDistillationTrainer(
                models[0],
                config(protection="none"),
                teacher_model=models[1],
                train_dataset=rows,
                processing_class=tokenizer,
            )


def test_ids_that_the_tokenizer_does_not_know_are_refused(config, tokenizer, ids):
    """A head may have more places than there are tokens."""
    models = [tiny_model(len(tokenizer) + 60, seed=seed) for seed in (1, 2)]
    rows = Dataset.from_dict({"input_ids": [[*row, len(tokenizer) + 3] for row in ids]})
    with pytest.raises(ValueError, match=f"input_ids holds {len(tokenizer) + 3} in row 0"):
        PrivateDistillationTrainer(
            models[0],
            config(protection="none"),
            teacher_model=models[1],
            train_dataset=rows,
            processing_class=tokenizer,
        )


def test_a_teachers_own_columns_are_looked_at_too(config, tokenizer, ids):
    size = len(tokenizer)
    models = [bert(BertForTokenClassification, size, num_labels=3) for _ in range(2)]
    rows = {"input_ids": ids, "labels": [[1] * len(row) for row in ids]}
    rows |= {"teacher_input_ids": ids, "teacher_labels": [[1] * len(row) for row in ids]}
    long = [[5] * 300, *ids[1:]]
    wrong = (
        ({"teacher_token_type_ids": [[7] * len(row) for row in ids]}, "teacher_token_type_ids holds 7 in row 0"),
        ({"teacher_labels": [[-100, *[1] * (len(row) - 1)] for row in ids]}, r"labels and \d+ teacher_labels"),
        ({"teacher_input_ids": long, "teacher_labels": [[1] * len(row) for row in long]}, "has 300 values in row 0"),
    )
    for change, says in wrong:
        with pytest.raises(ValueError, match=says):
            PrivateDistillationTrainer(
                models[0],
                config(protection="none", max_length=64),
                teacher_model=models[1],
                train_dataset=Dataset.from_dict(rows | change),
                processing_class=tokenizer,
                teacher_processing_class=tokenizer,
            )


def test_answers_that_the_decoder_cannot_place_are_refused(config, tokenizer, ids):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 40}
    sizes |= {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("attention_heads", "ffn_dim")}
    special = {"pad_token_id": tokenizer.pad_token_id, "decoder_start_token_id": 0, "forced_eos_token_id": None}
    kind = BartConfig(vocab_size=len(tokenizer), **sizes, **special)
    models = [BartForConditionalGeneration(kind) for _ in range(2)]
    rows = Dataset.from_dict({"input_ids": [row[:30] for row in ids], "labels": [[5] * 50] * len(ids)})
    with pytest.raises(ValueError, match="labels has 50 values in row 0; at most 40 fit"):
        PrivateDistillationTrainer(
            models[0],
            config(protection="none", max_length=40),
            teacher_model=models[1],
            train_dataset=rows,
            processing_class=tokenizer,
        )


def test_a_column_that_no_batch_would_bring_is_refused(config, tokenizer, ids):
    kind = LayoutLMConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    models = [LayoutLMForTokenClassification(kind) for _ in range(2)]
    rows = {"input_ids": ids, "labels": [[1] * len(row) for row in ids]}
    rows["bbox"] = [[[1, 2, 3, 4]] * len(row) for row in ids]
    with pytest.raises(ValueError, match="reads the column bbox, and token-classification does not hand it on"):
        PrivateDistillationTrainer(
            models[0],
            config(protection="none"),
            teacher_model=models[1],
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
        )


# --- positions ---


def roberta(tokenizer, kind=RobertaForMaskedLM):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    special = {"pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 90}
    return kind(RobertaConfig(vocab_size=len(tokenizer), **sizes, **special))


def test_positions_are_counted_as_the_model_counts_them(config, tokenizer, ids):
    """RoBERTa's begin behind its padding token's."""
    reader = masking(tokenizer)
    models = [roberta(reader) for _ in range(2)]
    first = reader.pad_token_id + 1
    right = {"input_ids": ids, "position_ids": [list(range(first, first + len(row))) for row in ids]}
    wrong = right | {"position_ids": [list(range(len(row))) for row in ids]}
    with pytest.raises(ValueError, match=f"position_ids holds 0 in row 0; it must lie between {first} and 89"):
        PrivateDistillationTrainer(
            models[0],
            config(protection="none"),
            teacher_model=models[1],
            train_dataset=Dataset.from_dict(wrong),
            processing_class=reader,
        )
    PrivateDistillationTrainer(
        models[0],
        config(protection="none"),
        teacher_model=models[1],
        train_dataset=Dataset.from_dict(right),
        processing_class=reader,
    ).train()


def xlnet(kind, tokenizer, **more):
    sizes = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32, "pad_token_id": tokenizer.pad_token_id}
    return kind(XLNetConfig(vocab_size=len(tokenizer), **sizes, **more))


def test_a_model_without_a_limit_takes_rows_of_any_length(config, tokenizer, ids):
    models = [xlnet(XLNetLMHeadModel, tokenizer) for _ in range(2)]
    assert models[0].config.max_position_embeddings == -1
    rows = Dataset.from_dict({"input_ids": ids})
    trainer = PrivateDistillationTrainer(
        models[0], config(protection="none"), teacher_model=models[1], train_dataset=rows, processing_class=tokenizer
    )
    assert trainer.args.max_length > 0


def test_a_classifier_whose_answer_depends_on_padding_is_refused(config, tokenizer, ids):
    models = [xlnet(XLNetForSequenceClassification, tokenizer, num_labels=3) for _ in range(2)]
    rows = Dataset.from_dict({"input_ids": ids, "labels": [1] * len(ids)})
    with pytest.raises(ValueError, match="answer depends on the padding behind a text"):
        PrivateDistillationTrainer(
            models[0],
            config(protection="none"),
            teacher_model=models[1],
            train_dataset=rows,
            processing_class=tokenizer,
        )


# --- evaluate and predict ---


@pytest.mark.parametrize("how", ["evaluate", "predict"])
def test_rows_given_later_are_looked_at_as_well(train, ids, how):
    trainer = train({"input_ids": ids})
    wrong = (
        ({"pii_likelihood": [[3000] * len(row) for row in ids]}, "pii_likelihood holds 3000 in row 0"),
        ({"input_ids": [[*row, 10**6] for row in ids]}, "input_ids holds 1000000 in row 0"),
        ({"input_ids": [[5] * 500] * 3}, "has 500 tokens, the student model allows"),
    )
    for change, says in wrong:
        rows = {"input_ids": ids} | change
        with pytest.raises(ValueError, match=says):
            getattr(trainer, how)(Dataset.from_dict({name: rows[name][:3] for name in rows}))
    assert np.isfinite(trainer.evaluate(Dataset.from_dict({"input_ids": ids}))["eval_loss"])
    assert torch.isfinite(torch.tensor(trainer.evaluate(trainer.train_dataset)["eval_loss"]))


# --- what was refused for no reason ---


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_classifiers_that_read_at_the_end_of_sentence_token_train(config, tokenizer, family):
    size = len(tokenizer)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "vocab_size": size}
    sizes = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("attention_heads", "ffn_dim")}
    bart = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 80}
    torch.manual_seed(0)
    make = {
        "bart": lambda: BartForSequenceClassification(BartConfig(**special, **sizes, **bart, num_labels=3)),
        "t5": lambda: T5ForSequenceClassification(
            T5Config(
                **special,
                d_model=16,
                d_kv=8,
                d_ff=16,
                num_layers=1,
                num_heads=2,
                decoder_start_token_id=0,
                num_labels=3,
            )
        ),
    }[family]
    ended = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in TEXTS[:6]]
    rows = Dataset.from_dict({"input_ids": ended, "label": [0, 1, 2] * 2})
    PrivateDistillationTrainer(
        make(),
        config(protection="none", max_length=64),
        teacher_model=make(),
        train_dataset=rows,
        processing_class=tokenizer,
    ).train()


def test_two_classes_of_one_name_are_told_apart_by_number(config, tokenizer, ids):
    """As the two cranes of ImageNet."""
    models = [bert(BertForSequenceClassification, len(tokenizer), num_labels=3) for _ in range(2)]
    for model in models:
        model.config.id2label = {0: "crane", 1: "dog", 2: "crane"}
        model.config.label2id = {"crane": "2", "dog": "1"}
    rows = {"text": TEXTS[:6], "label": [0, 1, 2] * 2}
    given = {"model": models[0], "teacher_model": models[1], "args": config(protection="none")}
    PrivateDistillationTrainer(**given, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer).train()
    rows["label"] = ["dog", "crane"] * 3
    with pytest.raises(ValueError, match="Two classes of the model are called 'crane'"):
        PrivateDistillationTrainer(**given, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer)


def test_a_stream_with_more_columns_is_packed(train, ids):
    rows = Dataset.from_dict({"input_ids": ids, "id": list(range(len(ids)))}).to_iterable_dataset()
    train(rows, packing=True, max_steps=2).train()
