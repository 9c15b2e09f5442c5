"""Train a teacher with differential privacy; whatever is distilled from it is post-processing and costs nothing more.

The transfer text must not be the private text: the student would see it directly.  Here the teacher writes it.

accelerate launch recipes/dp_teacher/run.py --config recipes/dp_teacher/config.yaml
"""

from __future__ import annotations

from pathlib import Path

from accelerate import PartialState
from datasets import Dataset, load_from_disk

from swingkd.audit.generation import sample_texts
from swingkd.experiments.launch import launch
from swingkd.experiments.private_language import PrivateLanguage, private_experiment


def written(language: PrivateLanguage) -> Dataset:
    """Return what the teacher wrote, once: each text is post-processing of its weights."""
    teacher, folder = language.trained("teacher", "A"), language.secret / "written"
    with PartialState().main_process_first():
        if not folder.exists():
            count, length = language.config["samples"], language.config["max_length"]
            # Among all tokens: cut to the likeliest, the text would hold less than the teacher knows.
            texts = sample_texts(teacher, language.tokenizer, [""] * count, max_new_tokens=length, top_k=0)
            Dataset.from_dict({"text": [text for text in texts if text.strip()]}).save_to_disk(folder)
    return load_from_disk(folder)


def main(config: dict, only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return private_experiment(config, teacher_training="dp_training", texts={"written": written}).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
