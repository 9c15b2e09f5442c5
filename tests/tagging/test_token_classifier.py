import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForTokenClassification

from swingkd import EnsembleTagger, PresidioTagger, RarityTagger, RuleTagger, TokenClassificationTagger
from swingkd.tagging.windows import check_fast_tokenizer
from tests.harness import tiny_model


@pytest.fixture
def classifier(tokenizer):
    torch.manual_seed(0)
    labels = {0: "O", 1: "B-PERSON", 2: "I-PERSON"}
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        id2label=labels,
        label2id={v: k for k, v in labels.items()},
    )
    return BertForTokenClassification(config).eval()


def naive_likelihood(model, tokenizer, text):
    """1 - P("O") of a short text, token by token."""
    encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping")[0].tolist()
    encoded.pop("token_type_ids", None)
    with torch.no_grad():
        probabilities = model(**encoded).logits[0].softmax(-1)
    values = np.zeros(len(text))
    for (start, end), p in zip(offsets, probabilities, strict=True):
        for i in range(start, end):
            values[i] = max(values[i], 1 - float(p[0]))
    return values


def test_token_classifier_gives_one_minus_p_outside(classifier, tokenizer):
    texts = ["hello ann", "", "hello bob, thank you"]
    tagger = TokenClassificationTagger(classifier, tokenizer)
    for text, likelihood in zip(texts, tagger.char_likelihood(texts), strict=True):
        np.testing.assert_allclose(likelihood, naive_likelihood(classifier, tokenizer, text), atol=1e-5)
    assert tagger.labels == ("", "PERSON")


def test_a_name_of_two_words_is_one_span(classifier, tokenizer):
    """Its blank belongs to it; two names side by side stay two."""
    tagger, text = TokenClassificationTagger(classifier, tokenizer), "hello ann bob, ann"
    # As a tokenizer has it that leaves blanks out: [CLS] hello an #n bob , ann [SEP]
    offsets = np.array([[0, 0], [0, 5], [6, 8], [8, 9], [10, 13], [13, 14], [15, 18], [0, 0]])

    def spans(second):
        classes = np.array([0, 0, 1, 2, second, 0, 0, 0])
        private = np.where(classes > 0, 0.9, 0.1)
        parts, likelihood, _ = tagger._with_gaps(offsets, private, classes)
        marked = np.zeros(len(text), bool)
        for (start, end), p in zip(parts, likelihood, strict=True):
            marked[start:end] |= p > 0.5
        return "".join(c if m else "-" for c, m in zip(text, marked, strict=True))

    assert spans(second=2) == "------ann bob-----"
    assert spans(second=1) == "------ann-bob-----"


def test_no_texts_no_tags(classifier, tokenizer):
    assert TokenClassificationTagger(classifier, tokenizer).tag([]) == []


def test_long_texts_are_windowed_and_every_character_is_rated(classifier, tokenizer):
    text = " ".join(["hello ann, my pin is 4711."] * 30)
    tagger = TokenClassificationTagger(classifier, tokenizer, max_length=32, overlap=8, batch_size=3)
    likelihood = tagger.char_likelihood([text])[0]
    words = np.array([c != " " for c in text])
    assert (likelihood[words] > 0).all()
    # A window's own result is part of the maximum.
    first = text[:40]
    assert (likelihood[:20] >= naive_likelihood(classifier, tokenizer, first)[:20] - 0.2).all()


def test_a_model_without_the_outside_label_is_refused(classifier, tokenizer):
    with pytest.raises(ValueError, match=r"called 'NOTHING'.*Pass outside="):
        TokenClassificationTagger(classifier, tokenizer, outside="NOTHING")


def test_a_slow_tokenizer_is_refused_with_the_remedy(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "is_fast", property(lambda self: False))
    with pytest.raises(ValueError, match=r"slow tokenizer.*use_fast=True"):
        check_fast_tokenizer(tokenizer)


