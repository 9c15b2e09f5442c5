"""One card for all runs: which kind of card a run gets, and that the committed ones come out again."""

import json
import shutil
from pathlib import Path
from typing import get_args

import pytest

from swingkd.report import MetricsFile, Row, write_card
from swingkd.report.metrics import Kind
from swingkd.report.render import fill
from swingkd.report.runs.base import as_planned
from swingkd.report.runs.write import RUNS, kind_of
from tests.report.runs.test_images import example_rows

CARDS = Path(__file__).parents[3] / "model_cards"
KINDS = {
    "audit-canaries": "canaries",
    "audit-simdial": "audit",
    "cifar10-sample-selection": "images",
    "data-free-cifar10": "images",
    "data-free-mnist": "images",
    "dp-simdial": "language",
    "pii-tagger": "taggers",
    "pii-tagger-minilm": "taggers",
    "sd-dist-har": "federation",
    "sd-dist-lm": "federation",
    "sd-dist-parkinsons": "federation",
    "sd-dist-text": "federation",
    "smollm2-clinical": "frontier",
    "swing-mts-sections": "labels",
    "swing-ner-simdial": "labels",
    "swing-ptb": "language",
    "swing-simdial": "language",
    "swing-sst2": "labels",
}


def test_every_card_is_tried():
    assert {path.parent.name for path in CARDS.glob("*/metrics.json")} == KINDS.keys()
    assert set(RUNS) == set(get_args(Kind)) == set(KINDS.values())


@pytest.mark.parametrize("name", sorted(KINDS))
def test_committed_cards_come_out_again_byte_for_byte(name, tmp_path):
    folder = CARDS / name
    for grid in folder.glob("grid-*.png"):
        shutil.copy(grid, tmp_path)
    assert kind_of(MetricsFile(folder / "metrics.json").read()) == KINDS[name]
    assert write_card(folder / "metrics.json", tmp_path).read_bytes() == (folder / "README.md").read_bytes()
    assert (tmp_path / "metrics.json").read_bytes() == (folder / "metrics.json").read_bytes()
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / RUNS[KINDS[name]].picture).exists()


def test_a_card_says_which_models_were_measured_elsewhere(tmp_path, monkeypatch):
    def measured(model: str, setting: str = "") -> None:
        metrics = MetricsFile(tmp_path / "metrics.json", "a-run", {}, kind="images")
        metrics.add([Row(model, f"{setting} split=test".strip(), "accuracy", 0.5)])

    measured("first")
    first = MetricsFile(tmp_path / "metrics.json").read()["environment"]
    other = first | {"torch": "9.9", "accelerator": "a card"}
    monkeypatch.setattr("swingkd.report.metrics.environment", lambda: other)
    measured("second", "table=headline")
    measured("third")
    measured("second", "table=headline")
    monkeypatch.undo()
    measured("fourth")
    content = MetricsFile(tmp_path / "metrics.json").read()
    assert list(content) == ["run", "kind", "config", "environment", "elsewhere", "rows"]
    assert content["environment"] == first
    assert content["elsewhere"] == [{"models": ["second table=headline", "third"], "environment": other}]
    text = fill("how_it_was_run.md", **content, not_run=[])
    assert "Measured later, elsewhere: `second table=headline`, `third`, with python" in text
    assert "torch 9.9" in text
    assert "accelerator a card.\n" in text


@pytest.mark.parametrize("kind", [None, "images"])
def test_an_image_run_with_f1_beside_it_is_an_image_run(tmp_path, kind):
    metrics = MetricsFile(tmp_path / "metrics.json", "images", {}, kind=kind)
    metrics.add([*example_rows(), Row("published", "table=headline seed=0", "macro_f1", 0.8)])
    assert json.loads(metrics.path.read_text()).get("kind") == kind
    assert "Does the teacher help?" in write_card(metrics.path, tmp_path / "card").read_text()


def test_a_kind_that_there_is_not_is_named(tmp_path):
    (tmp_path / "metrics.json").write_text(
        json.dumps({"run": "x", "kind": "sounds", "config": {}, "environment": {}, "rows": []})
    )
    with pytest.raises(ValueError, match=r"metrics.json is damaged: kind: input should be 'language'"):
        write_card(tmp_path / "metrics.json", tmp_path)


def test_a_run_says_its_kind_and_keeps_it(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.json", "a-run", {}, kind="labels")
    metrics.add([Row("kd", "table=main split=test seed=0", "accuracy", 0.5)])
    assert list(metrics.read()) == ["run", "kind", "config", "environment", "rows"]
    assert kind_of(MetricsFile(metrics.path).read()) == "labels"
    with pytest.raises(ValueError, match="no rows of macro_f1 or f1"):
        write_card(metrics.path, tmp_path / "card")


def test_students_stand_as_they_were_planned():
    """Several processes may have measured them in any order; the teacher is planned nowhere, and stands first."""
    plans = [
        {"model": "kd", "transfer": "A"},
        {"model": "swing", "setting": "recall=0.9", "transfer": "A"},
        {"model": "swing", "transfer": "A"},
        {"model": "kd", "transfer": "B"},
        {"model": "dp", "setting": "epsilon=8"},
        {"model": "dp", "setting": "epsilon=2"},
    ]
    wanted = ["teacher", "kd A", "swing A recall=0.9", "swing A", "kd B", "dp epsilon=8", "dp epsilon=2"]
    settings = [
        "seed=0",
        "transfer=A seed=1",
        "transfer=A recall=0.9 seed=0",
        "transfer=A seed=0",
        "transfer=B seed=0",
    ]
    settings += ["transfer=A epsilon=8 seed=0", "epsilon=2 seed=0"]
    rows = [
        {"model": name.split()[0], "setting": f"{setting} split=test", "metric": "perplexity", "value": number}
        for number, (name, setting) in enumerate(zip(wanted, settings, strict=True))
    ]
    for shuffled in (rows, rows[::-1], rows[3:] + rows[:3]):
        ordered = as_planned({"config": {"rows": plans}, "rows": shuffled})
        assert [wanted[row["value"]] for row in ordered] == wanted
    assert as_planned({"config": {}, "rows": rows[::-1]}) == rows[::-1]
