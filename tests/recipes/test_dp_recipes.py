"""The three recipes of differential privacy, end to end in seconds."""

import json
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

from swingkd import PrivacyLedger
from swingkd.privacy.accounting import said_epsilon
from tests.recipes.conftest import RECIPES, script

TINY = {
    "tokenizer": {"vocab_size": 300},
    "max_length": 48,
    "teacher": {"hidden_size": 16, "num_hidden_layers": 1},
    "student": {"hidden_size": 16, "num_hidden_layers": 1},
}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A recipe's configuration, cut down."""
    monkeypatch.setenv("SWINGKD_RECIPES", str(RECIPES))

    def cut(recipe: str, name: str = "config") -> dict:
        config = yaml.safe_load((RECIPES / recipe / f"{name}.yaml").read_text())
        config |= {"output_dir": str(tmp_path / recipe), **TINY}
        config["data"]["limit"] = {"train": 60, "test": 10}
        config["canaries"] |= {"length": 3, "count": 2, "repetitions": [2]}
        config["coin_canaries"] |= {"length": 2, "count": 40}  # by coin: never fewer than four on a side
        for kind in ("base_training", "teacher_training", "student_training"):
            if kind in config:
                config[kind] = {"max_steps": 2}
        config["dp_training"] |= {"max_steps": 2, "per_device_train_batch_size": 8}
        return config

    return cut


def run(recipe: str, config: dict) -> tuple[list[dict], Path]:
    out = script(recipe)["main"](config)
    return json.loads((out / "metrics.json").read_text())["rows"], out


def value(rows, model, metric, *words):
    (found,) = [
        r["value"]
        for r in rows
        if r["model"] == model and r["metric"] == metric and all(word in r["setting"].split() for word in words)
    ]
    return found


@pytest.mark.slow
def test_students_that_write_beside_students_that_read(tiny, data_dir, monkeypatch):
    monkeypatch.setenv("SWINGKD_DATA", str(data_dir))
    config = tiny("dp_clm", "on_policy")
    for row in config["rows"]:
        row["args"] |= {"max_new_tokens": 8} if "lmbda" in row["args"] else {}
    rows, _ = run("dp_clm", config)
    assert {row["model"] for row in rows} == {"base", "teacher", "kd", "on_policy", "dp", "dp_on_policy"}
    for model in ("dp", "dp_on_policy"):
        assert 7.9 < value(rows, model, "epsilon", "epsilon=8", "scope=transfer_set") <= 8
        assert 1.9 < value(rows, model, "epsilon", "epsilon=2", "scope=transfer_set") <= 2


def test_private_students_beside_plain_ones(tiny):
    config = tiny("dp_clm")
    rows, out = run("dp_clm", config)
    assert {row["model"] for row in rows} == {"base", "teacher", "kd", "dp"}
    for words in (("epsilon=8",), ("epsilon=8", "rank=8")):
        found = [
            r
            for r in rows
            if r["model"] == "dp"
            and r["metric"] == "epsilon"
            and "scope=transfer_set" in r["setting"].split()
            and ("rank=8" in r["setting"].split()) == (len(words) == 2)
        ]
        assert len(found) == 1
        assert 7.9 < found[0]["value"] <= 8
        assert found[0]["n"] == 2
    assert not [r for r in rows if r["model"] == "kd" and r["metric"] == "epsilon"]
    card = (out / "README.md").read_text()
    said = said_epsilon(value(rows, "dp", "epsilon", "epsilon=8", "rank=8"))
    assert f"`dp (epsilon=8, rank=8)`: transfer set: epsilon {said} at delta 1e-05 for each record" in card
    assert "teacher's training data: not covered" in card
    assert "Epsilon: promised and proved" in card
    assert (out / "exposure.png").stat().st_size > 10_000
    # It restarts row by row.
    again, _ = run("dp_clm", config)
    assert again == rows


@pytest.mark.slow
def test_a_private_teacher_and_what_it_wrote(tiny):
    config = tiny("dp_teacher") | {"samples": 20}
    rows, out = run("dp_teacher", config)
    promised = value(rows, "teacher", "epsilon", "scope=transfer_set")
    assert value(rows, "kd", "epsilon", "scope=teacher_data") == promised
    assert not [r for r in rows if r["model"] == "kd" and "scope=transfer_set" in r["setting"]]
    assert PrivacyLedger.load(out / "_private" / "teacher").epsilon() == pytest.approx(promised)
    card = (out / "README.md").read_text()
    assert "`kd (written)`: transfer set: not covered; teacher's training data: epsilon" in card


@pytest.mark.slow
def test_users_count_as_one(tiny, tmp_path):
    rows = [{"who": f"u{i % 30}", "line": f"hello {i}, my pin is {1000 + i}, bye"} for i in range(90)]
    Dataset.from_list(rows).to_json(str(tmp_path / "rows.jsonl"))
    config = tiny("dp_user")
    config["data"] = {
        "users": {
            "path": "json",
            "data_files": str(tmp_path / "rows.jsonl"),
            "text_column": "line",
            "user_column": "who",
        },
        "held_out": 0.1,
        "public": tiny("dp_clm")["data"]["public"],
    }
    found, out = run("dp_user", config)
    assert [r["n"] for r in found if r["metric"] == "epsilon" and "unit=user" in r["setting"].split()] == [2]
    assert "for each user (add or remove one)" in (out / "README.md").read_text()
