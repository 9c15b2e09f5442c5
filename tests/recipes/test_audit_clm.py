import json
import os

import pytest
import yaml

from swingkd.audit.shadows import shadow_halves
from tests.recipes.conftest import RECIPES, script

RECIPE = RECIPES / "audit_clm"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("SWINGKD_RECIPES", str(RECIPE.parent))
    config = yaml.safe_load((RECIPE / "config.yaml").read_text())
    sizes = {"hidden_size": 16, "num_hidden_layers": 1}
    config |= {
        "output_dir": str(tmp_path / "out"),
        "tokenizer": {"vocab_size": 300},
        "max_length": 64,
        "teacher": sizes,
        "student": sizes,
        "teacher_training": {"max_steps": 2},
        "student_training": {"max_steps": 2},
        "exposure_canaries": 2,
        "extraction": {"texts": 30, "prefix_tokens": 10, "suffix_tokens": 5, "samples": 20, "limit": 5},
    }
    config["data"] |= {"records": 80, "limit": {"train": 160, "test": 10}}
    config["canaries"] |= {"length": 3, "count": 40}
    config["published"] |= {"secret": "341"}
    config["training"] |= {"per_device_train_batch_size": 4, "bf16": False}
    config["rows"] = config["rows"][:2]
    return config


@pytest.mark.parametrize("path", sorted(RECIPE.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_asks_for_shadows_that_can_be_dealt(path):
    config = yaml.safe_load(path.read_text())
    halves = shadow_halves(config["shadows"], config["data"]["records"] + config["canaries"]["count"])
    assert len(halves) == config["shadows"]


@pytest.mark.slow
def test_every_attack_on_every_model_and_no_secret_in_the_open(tiny):
    main = script(RECIPE.name)["main"]
    out = main(tiny)
    rows = json.loads((out / "metrics.json").read_text())["rows"]
    assert {row["model"] for row in rows} == {"teacher", "kd", "surrogate"}
    attacks = {
        word.removeprefix("attack=") for row in rows for word in row["setting"].split() if word.startswith("attack=")
    }
    with_others = {"ratio", "rmia", "ez", "wbc", "lira", "lira_offline"}
    assert attacks == {"loss", "zlib", "min_k", "min_k++"} | with_others
    assert {row["metric"] for row in rows} >= {
        "perplexity",
        "exposure",
        "auc",
        "tpr_at_1_fpr",
        "epsilon_lower",
        "epsilon_lower_f_dp",
        "continued",
        "reconstruction",
        "inference",
        "values_recall",
        "times_said",
    }
    assert main(tiny) == out
    assert json.loads((out / "metrics.json").read_text())["rows"] == rows  # measured once
    canaries = json.loads((out / "_private" / "canaries.json").read_text())["canaries"]
    open_files = [path for path in out.rglob("*") if path.is_file() and "_private" not in path.parts]
    assert {path.name for path in open_files} >= {"README.md", "metrics.json", "audit.png"}
    for path in open_files:
        assert not any(canary["prefix"].encode() in path.read_bytes() for canary in canaries)


def test_the_committed_configurations_are_complete():
    os.environ.setdefault("SWINGKD_RECIPES", str(RECIPE.parent))
    keys = [yaml.safe_load(path.read_text()).keys() for path in sorted(RECIPE.glob("*.yaml"))]
    assert len(keys) == 2
    assert keys[0] == keys[1]
