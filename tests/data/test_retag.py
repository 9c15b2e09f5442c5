"""Rows that are tokenised already and still have their text get the tags that the text alone would have got."""

import numpy as np
import pytest
from datasets import Dataset
from transformers import BertForSequenceClassification, BertForTokenClassification

from swingkd import PrivateDistillationTrainer, RuleTagger
from swingkd.data import PII_COLUMNS, DataSettings, prepare_dataset
from swingkd.data.retag import offsets_of
from tests.harness import TEXTS, bert

MAIL = [f"write to {text.split()[1].strip(',')}@example.org about {text}" for text in TEXTS[:8]]


def tokenised(tokenizer, texts, **options):
    return Dataset.from_dict({"text": texts}).map(lambda row: tokenizer(row["text"], **options))


def test_language_rows_get_the_tags_of_their_text(tokenizer):
    expected = prepare_dataset(Dataset.from_dict({"text": MAIL}), tokenizer, RuleTagger(), DataSettings())
    found = prepare_dataset(tokenised(tokenizer, MAIL), tokenizer, RuleTagger(), DataSettings())
    assert any(any(row) for row in expected["pii_likelihood"])
    for want, have in zip(expected, found, strict=True):
        length = len(have["input_ids"])  # the tokenizer ends no text
        assert have["input_ids"] == want["input_ids"][:length]
        for name in PII_COLUMNS:
            assert have[name] == want[name][:length], name


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_and_cut_rows_find_their_tags_again(tokenizer, side):
    whole = prepare_dataset(tokenised(tokenizer, MAIL), tokenizer, RuleTagger(), DataSettings())
    padded = tokenised(tokenizer, MAIL, padding="max_length", max_length=80, padding_side=side)
    found = prepare_dataset(padded, tokenizer, RuleTagger(), DataSettings())
    for want, have in zip(whole, found, strict=True):
        assert have["input_ids"] == want["input_ids"]
        assert have["pii_likelihood"] == want["pii_likelihood"]
    cut = tokenised(tokenizer, MAIL, truncation=True, max_length=12)
    for want, have in zip(whole, prepare_dataset(cut, tokenizer, RuleTagger(), DataSettings()), strict=True):
        assert have["pii_likelihood"] == want["pii_likelihood"][:12]


def test_tokens_of_another_text_are_refused(tokenizer):
    rows = tokenised(tokenizer, MAIL).to_list()
    rows[3]["input_ids"] = rows[4]["input_ids"]
    with pytest.raises(ValueError, match="input_ids of row 3 are not the tokens of the text"):
        prepare_dataset(Dataset.from_list(rows), tokenizer, RuleTagger(), DataSettings())


def test_special_tokens_have_no_text():
    special = np.array([0, 1])
    at = offsets_of([0, 5, 6, 1, 1], [5, 6, 7], np.array([[0, 2], [2, 3], [3, 9]]), special)
    np.testing.assert_array_equal(at, [[0, 0], [0, 2], [2, 3], [3, 3], [3, 3]])
    at = offsets_of([0, 6, 7, 1], [5, 6, 7], np.array([[0, 2], [2, 3], [3, 9]]), special)
    np.testing.assert_array_equal(at, [[2, 2], [2, 3], [3, 9], [9, 9]])


def test_classifiers_and_word_taggers_too(tokenizer, config):
    models = [bert(BertForSequenceClassification, len(tokenizer), num_labels=2) for _ in range(2)]
    given = {"teacher_model": models[1], "processing_class": tokenizer, "tagger": RuleTagger()}
    plain = Dataset.from_dict({"text": MAIL, "label": [0, 1] * 4})
    first = PrivateDistillationTrainer(models[0], config(protection="none"), train_dataset=plain, **given)
    done = plain.map(lambda row: tokenizer(row["text"]))
    second = PrivateDistillationTrainer(models[0], config(protection="none"), train_dataset=done, **given)
    for name in ("input_ids", "labels", *PII_COLUMNS):
        assert first.train_dataset[name][:] == second.train_dataset[name][:], name

    models = [bert(BertForTokenClassification, len(tokenizer), num_labels=2) for _ in range(2)]
    given["teacher_model"] = models[1]
    words = Dataset.from_dict({"tokens": [m.split() for m in MAIL], "ner_tags": [[0] * len(m.split()) for m in MAIL]})

    def label(row):
        encoded = tokenizer(row["tokens"], is_split_into_words=True)
        known, before = [], None
        for word in encoded.word_ids():
            known.append(-100 if word is None or word == before else row["ner_tags"][word])
            before = word
        return {"input_ids": encoded["input_ids"], "labels": known}

    first = PrivateDistillationTrainer(models[0], config(protection="none"), train_dataset=words, **given)
    done = words.map(label).remove_columns("ner_tags")
    second = PrivateDistillationTrainer(models[0], config(protection="none"), train_dataset=done, **given)

    def of_words(row):
        return [value for value, label in zip(row["pii_likelihood"], row["labels"], strict=True) if label != -100]

    assert [of_words(row) for row in first.train_dataset] == [of_words(row) for row in second.train_dataset]
    assert any(map(any, map(of_words, second.train_dataset)))
