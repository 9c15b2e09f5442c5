"""Half precision is for devices that multiply in it."""

import logging

import pytest
import torch

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer
from swingkd.experiments.grid import training_settings, with_precision
from swingkd.models.half import multiplies_in_bf16

FAST, SLOW = {"avx2": True, "amx_bf16": True}, {"avx2": True, "avx512_bf16": False, "num_sockets": 1}


@pytest.mark.parametrize(("capabilities", "fast"), [(FAST, True), (SLOW, False), ({}, False), ({"bf16": True}, True)])
def test_a_processor_says_whether_it_multiplies_in_bf16(monkeypatch, capabilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert multiplies_in_bf16(torch.device("cpu")) is fast


@pytest.mark.parametrize(("capabilities", "asked", "warned"), [(FAST, True, 0), (SLOW, True, 1), (SLOW, False, 0)])
def test_the_trainer_warns_of_half_precision_that_is_slow(
    monkeypatch, caplog, tmp_path, tokenizer, teacher, student, capabilities, asked, warned
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    args = PrivateDistillationConfig(str(tmp_path), bf16=asked, use_cpu=True, report_to=[], protection="none")
    with caplog.at_level(logging.WARNING):
        PrivateDistillationTrainer(student, args, teacher_model=teacher, processing_class=tokenizer)
    assert sum("Leave bf16 out" in record.message for record in caplog.records) == warned


@pytest.mark.parametrize("capabilities", [FAST, SLOW])
def test_recipes_choose_what_is_fast_and_the_card_says_which(monkeypatch, capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    fast = capabilities is FAST
    assert training_settings(output_dir="out")["bf16"] is fast
    assert training_settings(output_dir="out", bf16=not fast)["bf16"] is not fast
    assert with_precision({"training": {}}, "language")["training"] == {"bf16": fast}
    assert with_precision({"training": {"bf16": not fast}}, "labels")["training"] == {"bf16": not fast}
    assert with_precision({"training": {}}, "images")["mixed_precision"] == ("bf16" if fast else "no")
    assert with_precision({"mixed_precision": "no"}, "images") == {"mixed_precision": "no"}
