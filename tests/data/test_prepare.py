import numpy as np
import pytest
from datasets import Dataset, IterableDataset
from hypothesis import given
from hypothesis import strategies as st

from swingkd import RuleTagger
from swingkd.data import IGNORE, DataSettings, DistillationCollator, prepare_dataset, token_facts
from swingkd.tagging import CharTags
from swingkd.targets.population import GROUP_STRIDE, PLACE_AFTER, PLACE_BEFORE

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def chat_tokenizer(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", CHATML)
    return tokenizer


def prepare(rows, tokenizer, tagger=None, **settings):
    return prepare_dataset(Dataset.from_list(rows), tokenizer, tagger, DataSettings(**settings))


def learnt_text(row, tokenizer):
    return tokenizer.decode([i for i in row["labels"] if i != IGNORE])


def test_text_is_tokenised_with_end_and_tags(tokenizer):
    row = prepare([{"text": "my pin is 4711"}], tokenizer, RuleTagger())[0]
    assert row["input_ids"] == [*tokenizer("my pin is 4711")["input_ids"], tokenizer.eos_token_id]
    assert row["labels"] == row["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(row["input_ids"])
    private = [t for t, s in zip(tokens, row["pii_likelihood"], strict=True) if s == 255]
    # The digits, and by dilation the token before and the end after them.
    assert "".join(private).replace("Ġ", " ").strip().endswith("4711</s>")


def test_no_tagger_no_privacy_columns(tokenizer):
    assert set(prepare([{"text": "hello"}], tokenizer).column_names) == {"input_ids", "labels"}


def test_the_smallest_likelihood_stays_above_zero(tokenizer):
    class Faint:
        def char_likelihood(self, texts):
            return [np.full(len(t), 1e-6, np.float32) for t in texts]

    assert 1 in prepare([{"text": "hello"}], tokenizer, Faint())[0]["pii_likelihood"]


def test_completion_only_is_the_default_for_prompt_and_completion(tokenizer):
    rows = [{"prompt": "hello ann, ", "completion": "my pin is 4711"}]
    assert learnt_text(prepare(rows, tokenizer)[0], tokenizer).removesuffix("</s>").strip() == "my pin is 4711"
    everything = prepare(rows, tokenizer, completion_only_loss=False)[0]
    assert everything["labels"] == everything["input_ids"]


def test_messages_and_assistant_only(chat_tokenizer):
    rows = [{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "my pin is 4711"}]}]
    row = prepare(rows, chat_tokenizer, RuleTagger())[0]
    assert chat_tokenizer.decode(row["input_ids"]) == "<|user|>hello<|assistant|>my pin is 4711"
    assert max(row["pii_likelihood"]) == 255
    only = prepare(rows, chat_tokenizer, assistant_only_loss=True)[0]
    assert learnt_text(only, chat_tokenizer) == "my pin is 4711"


def test_conversational_prompt_and_completion(chat_tokenizer):
    rows = [
        {
            "prompt": [{"role": "user", "content": "hello"}],
            "completion": [{"role": "assistant", "content": "thank you"}],
        }
    ]
    assert learnt_text(prepare(rows, chat_tokenizer)[0], chat_tokenizer) == "thank you"


