import dataclasses

import pytest
from transformers import HfArgumentParser, TrainingArguments

from swingkd import PrivateDistillationConfig


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("alpha", 1.5, r"alpha=1.5 must lie in \[0, 1\]"),
        ("beta", -0.1, r"beta=-0.1 must lie in \[0, 1\]"),
        ("temperature", 0.0, "temperature=0.0 must be positive"),
        ("max_temperature", 0.5, "max_temperature=0.5 is below 1.*Use 1"),
        ("protection", "magic", "protection='magic' is not known. Choose one of surrogate, noise"),
        ("temperature_mode", "both", "temperature_mode='both'"),
        ("noise_scale", -1.0, "noise_scale=-1.0 must not be negative"),
        ("population_share", 2.0, "population_share=2.0"),
        ("max_length", 0, "max_length=0"),
        ("private_threshold", 0.0, "private_threshold=0.0 must be above 0.*the default is 0.5"),
        ("mollify_order", 0.0, "mollify_order=0.0 must be positive"),
    ],
)
def test_a_bad_value_is_named_with_the_remedy(tmp_path, field, value, message):
    with pytest.raises(ValueError, match=message):
        PrivateDistillationConfig(output_dir=str(tmp_path), use_cpu=True, **{field: value})


def test_hints_and_a_compiled_model_are_refused(tmp_path):
    with pytest.raises(ValueError, match="torch_compile=True does not call"):
        PrivateDistillationConfig(output_dir=str(tmp_path), use_cpu=True, torch_compile=True, hidden_weight=0.1)


def test_every_field_of_ours_has_a_help_text_and_works_on_the_command_line(tmp_path):
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    own = [field for field in dataclasses.fields(PrivateDistillationConfig) if field.name not in inherited]
    assert all("help" in field.metadata for field in own)
    (args,) = HfArgumentParser(PrivateDistillationConfig).parse_args_into_dataclasses(
        [
            "--output_dir",
            str(tmp_path),
            "--protection",
            "noise",
            "--model_init_kwargs",
            '{"dtype": "float32"}',
            "--use_cpu",
        ]
    )
    assert args.protection == "noise"
    assert args.model_init_kwargs == {"dtype": "float32"}


def test_the_noise_key_is_no_field():
    assert not any(
        "key" in name for name in PrivateDistillationConfig.__dataclass_fields__ if name.startswith("noise")
    )
