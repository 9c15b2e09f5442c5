"""Tiny models and a tokenizer, built from configurations: nothing is downloaded."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from hypothesis import settings
from transformers import PreTrainedTokenizerFast

from swingkd import PrivateDistillationConfig
from tests.harness import TEXTS, tiny_model, train_tokenizer

torch.set_num_threads(1)
# Timings never decide a test.
settings.register_profile("swingkd", deadline=None)
settings.load_profile("swingkd")


def pytest_collection_finish():
    """Every trainer collects garbage when it ends: among the objects of all libraries that takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def fresh_accelerate():
    """Accelerate without the precision that an earlier test asked this process for."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data sets, where this machine has them."""
    folder = Path(os.environ.get("SWINGKD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.exists():
        pytest.skip(f"needs the real data sets in {folder} (set SWINGKD_DATA to their folder)")
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS)


@pytest.fixture
def student(tokenizer):
    return tiny_model(len(tokenizer), seed=1)


@pytest.fixture
def teacher(tokenizer):
    # Confident, as a trained teacher is: otherwise every target is nearly uniform and nothing could be told apart.
    model = tiny_model(len(tokenizer), hidden=24, seed=2)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    return model


@pytest.fixture
def texts() -> Dataset:
    return Dataset.from_dict({"text": TEXTS})


@pytest.fixture
def config(tmp_path):
    """A function that makes a configuration for a short run on the CPU."""

    def make(**fields) -> PrivateDistillationConfig:
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "max_length": 64,
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            "save_strategy": "no",
            "learning_rate": 1e-2,
            "population_min_spans": 2,
            "noise_support": 16,
        }
        return PrivateDistillationConfig(**(defaults | fields))

    return make


@pytest.fixture
def build(tokenizer, config):
    """A function that makes the trainer of a task."""
    from tests.tasks.setups import trainer_of

    return lambda task, **fields: trainer_of(task, tokenizer, config, **fields)


@pytest.fixture
def every_curve(monkeypatch):
    """Draw ROC curves of models that know nothing, too: they say nothing, and are left out otherwise."""
    monkeypatch.setattr("swingkd.report.audit_figures.says_something", lambda report, kind: True)