def test_rarity_is_clipped_surprisal(tokenizer):
    model = tiny_model(len(tokenizer))
    tagger = RarityTagger(model, tokenizer, quantiles=(5.0, 7.0))
    text = "hello ann"
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        log_probs = model(ids).logits[0].log_softmax(-1)
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    likelihood = tagger.char_likelihood([text])[0]
    for i in range(1, ids.size(1)):
        surprisal = -float(log_probs[i - 1, ids[0, i]])
        start, end = offsets[i]
        np.testing.assert_allclose(likelihood[start:end], np.clip((surprisal - 5) / 2, 0, 1), atol=1e-5)


def test_rarity_must_be_calibrated_first(tokenizer):
    tagger = RarityTagger(tiny_model(len(tokenizer)), tokenizer)
    with pytest.raises(ValueError, match="calibrate"):
        tagger.tag(["hello"])
    with pytest.raises(ValueError, match="q50 < q99"):
        RarityTagger(tiny_model(len(tokenizer)), tokenizer, quantiles=(3.0, 2.0))


def test_rarity_with_a_trained_public_model_finds_numbers_rarer_than_words(data_dir):
    folder = str(data_dir / "models" / "stories260K")
    tagger = RarityTagger(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    tagger.calibrate([story, "One day, a big dog came to the park. The dog was happy and wanted to play with Lily."])
    text = "Once upon a time, there was a little girl. Her code was 9X7Q4Z."
    likelihood = tagger.char_likelihood([text])[0]
    secret = text.index("9X7Q4Z")
    assert likelihood[secret : secret + 6].mean() > 2 * likelihood[:20].mean()


def test_ensemble_is_noisy_or(classifier, tokenizer):
    texts = ["hello ann, my pin is 4711."]
    members = [RuleTagger(), TokenClassificationTagger(classifier, tokenizer)]
    ensemble = EnsembleTagger(*members)
    a, b = (member.char_likelihood(texts)[0] for member in members)
    np.testing.assert_allclose(ensemble.char_likelihood(texts)[0], 1 - (1 - a) * (1 - b), atol=1e-6)
    label = ensemble.char_labels(texts)[0][texts[0].index("4711")]
    assert ensemble.labels[label] == "ID_NUMBER"


def test_an_empty_ensemble_is_refused():
    with pytest.raises(ValueError, match="at least one tagger"):
        EnsembleTagger()


def test_presidio_scores_become_likelihoods():
    pytest.importorskip("presidio_analyzer")
    tagger = PresidioTagger()
    text = "card 4539148803436467 or ann@example.org"
    likelihood, labels = tagger.tag([text])[0]
    assert likelihood[text.index("4539")] == 1.0
    assert tagger.labels[labels[text.index("ann@")]] == "EMAIL_ADDRESS"
    assert likelihood[0] == 0


def test_presidio_with_the_names_that_a_pipeline_finds(tmp_path):
    pytest.importorskip("presidio_analyzer")
    named = pytest.importorskip("spacy").blank("en")
    named.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Ann Lee"}])
    named.to_disk(tmp_path / "named")
    tagger = PresidioTagger(pipeline=str(tmp_path / "named"))
    text = "Ann Lee paid with 4539148803436467"
    likelihood, labels = tagger.tag([text])[0]
    assert (likelihood[:7] >= 0.5).all()
    assert tagger.labels[labels[0]] == "PERSON"
    assert likelihood[text.index("4539")] == 1.0
    assert (likelihood[8:12] == 0).all()
    with pytest.raises(ValueError, match="no spaCy pipeline 'en_core_nothing' here: python -m spacy download"):
        PresidioTagger(pipeline="en_core_nothing")
    with pytest.raises(ValueError, match="give one of the two"):
        PresidioTagger(tagger.analyzer, pipeline="en_core_web_sm")


def test_presidio_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "presidio_analyzer", None)
    with pytest.raises(ImportError, match=r"swingkd\[presidio\]"):
        PresidioTagger()