def test_a_template_that_marks_nothing_is_named(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(ValueError, match=r"\{% generation %\}"):
        prepare([{"messages": [{"role": "assistant", "content": "x"}]}], tokenizer, assistant_only_loss=True)


def test_unknown_columns_are_listed(tokenizer):
    with pytest.raises(ValueError, match=r"columns \['note'\].*dataset_text_field"):
        prepare([{"note": "hello"}], tokenizer)
    assert len(prepare([{"note": "hello"}], tokenizer, text_field="note")) == 1


def test_tokenised_rows_cannot_be_tagged_any_more(tokenizer):
    rows = [{"input_ids": [5, 6, 7]}]
    assert prepare(rows, tokenizer)[0]["input_ids"] == [5, 6, 7]
    with pytest.raises(ValueError, match="tokenised already"):
        prepare(rows, tokenizer, RuleTagger())


def test_streaming_gives_the_same_rows(tokenizer, texts):
    stream = IterableDataset.from_generator(lambda: iter(texts.to_list()))
    for packing in (False, True):
        settings = DataSettings(packing="wrapped" if packing else None, max_length=32)
        assert [
            {k: list(v) for k, v in row.items()} for row in prepare_dataset(stream, tokenizer, RuleTagger(), settings)
        ] == prepare_dataset(texts, tokenizer, RuleTagger(), settings).to_list()


def test_packing_keeps_every_token_and_its_tags(tokenizer, texts):
    whole = prepare_dataset(texts, tokenizer, RuleTagger(), DataSettings())
    packed = prepare_dataset(texts, tokenizer, RuleTagger(), DataSettings(packing="wrapped", max_length=32))
    assert set(map(len, packed["input_ids"][:-1])) == {32}
    for column in whole.column_names:
        assert np.concatenate(whole[column]).tolist() == np.concatenate(packed[column]).tolist()


def test_longer_rows_are_cut_without_packing(tokenizer):
    assert len(prepare([{"text": "hello " * 50}], tokenizer, max_length=16)[0]["input_ids"]) == 16


def test_several_processes_give_the_same(tokenizer, texts):
    one = prepare_dataset(texts, tokenizer, RuleTagger(), DataSettings())
    two = prepare_dataset(texts, tokenizer, RuleTagger(), DataSettings(), num_proc=2)
    assert one.to_list() == two.to_list()


def test_groups_name_the_place_in_the_span():
    #       0123456789
    text = "id 47 ab 47"
    tags = CharTags(np.zeros(11, np.float32), np.zeros(11, np.int16))
    for start in (3, 9):
        tags.likelihood[start : start + 2], tags.labels[start : start + 2] = 1, 2
    offsets = np.array([[i, i + 1] for i in range(11)])
    likelihood, group, shape, span = token_facts(text, tags, offsets, dilation=1)
    base = 2 * GROUP_STRIDE
    assert group.tolist() == [
        0,
        0,
        base + PLACE_BEFORE,
        base + 1,
        base + 2,
        base + PLACE_AFTER,
        0,
        0,
        base + PLACE_BEFORE,
        base + 1,  # a copy is a mention like any other
        base + 2,
    ]
    assert likelihood.tolist() == [0, 0, 255, 255, 255, 255, 0, 0, 255, 255, 255]
    assert len(set(span[[2, 3, 4, 5, 8, 9, 10]])) == 1  # one secret, one hash
    assert (span[[0, 1, 6, 7]] == 0).all()
    assert (shape[[0, 1, 2, 6, 7, 8]] == 0).all()
    assert shape[3] == shape[9] != shape[4] == shape[10] != shape[5]  # "" then "4" then "47"
    assert shape[4] >> 32 == shape[5] >> 32  # both look like "9"


@given(st.text("ab 1", max_size=40), st.data())
def test_private_characters_always_reach_a_token(text, data):
    tags = CharTags(np.zeros(len(text), np.float32), np.zeros(len(text), np.int16))
    flags = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    tags.likelihood[:], tags.labels[:] = np.array(flags, np.float32), np.array(flags, np.int16)
    offsets = np.array([[i, min(i + 2, len(text))] for i in range(0, len(text), 2)], np.int64).reshape(-1, 2)
    likelihood, group, *_ = token_facts(text, tags, offsets, dilation=0)
    expected = [any(flags[a:b]) for a, b in offsets]
    assert (likelihood > 0).tolist() == expected
    assert ((group != 0) == expected).all()


def test_collator_pads_and_masks_the_first_token():
    rows = [{"input_ids": [5, 6, 7], "pii_likelihood": [0, 255, 51]}, {"input_ids": [8, 9]}]
    batch = DistillationCollator(pad_token_id=1)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 1]]
    assert batch["labels"].tolist() == [[IGNORE, 6, 7], [IGNORE, 9, IGNORE]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    np.testing.assert_allclose(batch["pii_likelihood"], [[0, 1, 0.2], [0, 0, 0]], atol=1e-6)
