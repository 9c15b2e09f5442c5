"""What users of other projects reported, tried here: `pytest -m reported` runs these tests alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.harness import tiny_model


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.reported)


@pytest.fixture(scope="session")
def world(tokenizer):
    """Texts that a teacher knows by heart, texts that nobody saw, and a model that learnt nothing."""
    rng = np.random.default_rng(0)
    texts = [f"note {n}: {' '.join(rng.choice(list('abcdefghij'), 12))}" for n in range(48)]
    teacher = tiny_model(len(tokenizer), hidden=48, seed=1)
    ids = tokenizer(texts[:24], return_tensors="pt", padding=True)
    labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        teacher(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
    return texts[:24], texts[24:], teacher.eval(), tiny_model(len(tokenizer), seed=9).eval()
