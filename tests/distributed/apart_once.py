"""Trainers of one run whose processes have disks of their own; each writes the rows that it would train on."""

import json
import os
import sys
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file

from swingkd import PrivateDistillationTrainer, RuleTagger
from tests.distributed.leaving import leave_together
from tests.distributed.settings import settings
from tests.harness import tiny_model, train_tokenizer

TEXTS = [f"my account number is {4821000 + 37 * i}. thank you, row {i}." for i in range(16)]


def main(folder: str, protection: str) -> None:
    own = Path(folder, os.environ.get("RANK", "0"))
    tokenizer = train_tokenizer(TEXTS)
    more = {"value_epsilon": 8.0} if protection == "surrogate" else {"population_min_spans": 2}
    trainer = PrivateDistillationTrainer(
        tiny_model(len(tokenizer), seed=1).double(),
        settings(str(own), 2, protection=protection, max_steps=1, noise_support=16, **more),
        teacher_model=tiny_model(len(tokenizer), seed=2).double(),
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=tokenizer,
        tagger=RuleTagger(),
    )
    trainer.train()
    (own / "rows.json").write_text(json.dumps(trainer.train_dataset["input_ids"][:]))
    if trainer.is_world_process_zero():
        save_file({"done": torch.ones(1)}, f"{folder}/result.safetensors")
    leave_together()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
