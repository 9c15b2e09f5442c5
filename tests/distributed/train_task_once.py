"""One short training of a classifier in float64; every process runs this file, the first one saves the student."""

import sys

import torch
from safetensors.torch import save_file

from swingkd import PrivateDistillationTrainer
from tests.distributed.leaving import leave_together
from tests.distributed.settings import settings
from tests.harness import TEXTS, train_tokenizer
from tests.tasks.setups import TAGGER, make_setup


def main(folder: str, batch_size: int, task: str) -> None:
    made = make_setup(task, train_tokenizer(TEXTS))
    args = settings(folder, batch_size, protection="noise", max_steps=3, average_tokens_across_devices=True)
    for model in (made.student, made.teacher):
        # Dropout would be drawn otherwise in two processes.
        for name, value in vars(model.config).items():
            if "dropout" in name and isinstance(value, float):
                setattr(model.config, name, 0.0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    trainer = PrivateDistillationTrainer(
        made.student.double(),
        args,
        teacher_model=made.teacher.double(),
        train_dataset=made.data,
        eval_dataset=made.data.select(range(7)),
        processing_class=made.processing_class,
        tagger=TAGGER,
    )
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        found = {name: torch.tensor(metrics[f"eval_{name}"], dtype=torch.float64) for name in ("accuracy",)}
        save_file(trainer.model.state_dict() | found, f"{folder}/result.safetensors")
    leave_together()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
