"""Train a teacher with differential privacy; whatever is distilled from it is post-processing and costs nothing more.

The transfer text must not be the private text: the student would see it directly.  Here the teacher writes it.

accelerate launch recipes/dp_teacher/run.py --config recipes/dp_teacher/config.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset, load_from_disk

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "dp_clm"))
from launch import launch
from private import PrivateExperiment

from swingkd.audit.generation import sample_texts


class PrivateTeacher(PrivateExperiment):
    """The teacher is trained by DP-SGD; students learn from text that it wrote."""

    def start(self, name: str):
        if name == "teacher":
            return self.base("teacher"), "dp_training"
        return super().start(name)

    def train_student(self, plan: dict, setting: str, seed: int):
        teacher = self.trained("teacher", self.texts["A"])
        self.texts["written"] = self.written(teacher)
        return super().train_student(plan, setting, seed)

    def written(self, teacher) -> Dataset:
        """Return what the teacher wrote, once: each text is post-processing of its weights."""
        folder = self.secret / "written"
        with PartialState().main_process_first():
            if not folder.exists():
                count, length = self.config["samples"], self.config["max_length"]
                # Among all tokens: cut to the likeliest, the text would hold less than the teacher knows.
                texts = sample_texts(teacher, self.tokenizer, [""] * count, max_new_tokens=length, top_k=0)
                Dataset.from_dict({"text": [text for text in texts if text.strip()]}).save_to_disk(folder)
        return load_from_disk(folder)


def main(config: dict, only: list[str] | None = None) -> Path:
    experiment = PrivateTeacher(config)
    experiment.run(only)
    return experiment.out


if __name__ == "__main__":
    launch(main, __doc__)
