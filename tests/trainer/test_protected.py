"""What a run says that it protects is counted from its rows, and shows no letter of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import BertForSequenceClassification

from swingkd import EnsembleTagger, PrivateDistillationTrainer, RarityTagger, RuleTagger
from swingkd.report.protected import protected_lines
from swingkd.trainer.protected import shape, tagger_name
from tests.harness import TEXTS, bert, tiny_model

MAIL = [
    f"hello {text.split()[1].strip(',')}, write to a{i}b@example.org or call 212-555-01{i:02d}"
    for i, text in enumerate(TEXTS)
]


@pytest.fixture
def make(student, teacher, tokenizer, config):
    def make(tagger=None, **fields):
        given = {name: fields.pop(name) for name in ("public_model", "target_protection") if name in fields}
        return PrivateDistillationTrainer(
            student,
            config(**fields),
            teacher_model=teacher,
            train_dataset=Dataset.from_dict({"text": MAIL}),
            processing_class=tokenizer,
            tagger=tagger or RuleTagger(),
            **given,
        )

    return make


def test_shares_are_those_of_the_rows(make):
    trainer = make()
    labels = np.concatenate(trainer.train_dataset["labels"][:])
    private = np.concatenate(trainer.train_dataset["pii_likelihood"][:]) >= 128
    told = trainer.protected
    assert told["flagged"] == pytest.approx(private[labels != -100].mean())
    assert sum(told["kinds"].values()) == pytest.approx(told["flagged"])
    assert {"EMAIL_ADDRESS", "PHONE_NUMBER"} <= told["kinds"].keys()


def test_examples_show_no_letter_and_no_digit_of_the_text(make):
    told = make().protected
    assert len(told["examples"]) >= 2
    shown = " ".join(text.partition(" ")[2] for text in told["examples"])
    assert set(shown) <= set("x9 @.-/:()+•")
    assert "x9x@x.x" in shown


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("ann@example.org", "x@x.x"),
        ("p4ss!w0rd", "x9x•x9x"),
        ("+1 (212) 555", "+9 (9) 9"),
        ("  ", ""),
        ("x" * 99, "x"),
    ],
)
def test_shapes(text, masked):
    assert shape(text) == masked


def test_the_reason_is_said(make, tokenizer):
    assert make().protected["why"] == "the default where a tagger finds values in text"
    assert make(protection="drop").protected["why"] == "as asked for"
    assert make(public_model=tiny_model(len(tokenizer), seed=9)).protected["why"].endswith("there is a public model")
    assert make(protection="drop").protected["tagger"] == "RuleTagger"
    ensemble = EnsembleTagger(RuleTagger(), RarityTagger.__new__(RarityTagger))
    assert tagger_name(ensemble) == "RuleTagger and RarityTagger"


def test_under_differential_privacy_no_share_is_told(make):
    """They are statistics of the rows that no noise covers."""
    told = make(noise_multiplier=1.0, protection="drop").protected
    assert told["flagged"] is None
    assert told["kinds"] == {}
    assert told["examples"] == []
    assert len(protected_lines(told)) == 2


def test_it_stands_in_the_state_on_the_card_and_on_the_page(make, capfd):
    trainer = make(protection="drop", save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    said = capfd.readouterr()
    folder = Path(trainer.args.output_dir)
    state = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["SayWhatIsProtected"]["args"]["protected"] == trainer.protected
    files = [(folder / name).read_text() for name in ("README.md", "report.html")]
    for text in (*files, said.out + said.err):
        assert "Protection of private tokens: drop (as asked for)." in text
        assert "example.org" not in text


def test_examples_of_a_classifier_count_as_a_whole(tokenizer, config):
    models = [bert(BertForSequenceClassification, len(tokenizer), num_labels=2) for _ in range(2)]
    rows = Dataset.from_dict({"text": [*MAIL[:6], "the weather is fine", "it rains"], "label": [0, 1] * 4})
    given = {"teacher_model": models[1], "train_dataset": rows, "processing_class": tokenizer, "tagger": RuleTagger()}
    trainer = PrivateDistillationTrainer(models[0], config(protection="drop"), **given)
    assert trainer.protected["flagged"] == pytest.approx(6 / 8)
    assert trainer.protected["examples"] == []
