import math
import shutil

import evaluate
import numpy as np
import pytest

from swingkd import RuleTagger
from swingkd.evaluate_modules import module_path
from swingkd.tagging import label_spans

NAMES = ("canary_exposure", "membership_inference", "pii_character_recall")


def test_exposure():
    exposure = evaluate.load(module_path("canary_exposure"))
    references = [[-float(x) for x in range(1, 17)]] * 2
    found = exposure.compute(predictions=[0.0, -3.5], references=references)
    assert found["exposures"] == pytest.approx([4.0, 2.0])
    assert found["exposure"] == pytest.approx(3.0)
    modelled = exposure.compute(predictions=[5.0], references=references[:1], method="modelled")
    assert modelled["exposure"] > 4
    with pytest.raises(ValueError, match="Secret 0 has no references"):
        exposure.compute(predictions=[0.0], references=[[]])
    with pytest.raises(ValueError, match="method='magic' is not known"):
        exposure.compute(predictions=[0.0], references=references[:1], method="magic")


def test_membership():
    membership = evaluate.load(module_path("membership_inference"))
    rng = np.random.default_rng(0)
    scores, inside = np.concatenate([rng.normal(1, 1, 200), rng.normal(0, 1, 200)]), [1] * 200 + [0] * 200
    found = membership.compute(predictions=scores, references=inside, resamples=200)
    wins = (scores[:200, None] > scores[None, 200:]).mean()
    assert found["auc"] == pytest.approx(wins)
    assert found["auc_low"] < found["auc"] < found["auc_high"]
    assert {"tpr_at_1_fpr", "tpr_at_01_fpr_high", "balanced_accuracy_low"} <= found.keys()
    with pytest.raises(ValueError, match="There are no nonmembers"):
        membership.compute(predictions=[0.1, 0.2], references=[1, 1])
    with pytest.raises(ValueError, match="references must be 1"):
        membership.compute(predictions=[0.1, 0.2], references=[1, 2])


def test_character_recall_of_the_rules():
    recall = evaluate.load(module_path("pii_character_recall"))
    assert recall.compute(predictions=[[[0, 3]], []], references=[[[2, 6]], [[0, 4]]]) == {
        "recall": 1 / 8,
        "precision": 1 / 3,
        "f1": pytest.approx(2 / 11),
        "characters": 8,
    }
    counted = recall.compute(predictions=[[[0, 3]], []], references=[[[2, 6]], [[0, 4]]], lengths=[12, 4])
    assert counted["false_flags"] == 2 / 8
    with pytest.raises(ValueError, match="said to have 3 characters"):
        recall.compute(predictions=[[]], references=[[[0, 4]]], lengths=[3])
    texts = ["write to ann@mail.example", "call 020 7946 0958 today"]
    found = [[[s, e] for s, e, _ in label_spans(tags.labels)] for tags in RuleTagger().tag(texts)]
    scores = recall.compute(predictions=found, references=[[[9, 25]], [[5, 18]]])
    assert scores["recall"] > 0.5
    assert math.isclose(scores["characters"], 29)
    with pytest.raises(ValueError, match="No character is private"):
        recall.compute(predictions=[[[0, 3]]], references=[[]])


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_can_be_pushed_as_it_is(name, tmp_path):
    """All that a Space needs is there, and the folder loads from anywhere."""
    shutil.copytree(module_path(name), tmp_path / name)
    card = (tmp_path / name / "README.md").read_text()
    assert card.startswith("---\n")
    assert "app_file: app.py" in card
    assert "swingkd" in (tmp_path / name / "requirements.txt").read_text()
    assert evaluate.load(str(tmp_path / name)).description
    compile((tmp_path / name / "app.py").read_text(), "app.py", "exec")


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match="Choose one of canary_exposure, membership_inference, pii_character_recall"):
        module_path("magic")
