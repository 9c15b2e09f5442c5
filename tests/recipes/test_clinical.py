"""The recipe on a real pretrained model, end to end on a tiny one."""

import json
import re

import pytest
import yaml
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from swingkd.experiments.identities import with_identities
from swingkd.experiments.models import make_tokenizer
from tests.recipes.conftest import RECIPES, script

SECTIONS = ("ALLERGY", "PLAN", "CC")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The recipe's configuration with a tiny model and a few dialogues."""
    rows = [
        {
            "dialogue": f"Doctor: How is ache number {i}? \r\nPatient: It is {'worse' if i % 2 else 'better'} today.",
            "section_header": SECTIONS[i % 3],
            "section_text": f"Ache {i} was seen.",
        }
        for i in range(40)
    ]
    monkeypatch.setenv("SWINGKD_DATA", str(tmp_path))
    monkeypatch.setenv("SWINGKD_SMOLLM2", str(tmp_path / "base"))
    (tmp_path / "dialog_mts").mkdir()
    for name in ("train", "validation", "test1", "test2"):
        Dataset.from_list(rows).to_parquet(tmp_path / "dialog_mts" / f"{name}.parquet")
    tokenizer = make_tokenizer({"vocab_size": 400}, [row["dialogue"] for row in rows])
    tokenizer.save_pretrained(tmp_path / "base")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **special)).save_pretrained(tmp_path / "base")
    config = yaml.safe_load((RECIPES / "smollm2_clinical" / "config.yaml").read_text())
    config |= {"output_dir": str(tmp_path / "out"), "references": 15, "task": {"texts": 6}}
    config["data"] |= {"longest": 300, "limit": {"train": 24, "validation": 4, "test": 8}}
    config["max_length"], config["student"]["layers"] = 300, 1
    config["canaries"]["all"] |= {"count": 2, "repetitions": [1, 2], "controls": 3}
    config["canaries"] = {name: config["canaries"][name] for name in ("all", "named", "read", "words")}
    for row in config["rows"]:
        if row["model"] == "population":
            row["args"]["population_min_spans"] = 2
    config["sampled"] |= {"count": 4, "max_new_tokens": 12}
    for kind in ("teacher_training", "student_training", "dp_training"):
        config[kind] |= {"num_train_epochs": 1, "max_steps": 2, "warmup_steps": 0, "learning_rate": 1e-3}
    config["dp_training"] |= {"per_device_train_batch_size": 8}
    return config


OF_EVERY_SORT = ("surrogate_out_of_fold", "sampled", "dp", "scrub")


@pytest.mark.slow
@pytest.mark.parametrize("only", [OF_EVERY_SORT, None])
def test_the_rows_of_the_recipe_run(tiny, only):
    main = script("smollm2_clinical")["main"]
    tiny["rows"] = [row for row in tiny["rows"] if only is None or row["model"] in only]
    out = main(tiny)
    rows = json.loads((out / "metrics.json").read_text())["rows"]
    students = [row["model"] for row in tiny["rows"]]
    assert {row["model"] for row in rows} == {"records", "base", "base_layers", "teacher", *students}
    metrics = {row["metric"] for row in rows if row["model"] == "surrogate_out_of_fold"}
    assert {"perplexity", "perplexity_flagged", "section_accuracy", "exposure_excess", "tpr_at_1_fpr"} <= metrics
    assert "epsilon_lower" in metrics
    attacks = {row["setting"].split("attack=")[-1] for row in rows if row["metric"] == "tpr_at_1_fpr"}
    assert {"ez", "wbc", "ratio"} <= attacks
    card = (out / "README.md").read_text()
    assert "`dp (epsilon=8)`: transfer set: epsilon" in card
    assert "| words |" in card
    assert (out / "frontier.png").exists()
    # Nothing of the people and the secrets leaves the private folder.
    secrets = json.loads((out / "_private" / "canaries_named.json").read_text())
    said = card + (out / "report.html").read_text() + (out / "metrics.json").read_text()
    # Not within the digits of a measurement.
    found = [c["id"] for c in secrets["canaries"] if re.search(rf"(?<![\d.]){re.escape(c['secret'])}(?!\d)", said)]
    assert not found
    # Started again, nothing is done twice.
    main(tiny)
    assert json.loads((out / "metrics.json").read_text())["rows"] == rows


def test_people_are_consistent_and_annotated():
    data = Dataset.from_dict({"said": [f"Doctor: How is it, {i}?" for i in range(30)]})
    woven = with_identities(data, "said", "0 train")
    for row in woven:
        values = {}
        for span in row["spans"]:
            values.setdefault(span["label"], []).append(row["text"][span["start"] : span["end"]])
        assert {"NAME", "DATE", "RECORD_NUMBER", "PHONE_NUMBER"} == set(values)
        # First and last name before, one of them behind: the same person's.
        assert len(set(values["NAME"])) == 2 < len(values["NAME"])
        assert len(set(values["PHONE_NUMBER"])) == 1
        assert row["said"] in row["text"]
    assert with_identities(data, "said", "0 train")["text"][:] == woven["text"][:]
    assert with_identities(data, "said", "0 test")["text"][:] != woven["text"][:]
