import json
import os
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

from swingkd.experiments import corpus
from tests.recipes.conftest import RECIPES, script

OUT_OF_FOLD = {"protection": "none", "alpha": 1.0}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The quickstart's configuration, cut down to seconds."""
    monkeypatch.setenv("SWINGKD_RECIPES", str(RECIPES))
    config = yaml.safe_load((RECIPES / "quickstart" / "config.yaml").read_text())
    config |= {
        "output_dir": str(tmp_path / "out"),
        "tokenizer": {"vocab_size": 300},
        "max_length": 64,
        "teacher": {"hidden_size": 16, "num_hidden_layers": 1},
        "student": {"hidden_size": 16, "num_hidden_layers": 1},
    }
    config["data"] |= {"limit": {"train": 60, "test": 10}}
    config["canaries"] |= {"length": 3, "count": 2, "repetitions": [1, 3]}
    for kind in ("teacher_training", "student_training"):
        config[kind] = {"max_steps": 2}
    return config


def rows_of(config):
    return json.loads((Path(config["output_dir"]) / "metrics.json").read_text())["rows"]


def test_the_recipe_runs_restarts_and_skips_what_it_has(tiny):
    main = script("swing_clm")["main"]
    tiny["rows"] = tiny["rows"][:1]
    out = main(tiny)
    before = rows_of(tiny)
    assert {row["model"] for row in before} == {"teacher", "kd"}
    assert (out / "README.md").exists()
    assert (out / "exposure.png").exists()
    more = [
        {"model": "swing", "transfer": "B+", "args": {"protection": "noise"}},
        {"model": "scrub", "transfer": "A", "scrub": True, "args": {"protection": "none"}},
        {"model": "noise", "transfer": "A", "recall": 0.5, "setting": "recall=0.5", "args": {"protection": "noise"}},
        {"model": "mollify", "transfer": "A", "args": {"protection": "mollify"}},
        {"model": "surrogate", "transfer": "A", "args": {"protection": "surrogate"}},
        {"model": "public", "transfer": "B", "teacher": "public", "args": {"protection": "none"}},
        {"model": "finetune", "transfer": "A", "untagged": True, "args": {"protection": "none", "alpha": 0.0}},
        {"model": "reverse", "transfer": "A", "untagged": True, "args": {"protection": "none", "beta": 1.0}},
        {"model": "once", "transfer": "A", "untagged": True, "deduplicated": True, "args": {"protection": "none"}},
        {"model": "goldfish", "transfer": "A", "untagged": True, "goldfish": 4, "args": {"protection": "none"}},
        {"model": "drop", "transfer": "A", "before": True, "setting": "guard=before", "args": {"protection": "drop"}},
        {"model": "out_of_fold", "transfer": "A", "folds": 2, "untagged": True, "args": OUT_OF_FOLD},
        {
            "model": "surrogate_out_of_fold",
            "transfer": "A",
            "folds": 2,
            "args": {"protection": "surrogate", "alpha": 1.0},
        },
    ]
    main(tiny | {"rows": tiny["rows"] + more})
    after = rows_of(tiny)
    assert after[: len(before)] == before  # measured once
    assert {row["model"] for row in after} == {"teacher", "kd", *(row["model"] for row in more)}
    assert "`out_of_fold` learns each row" in (out / "README.md").read_text()
    assert "`surrogate` reads text" in (out / "README.md").read_text()


def test_secrets_stay_in_the_private_folder(tiny):
    main = script("swing_clm")["main"]
    out = main(tiny)
    canaries = json.loads((out / "_private" / "canaries.json").read_text())["canaries"]
    public = [p for p in out.rglob("*") if p.is_file() and "_private" not in p.parts]
    assert {p.name for p in public} >= {"metrics.json", "README.md", "exposure.png"}
    for path in public:
        text = path.read_bytes()
        assert not any(c["prefix"].encode() in text for c in canaries)


def test_the_recipes_own_configurations_are_complete():
    for path in (RECIPES / "swing_clm").glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        assert {"run", "output_dir", "data", "tokenizer", "teacher", "student", "canaries", "rows"} <= config.keys(), (
            path
        )


@pytest.mark.slow
def test_quickstart_tells_its_story(tmp_path):
    os.environ.pop("SWINGKD_RECIPES", None)
    script("quickstart")["main"](tmp_path / "quickstart")
    rows = json.loads((tmp_path / "quickstart" / "metrics.json").read_text())["rows"]
    excess = {
        (row["model"], row["setting"].split("repetitions=")[1]): row["value"]
        for row in rows
        if row["metric"] == "exposure_excess"
    }
    assert excess["kd", "50"] >= 5
    assert excess["surrogate", "50"] <= 0.2 * excess["kd", "50"]


@pytest.mark.slow
def test_canaries_of_every_kind(tiny):
    config = yaml.safe_load((RECIPES / "audit_canaries" / "config.yaml").read_text())
    config |= {key: value for key, value in tiny.items() if key not in ("run", "canaries", "rows", "kind")}
    config["canaries"]["all"] |= {"count": 2, "repetitions": [3]}
    config["max_length"] = 128
    config["rows"] = [row for row in config["rows"] if row["model"] in ("kd", "surrogate")]
    config["rows"].append(
        {"model": "drop", "setting": "guard=before", "transfer": "A", "before": True, "args": {"protection": "drop"}}
    )
    config["rows"].append({"model": "out_of_fold", "transfer": "A", "folds": 2, "untagged": True, "args": OUT_OF_FOLD})
    out = script("audit_canaries")["main"](config)
    rows = rows_of(config)
    kinds = set(config["canaries"]) - {"all"}
    for model in ("teacher", "kd", "surrogate", "drop", "out_of_fold"):
        found = {
            word.removeprefix("canaries=")
            for row in rows
            if row["model"] == model and row["metric"] == "exposure_excess"
            for word in row["setting"].split()
            if word.startswith("canaries=")
        }
        assert found == kinds
    card = (out / "README.md").read_text()
    assert (out / "leaks.png").exists()
    assert all(f"| {kind} | " in card for kind in kinds)
    assert "`drop (before)`" in card
    assert "All kinds speak of the same people" not in card
    secrets = [
        {canary["secret"] for canary in json.loads(path.read_text())["canaries"]}
        for path in sorted((out / "_private").glob("canaries_*.json"))
    ]
    assert len(secrets) == len(kinds)
    assert sum(map(len, secrets)) == len(set().union(*secrets))
    # Whoever has the seed can draw the canaries again.
    assert "seed" not in json.dumps(json.loads((out / "metrics.json").read_text())["config"]["canaries"])


def test_the_rivals_do_what_they_say(tokenizer):
    rows = Dataset.from_dict({"text": ["one", "two", "one", "three", "two"]})
    assert corpus.deduplicated(rows)["text"][:] == ["one", "two", "three"]
    ids = list(range(200)) * 2
    labels = corpus.goldfish(Dataset.from_dict({"input_ids": [ids], "labels": [ids]}), 4)["labels"][0]
    left_out = [label == -100 for label in labels]
    assert left_out[:13] == [False] * 13
    assert 30 < sum(left_out[:200]) < 70
    # The second copy lacks the same tokens.
    assert left_out[13:200] == left_out[213:400]
    assert all(label in (-100, token) for label, token in zip(labels, ids, strict=True))
