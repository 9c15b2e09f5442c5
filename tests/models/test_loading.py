"""Models by name."""

import errno

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from swingkd.models.loading import load_pretrained, looked_up
from swingkd.tagging import RarityTagger


def test_pickled_weights_are_not_read(tmp_path, student, tokenizer):
    student.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(student.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no weights as safetensors.*pickles"):
        load_pretrained(AutoModelForCausalLM, str(tmp_path))
    with pytest.raises(ValueError, match="has no weights as safetensors"):
        RarityTagger(str(tmp_path))


def test_another_architecture_is_one_line(tmp_path, student):
    student.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be loaded as AutoModelForMaskedLM") as error:
        load_pretrained(AutoModelForMaskedLM, str(tmp_path))
    assert len(str(error.value)) < 300


def test_a_model_is_returned_as_it_is(student):
    assert load_pretrained(AutoModelForCausalLM, student) is student


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"There is no folder .*nowhere, and the Hub gave no model"):
        load_pretrained(AutoModelForCausalLM, str(tmp_path / "nowhere"))


def test_a_full_disk_is_not_taken_for_a_wrong_name():
    with pytest.raises(OSError, match="No space left"), looked_up("me/model"):
        raise OSError(errno.ENOSPC, "No space left on device")
