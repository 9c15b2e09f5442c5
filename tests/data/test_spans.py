"""TokenFacts: columns, batches and targets derive from one tuple."""

import numpy as np
import torch

from swingkd import RuleTagger
from swingkd.data import PII_COLUMNS, PII_TYPES, DataSettings, DistillationCollator, prepare_dataset
from swingkd.tagging import THRESHOLD, is_private
from swingkd.targets import FACT_TYPES, TokenFacts
from swingkd.tasks import CausalLM


def test_columns_are_the_facts(texts, tokenizer):
    assert tuple(f"pii_{name}" for name in TokenFacts._fields) == PII_COLUMNS
    assert PII_TYPES is FACT_TYPES
    rows = prepare_dataset(texts, tokenizer, RuleTagger(), DataSettings(max_length=64))
    for name, kind in zip(PII_COLUMNS, PII_TYPES, strict=True):
        assert rows.features[name].feature.dtype == np.dtype(kind).name


def test_a_batch_hands_them_on_to_the_protection(texts, tokenizer):
    rows = prepare_dataset(texts.select(range(3)), tokenizer, RuleTagger(), DataSettings(max_length=64))
    batch = DistillationCollator(tokenizer.pad_token_id)([rows[i] for i in range(3)])
    tokens = CausalLM().predicted(batch, 2, None)
    positions = tokens.private()
    flagged = tokens.likelihood > 0
    assert flagged.any()
    for values, chosen in zip(tokens.facts, positions.facts, strict=True):
        torch.testing.assert_close(chosen, values[flagged])
    some = positions.take(torch.tensor([0]))
    assert all(len(values) == 1 for values in some.facts)


def test_private_has_one_threshold():
    values = np.array([0.0, np.nextafter(THRESHOLD, 0), THRESHOLD, 1.0])
    assert is_private(values).tolist() == [False, False, True, True]
    assert is_private(torch.from_numpy(values)).tolist() == [False, False, True, True]
    assert not is_private(0.6, threshold=0.7)
