"""A folder with a teacher, a student and notes, in which commands run."""

import pytest
import yaml


@pytest.fixture
def project(tmp_path, student, teacher, tokenizer, texts):
    """A folder with a student, a teacher, notes.jsonl and config.yaml."""
    for name, model in (("student", student), ("teacher", teacher)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    texts.to_json(tmp_path / "notes.jsonl")
    fields = {"max_steps": 2, "max_length": 64, "use_cpu": True, "report_to": [], "population_min_spans": 2}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(fields))
    return tmp_path
