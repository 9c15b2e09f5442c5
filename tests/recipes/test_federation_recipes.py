"""The recipes of federations, end to end in seconds, and again from where they were."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset

from tests.recipes.conftest import RECIPES, script


def signals(path: Path) -> None:
    random, rows = np.random.default_rng(0), []
    for person in range(5):
        for n in range(16):
            wave = np.sin(np.arange(64) * (1 + n % 5) / 8 + person)
            columns = {c: (wave + random.normal(size=64)).tolist() for c in ("x_acc", "y_acc", "z_acc")}
            columns |= {c: wave.tolist() for c in ("x_gyro", "y_gyro", "z_gyro")}
            about = {
                "user_id": f"s{person}",
                "execution_id": f"{person}-{n // 2}",
                "label": n % 5,
                "label_purity": 1.0,
            }
            rows.append(columns | about)
    Dataset.from_list(rows).to_parquet(path)


def voices(path: Path, columns: list[str]) -> None:
    random = np.random.default_rng(0)
    rows = [
        {"user_id": n % 5, "total_UPDRS": 10.0 + 15 * (n % 3), **dict.fromkeys(columns, float(random.normal()))}
        for n in range(100)
    ]
    Dataset.from_list(rows).to_parquet(path)


def speeches(path: Path) -> None:
    rows = [{"client_id": f"c{n % 5}", "text": "To be, or not to be. " * 8} for n in range(20)]
    Dataset.from_list(rows).to_parquet(path)


def tiny(name: str, folder: Path) -> dict:
    """The recipe's own configuration, with few people, few steps and the first rows of each table."""
    config = yaml.safe_load((RECIPES / name).read_text())
    people = config["people"]
    data = folder / "people.parquet"
    if "text" in people:
        speeches(data)
    elif "total_UPDRS" in people["label"]:
        voices(data, people["inputs"])
    else:
        signals(data)
    people |= {"data": {"path": "parquet", "data_files": str(data), "split": "train"}}
    people |= {"reference_clients": 2, "reference_examples": 20}
    if "public" in config:
        people |= {"most_clients": 4, "max_length": 24}
        config["public"] = {"vocab_size": 300, "training": {"max_steps": 2, "per_device_train_batch_size": 2}}
    config["client"] |= {"rounds": 2, "steps_per_round": 2, "batch_size": 4, "reference_batch_size": 4}
    config["output_dir"] = str(folder / "out")
    for plan in config["rows"]:
        plan |= {"seeds": plan.get("seeds", [0])[:1]}
        if "planted" in plan:
            plan["planted"] = 10
    return config


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        pytest.param("sd_dist_har", "sd_dist_har/config.yaml", marks=pytest.mark.slow),
        pytest.param("sd_dist_har", "sd_dist_har/parkinsons.yaml", marks=pytest.mark.slow),
        ("sd_dist_text", "sd_dist_text/config.yaml"),
        ("sd_dist_lm", "sd_dist_lm/config.yaml"),
    ],
)
def test_every_row_of_a_recipe_runs(tmp_path, recipe, name):
    config = tiny(name, tmp_path)
    main = script(recipe)["main"]
    assert main(config, ["local"]) == tmp_path / "out"
    first = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    assert {r["model"] for r in first} == {"local"}
    main(config)
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    assert rows[: len(first)] == first
    plans = {(plan["model"], *(f"{k}={v}" for k, v in plan.get("words", {}).items())) for plan in config["rows"]}
    assert {model for model, *_ in plans} == {r["model"] for r in rows}
    means = [r for r in rows if r["metric"] == "accuracy"]
    assert len(means) == len(config["rows"])
    assert all(0 <= r["value"] <= 1 for r in means)
    # An epsilon stands where DP-SGD was asked for, and nowhere else.
    promised = [r for r in rows if r["metric"] == "epsilon"]
    assert len(promised) == sum("target_epsilon" in plan.get("client", {}) for plan in config["rows"])
    perplexities = [r["value"] for r in rows if r["metric"] == "perplexity"]
    assert len(perplexities) == (len(config["rows"]) - 1 if "public" in config else 0)
    assert all(1 < value < 400 for value in perplexities)
    assert all(r["value"] <= 8 for r in promised)
    assert any("records=planted" in r["setting"] for r in rows)
    card = (tmp_path / "out" / "README.md").read_text()
    for model in {plan["model"] for plan in config["rows"]}:
        assert f"| {model} |" in card
