"""What the protections are for, on the bundled dialogues: secrets go, quality stays. Minutes on two cores."""

import json
from collections import defaultdict
from statistics import mean

import pytest
import yaml

from tests.recipes.conftest import RECIPES, script


@pytest.mark.slow
def test_surrogates_and_teachers_out_of_fold_hide_what_plain_distillation_gives_away(tmp_path, monkeypatch):
    """No tagger but for surrogates; one kind of secret, so that a fold holds all that is said of one."""
    monkeypatch.setenv("SWINGKD_RECIPES", str(RECIPES))
    config = yaml.safe_load((RECIPES / "quickstart" / "config.yaml").read_text())
    config["output_dir"] = str(tmp_path / "out")
    config["canaries"] |= {"count": 20, "seed": 0}
    config["rows"] = [
        {"model": "kd", "transfer": "A", "untagged": True, "args": {"protection": "none"}},
        {"model": "surrogate", "transfer": "A", "args": {"protection": "surrogate"}},
        {
            "model": "out_of_fold",
            "transfer": "A",
            "folds": 2,
            "untagged": True,
            "args": {"protection": "none", "alpha": 1.0},
        },
    ]
    out = script("swing_clm")["main"](config)
    numbers = defaultdict(list)
    for row in json.loads((out / "metrics.json").read_text())["rows"]:
        words = dict(word.split("=") for word in row["setting"].split())
        if row["metric"] == "exposure_excess" or (row["metric"] == "perplexity" and words.get("split") == "test"):
            numbers[row["model"], row["metric"]].append(row["value"])
    print(dict(numbers))
    assert min(numbers["kd", "exposure_excess"]) > 5
    assert max(numbers["kd", "exposure_excess"]) > 12
    (plain,) = numbers["kd", "perplexity"]
    for model in ("surrogate", "out_of_fold"):
        # 20 canaries a level: a mean over them moves by about 0.4 bits from one draw to the next.  Without a tagger
        # the student reads the real secret, and fits the rest of its sentence better: 1.3 bits when this was written.
        assert mean(numbers[model, "exposure_excess"]) < (1 if model == "surrogate" else 2)
        assert numbers[model, "perplexity"][0] < 1.05 * plain
