"""Scripts of the kind that everybody starts from, and the same scripts made private by six changed lines at most.

Written anew after the structure of transformers' run_clm.py and run_classification.py, Accelerate's nlp_example.py and
TRL's gkd.py and sft.py; each runs as it is and converted, on tiny models.
"""

import csv
import difflib
import importlib
import json
import math
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from tests.harness import bert, names, tiny_model, train_tokenizer

SCRIPTS = Path(__file__).parent / "scripts"
LINES = [f"hello ann {i}, write to ann{i}@example.org or bob, my pin is {i * 7919 % 9000 + 1000}." for i in range(160)]
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def changed_lines(one: str, two: str) -> int:
    """Lines that are new or different in the second, or were left out of the first, whichever are more."""
    matcher = difflib.SequenceMatcher(None, one.splitlines(), two.splitlines(), autojunk=False)
    return sum(max(b - a, d - c) for kind, a, b, c, d in matcher.get_opcodes() if kind != "equal")


@pytest.mark.parametrize("name", ["clm", "classification", "accelerate_loop", "sft", "gkd"])
def test_six_changed_lines_at_most(name):
    plain, private = ((SCRIPTS / f"{name}{ending}.py").read_text() for ending in ("", "_private"))
    assert 0 < changed_lines(plain, private) <= 6
    assert "swingkd" in private
    assert "swingkd" not in plain


def run(name, *arguments):
    return importlib.import_module(f"tests.dropin.scripts.{name}").main(*arguments)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.txt").write_text("\n".join(LINES))
    (tmp_path / "valid.txt").write_text("\n".join(LINES[:20]))
    return tmp_path


@pytest.fixture
def language(project):
    reader = train_tokenizer(LINES)
    reader.chat_template = CHAT
    for name, hidden, seed in (("student", 16, 1), ("teacher", 24, 2)):
        tiny_model(len(reader), hidden=hidden, seed=seed).save_pretrained(project / name)
        reader.save_pretrained(project / name)
    return project


@pytest.fixture
def classifiers(project):
    reader = train_tokenizer(LINES)
    torch.manual_seed(0)
    for name in ("student", "teacher"):
        bert(BertForSequenceClassification, len(reader), **names(["no", "yes"])).save_pretrained(project / name)
        reader.save_pretrained(project / name)
    with (project / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence1", "sentence2", "label"])
        for i, line in enumerate(LINES[:40]):
            pair = [line, LINES[i - 1]] if i % 3 else ["the weather is fine", "it will rain"]
            writer.writerow([*pair, ("no", "yes")[i % 2]])
    return project


COMMON = [
    "--output_dir",
    "out",
    "--max_steps",
    "2",
    "--report_to",
    "none",
    "--use_cpu",
    "--save_strategy",
    "no",
    "--disable_tqdm",
    "True",
]


@pytest.mark.parametrize("name", ["clm", "clm_private"])
def test_language_modelling(language, name):
    files = ["--model", "student", "--train_file", "train.txt", "--validation_file", "valid.txt"]
    found = run(name, [*files, *COMMON])
    assert 1 < found["perplexity"] < 1000
    assert 0 <= found["eval_accuracy"] <= 1
    assert (language / "out" / "model.safetensors").exists()
    if name == "clm_private":
        assert found["eval_perplexity_flagged"] > 1


@pytest.mark.parametrize("name", ["classification", "classification_private"])
def test_classification_of_pairs(classifiers, name):
    files = [
        "--model",
        "student",
        "--train_file",
        "pairs.csv",
        "--validation_file",
        "pairs.csv",
        "--output_dir",
        "out",
    ]
    found = run(name, files + COMMON)
    assert 0 <= found["eval_accuracy"] <= 1
    assert set(found["predicted"]) <= {"no", "yes"}


@pytest.mark.parametrize("name", ["accelerate_loop", "accelerate_loop_private"])
def test_a_loop_on_accelerate(classifiers, name, fresh_accelerate):
    text = (classifiers / "pairs.csv").read_text().replace(",no", ",0").replace(",yes", ",1")
    (classifiers / "numbered.csv").write_text(text)
    found = run(name, "student", "numbered.csv")
    assert len(found["losses"]) == 5
    assert all(math.isfinite(loss) for loss in found["losses"])


@pytest.mark.parametrize("name", ["sft", "sft_private"])
def test_trls_sft(language, name):
    losses = run(name, "student", "train.txt", "out")
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("name", ["gkd", "gkd_private"])
def test_trls_gkd(language, name):
    rows = [
        {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": c}]}
        for a, c in zip(LINES[:40], LINES[40:80], strict=True)
    ]
    (language / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    losses = run(name, "student", "teacher", "chats.jsonl", "out")
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
