"""The recipes on images, end to end in seconds, and again from where they were."""

import json
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Features, Image

from swingkd import vision
from swingkd.vision import ClassifierArguments, DataFreeArguments, SampleSelectionArguments
from tests.harness import coloured
from tests.recipes.conftest import RECIPES, script


@pytest.fixture
def images(tmp_path, fresh_accelerate):
    """Parquet files in the place of the recipes' data."""
    features = Features({"image": Image(), "label": ClassLabel(names=list("abc"))})
    for split, count in (("train", 120), ("test", 40)):
        made = coloured(count, seed=count)
        columns = {"image": [p.permute(1, 2, 0).numpy() for p in made.pixels], "label": made.labels.tolist()}
        Dataset.from_dict(columns, features=features).to_parquet(tmp_path / f"{split}.parquet")
    files = {
        split: {"path": "parquet", "data_files": str(tmp_path / f"{split}.parquet"), "split": "train"}
        for split in ("train", "test")
    }
    return {**files, "images": {"crop": 1, "flip": True}}


def network(**others) -> dict:
    return {"kind": "SlimResNet", "widths": [4, 8], "classes": 3, **others}


def run(recipe: str, config: dict) -> tuple[list[dict], Path]:
    out = script(recipe)["main"](config)
    return json.loads((out / "metrics.json").read_text())["rows"], out


def values(rows, model, metric, *words) -> list[float]:
    return [
        r["value"]
        for r in rows
        if r["model"] == model and r["metric"] == metric and set(words) <= set(r["setting"].split())
    ]


@pytest.fixture
def selection(images, tmp_path):
    config = yaml.safe_load((RECIPES / "cifar10_sample_selection" / "cifar10.yaml").read_text())
    config |= {
        "output_dir": str(tmp_path / "selection"),
        "data": images,
        "audit_images": 30,
        "mixed_precision": "no",
        "teacher": network(),
        "public_teacher": network(),
        "student": network(),
        "dp_teacher": network(norm="group"),
        "teacher_training": {"epochs": 1},
    }
    config["training"] |= {"batch_size": 32, "warmup_steps": 0}
    config["student_training"]["distillation_batch_size"] = 16
    config["shard_training"]["epochs"] = 1
    config["dp_training"] |= {"epochs": 1, "batch_size": 12}
    for world in config["worlds"].values():
        for stage in (name for name in world if name.endswith("_training")):
            world[stage] = dict.fromkeys(world[stage], 1)
        world |= {"images": 40} if "images" in world else {"public_share": 0.5}
    for row in config["rows"]:
        row["seeds"] = row.get("seeds", [0])[:1]
        row |= {"shards": 3} if "shards" in row else {}
        row |= {"most": 20} if "most" in row else {}
    return config


@pytest.mark.slow
def test_sample_selection(selection):
    rows, out = run("cifar10_sample_selection", selection)
    models = {row["model"] for row in rows}
    assert models >= {"published", "self_learning", "public_teacher", "dp_teacher", "shard_teachers", "batch_gradient"}
    card = (out / "README.md").read_text()
    # What is claimed does not hold; what holds is at most what was asked for.
    (claimed, *_) = values(rows, "published", "epsilon_claimed", "table=schedules", "schedule=fixed")
    assert f"{claimed:.1f}"[:3] in card
    assert ", does not hold" in card
    for model in ("dp_teacher", "shard_teachers", "batch_gradient", "zeroth_order"):
        held = values(rows, model, "epsilon", "scope=teacher_data")
        assert held, model
        assert max(held) <= 8.0
    assert not values(rows, "published", "epsilon")
    # Fewer samples, fewer queries.
    queries = {kind: values(rows, "published", "queries", f"schedule={kind}") for kind in ("fixed", "geometric")}
    assert queries["geometric"] < queries["fixed"]
    # The noise of the published method changes nothing: neither does its absence.
    silent = values(rows, "published", "accuracy", "noise=0")
    assert silent == values(rows, "published", "accuracy", "schedule=geometric")
    assert "`published` minus `self_learning`" in card
    assert {path.name for path in out.iterdir()} >= {"README.md", "metrics.json", "accuracy.png"}
    again, _ = run("cifar10_sample_selection", selection)
    assert again == rows


def test_an_unknown_guidance_is_named(selection):
    selection["rows"] = [{"table": "headline", "model": "x", "world": "public10", "guidance": "magic"}]
    with pytest.raises(ValueError, match="guidance='magic' is none of those"):
        run("cifar10_sample_selection", selection)


