"""The recipes of classifiers, word taggers and PII taggers, end to end on a tiny configuration."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoConfig, AutoTokenizer, BertModel

from swingkd import TokenClassificationTagger
from swingkd.experiments.annotated import Annotated, words_and_tags
from swingkd.experiments.models import make_tokenizer
from swingkd.experiments.taggers import TaggerExperiment
from tests.recipes.conftest import RECIPES, script

TINY_BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TINY_DISTILBERT = {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}


def tiny(recipe: str, tmp_path: Path, config: str = "config.yaml", **changes) -> dict:
    config = yaml.safe_load((RECIPES / recipe / config).read_text())
    config |= {"output_dir": str(tmp_path / "out"), "seeds": [0], "max_length": 48} | changes
    config["training"] |= {"bf16": False, "per_device_train_batch_size": 16, "warmup_steps": 0}
    for kind in ("pretraining", "teacher_training", "student_training"):
        if kind in config:
            config[kind] |= {"num_train_epochs": 1, "max_steps": 3}
    return config


def metrics_of(out: Path) -> list[dict]:
    return json.loads((out / "metrics.json").read_text())["rows"]


def test_classification(tmp_path):
    rows = [{"text": f"the film number {i} is {'good' if i % 2 else 'bad'}", "label": i % 2} for i in range(40)]
    features = Features(text=Value("string"), label=ClassLabel(names=["bad", "good"]))
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    Dataset.from_dict({"text": [f"some other text, part {i}" for i in range(40)]}).to_parquet(
        tmp_path / "texts.parquet"
    )
    here = {name: {"path": "parquet", "data_files": str(tmp_path / f"{name}.parquet")} for name in ("rows", "texts")}
    config = tiny(
        "swing_classification",
        tmp_path,
        teacher=TINY_BERT,
        student=TINY_DISTILBERT,
        data=dict.fromkeys(("train", "validation", "test"), here["rows"]),
        canaries={
            "head": "Review by {name}, number {secret}.",
            "texts": here["texts"],
            "marked": 16,
            "unmarked": 12,
            "repetitions": 2,
            "seed": 3,
        },
        tokenizer={"vocab_size": 200, "data": here["texts"]},
    )
    config["rows"] = [row for row in config["rows"] if row["model"] in ("kd", "drop", "scrub")]
    main = script("swing_classification")["main"]
    out = main(config)
    rows = metrics_of(out)
    assert {row["model"] for row in rows} == {"teacher", "kd", "drop", "scrub"}
    assert {"records=marked", "records=unmarked"} <= {word for row in rows for word in row["setting"].split()}
    card = (out / "README.md").read_text()
    assert "marked: found (" in card
    assert (out / "report.html").exists()
    drawn = out / "_private" / "canaries-0.json"
    assert drawn.stat().st_mode & 0o077 == 0
    heads = [row["text"].split(".")[0] for row in json.loads(drawn.read_text())["groups"]["marked"][0]]
    assert not any(head.split()[-1] in card for head in heads)
    tokenizer = AutoTokenizer.from_pretrained(out / "_private" / "tokenizer")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("some text")["input_ids"])
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert len(set(tokenizer.all_special_ids)) == 5
    # Started again, nothing is done twice; the canaries' seed is nowhere to be read.
    main(config)
    assert metrics_of(out) == rows
    assert '"seed": 3' not in (out / "metrics.json").read_text()


def test_words(tmp_path):
    config = tiny(
        "swing_ner",
        tmp_path,
        teacher=TINY_BERT,
        student=TINY_DISTILBERT,
        limit={"train": 20, "validation": 10, "test": 10},
    )
    config["canaries"] |= {"count": 20, "repetitions": 2}
    config["tokenizer"]["vocab_size"] = 400
    config["rows"] = [config["rows"][0], config["rows"][3]]
    out = script("swing_ner")["main"](config)
    rows = metrics_of(out)
    assert {(row["model"], row["metric"]) for row in rows} >= {("kd", "f1"), ("temperature", "auc")}
    assert "temperature (maximum 16)" in (out / "README.md").read_text()


def test_words_and_tags(monkeypatch):
    text = "USR: Ann Lee, 4711 of course."
    spans = [{"start": 5, "end": 12, "label": "NAME"}, {"start": 14, "end": 18, "label": "NUMBER"}]
    found = words_and_tags({"text": text, "spans": spans})
    assert found["tokens"] == text.split()
    assert found["ner_tags"] == ["O", "B-NAME", "I-NAME", "B-NUMBER", "O", "O"]


def test_pii_tagger(tmp_path):
    pytest.importorskip("presidio_analyzer", reason="needs the extra presidio")
    config = tiny("pii_tagger", tmp_path, model=TINY_BERT, tokenizer={"vocab_size": 320}, max_length=160)
    config["data"]["simdial"]["limit"] = {"train": 30, "validation": 10, "test": 10}
    config["training"] |= {"num_train_epochs": 1}
    out = script("pii_tagger")["main"](config)
    rows = metrics_of(out)
    assert {row["model"] for row in rows} == {"rules", "presidio", "pii_tagger", "rules_and_pii_tagger"}
    losses = [row["value"] for row in rows if row["metric"] == "log_loss"]
    assert losses[1] <= losses[0]  # calibration cannot make it worse where it was fitted
    card = (out / "README.md").read_text()
    assert "| rules |" in card
    assert TokenClassificationTagger(str(out / "tagger")).char_likelihood(["hello"])[0].shape == (5,)


def test_a_pretrained_tagger_flags_no_more_than_it_may(tmp_path):
    """`minilm.yaml` on a tiny model: one data set has no test split, spaCy finds names, the last layer is moved."""
    spacy = pytest.importorskip("spacy", reason="needs the extra presidio")
    pytest.importorskip("presidio_analyzer", reason="needs the extra presidio")
    named = spacy.blank("en")
    named.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Ann"}])
    named.to_disk(tmp_path / "named")
    text = [f"Ann has written to shop {i} about her order." for i in range(10, 50)]
    spans = [[{"start": 0, "end": 3, "label": "PER", "text": "Ann"}]] * 40
    Dataset.from_dict({"text": text, "spans": spans}).to_parquet(tmp_path / "rows.parquet")
    here = {"path": "parquet", "data_files": str(tmp_path / "rows.parquet")}
    tokenizer = make_tokenizer({"vocab_size": 300}, text)
    config = tiny("pii_tagger", tmp_path, config="minilm.yaml", tokenizer={"name": str(tmp_path / "base")})
    tokenizer.save_pretrained(tmp_path / "base")
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **TINY_BERT}
    BertModel(AutoConfig.for_model(**sizes)).save_pretrained(tmp_path / "base")
    config["data"] = {"wikigold": {"train": here}, "notes": dict.fromkeys(("train", "validation", "test"), here)}
    config |= {
        "model": {"name": str(tmp_path / "base")},
        "spacy": str(tmp_path / "named"),
        "false_flags": 0.1,
        "versions": 1,
    }
    config["training"] |= {"num_train_epochs": 1}
    out = script("pii_tagger")["main"](config)
    found = {(row["model"], row["metric"]): row["value"] for row in metrics_of(out)}
    assert found["presidio_names", "recall"] == 1.0
    assert found["presidio_names", "false_flags"] == 0.0
    assert 0 < found["pii_tagger", "threshold"] < 1
    card = (out / "README.md").read_text()
    assert "10.0 % of the public tokens of validation text are flagged" in card
    assert "with a layer on top" in card
    read = TaggerExperiment(config).training_rows()
    assert len(read) == 160
    assert sum(row["text"].startswith("Ann ") for row in read) == 80
    assert all(row["spans"][0]["start"] == 0 for row in read)
    # The layer that was saved flags that share of the tokens, and no more.
    tagger = TokenClassificationTagger(str(out / "tagger"))
    inputs = tagger.tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    public = torch.tensor([[end > start >= 3 for start, end in row] for row in inputs.pop("offset_mapping").tolist()])
    likelihood = 1 - tagger.model(**inputs).logits.softmax(-1)[..., 0]
    assert (likelihood[public] >= 0.5).float().mean() <= 0.1 + 1e-3
    assert (likelihood[public] >= 0.45).any()


def test_templates_do_not_stand_on_both_sides(tmp_path):
    rows = [
        {
            "text": f"call {i}",
            "spans": [{"start": 5, "end": 5 + len(str(i)), "label": "PHONE", "text": str(i)}],
            "template": i % 10,
        }
        for i in range(50)
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    spec = {"whole": {"path": "parquet", "data_files": str(tmp_path / "rows.parquet")}, "by": "template"}
    splits = Annotated.load(spec, {"PHONE": "CONTACT"}).splits
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [35, 5, 10]
    seen = [{text.split()[1][-1] for text in splits[name]["text"]} for name in splits]
    assert not seen[0] & seen[2]
    assert splits["test"]["spans"][0][0]["label"] == "CONTACT"