@pytest.fixture
def free(images, tmp_path):
    config = yaml.safe_load((RECIPES / "data_free" / "mnist.yaml").read_text())
    config |= {
        "output_dir": str(tmp_path / "free"),
        "data": images,
        "audit_images": 30,
        "mixed_precision": "no",
        "dp_teacher": network(norm="group"),
        "group_student": network(norm="group"),
        "generator": {"size": 8, "channels": 3, "width": 4, "latent": 6},
    }
    config |= {name: network() for name in ("teacher", "own_teacher", "shard_teacher", "student")}
    config["training"]["batch_size"] = 32
    for stage in ("teacher", "shard", "dp"):
        config[f"{stage}_training"]["epochs"] = 1
    config["dp_training"]["batch_size"] = 12
    few = {"images_per_round": 30, "epochs_per_round": 1, "generator_epochs": 1, "generator_updates": 2}
    config["student_training"] |= few | {"rounds": 2, "generator_batch_size": 16}
    for row in config["rows"]:
        row["seeds"] = row.get("seeds", [0])[:1]
        row |= {"shards": 3} if "shards" in row else {}
        row["args"] = {key: few.get(key, value) for key, value in row.get("args", {}).items()}
    return config


def test_data_free(free):
    rows, out = run("data_free", free)
    assert len({row["model"] for row in rows}) == 1 + len(free["rows"])
    held = {model: values(rows, model, "epsilon", "scope=teacher_data") for model in {row["model"] for row in rows}}
    assert not held["without_privacy"]
    assert not held["label_epsilon_10"]
    assert max(held["dp_teacher"] + held["shard_votes"]) <= 8.0
    assert held["private_labels"] == [4.0]
    # Sixty labels of epsilon 10 each, of a generator that never saw the teacher.
    assert held["student_judges_epsilon_10"] == [600.0]
    for model, epsilon in (("label_epsilon_10", 10), ("label_epsilon_1", 1), ("differences_epsilon_10", 10)):
        (found,) = values(rows, model, "epsilon", "scope=labels")
        assert found == pytest.approx(epsilon, rel=0.01)
    # A teacher judges one generator, whose images all its students learn.
    judged = {path.name for path in (out / "models").glob("generator-*")}
    assert judged == {f"generator-{teacher}-seed-0" for teacher in ("teacher", "dp_teacher", "private_labels")}
    card = (out / "README.md").read_text()
    assert "| label_epsilon_1 | 1 |" in card
    assert "grid-dp_teacher.png" in card
    assert (out / "grid-dp_teacher.png").exists()
    again, _ = run("data_free", free)
    assert again == rows


def test_a_row_whose_teachers_are_there_goes_on_in_the_same_precision(free):
    """A new process begins with what it does first: it must not be without the precision of all that follows."""
    free["mixed_precision"] = "bf16"
    free["rows"] = [row for row in free["rows"] if row["model"] == "private_labels"]
    _, out = run("data_free", free)
    content = json.loads((out / "metrics.json").read_text())
    content["rows"] = [row for row in content["rows"] if row["model"] == "teacher"]
    (out / "metrics.json").write_text(json.dumps(content))
    AcceleratorState._reset_state(True)
    rows, _ = run("data_free", free)
    assert values(rows, "private_labels", "accuracy")


def test_unknown_labels_are_named(free):
    free["rows"] = [{"model": "x", "labels": "magic"}]
    with pytest.raises(ValueError, match="labels='magic' is none of those"):
        run("data_free", free)


@pytest.mark.parametrize(
    "path",
    [*(RECIPES / "cifar10_sample_selection").glob("*.yaml"), *(RECIPES / "data_free").glob("*.yaml")],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_every_configuration_can_be_started(path):
    """The settings of every stage exist, and so do the networks, the scores and the hints' layers."""
    config = yaml.safe_load(path.read_text())
    kinds = {"student": DataFreeArguments if "generator" in config else SampleSelectionArguments}
    for level in (config, *config.get("worlds", {}).values()):
        for name in (name for name in level if name.endswith("_training")):
            stage = name.removesuffix("_training")
            kinds.get(stage, ClassifierArguments)(output_dir="unused", **config["training"] | level[name])
    made = {}
    for name in (
        "teacher",
        "own_teacher",
        "shard_teacher",
        "public_teacher",
        "dp_teacher",
        "student",
        "group_student",
    ):
        if name in config:
            spec = {key: value for key, value in config[name].items() if key not in ("kind", "weights")}
            made[name] = getattr(vision, config[name]["kind"])(**spec)
    for row in config["rows"]:
        assert row.get("world", next(iter(config.get("worlds", {"": {}})))) in config.get("worlds", {"": {}})
        assert hasattr(vision.sample_scores, row.get("score", "margin"))
        if "hint_layers" in row.get("args", {}):
            taught, own = row["args"]["hint_layers"]
            assert taught in dict(made["teacher"].named_modules())
            assert taught in dict(made["public_teacher"].named_modules())
            assert own in dict(made["student"].named_modules())
