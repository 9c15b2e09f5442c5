"""Two teachers out of fold; every process runs this file, and the rows are dealt by one."""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file

from swingkd import Folds, train_out_of_fold
from tests.distributed.leaving import leave_together
from tests.distributed.settings import settings
from tests.harness import TEXTS, tiny_model, train_tokenizer


def main(folder: str, batch_size: int) -> None:
    tokenizer = train_tokenizer(TEXTS)
    rows = Dataset.from_dict({"text": [f"{i} {text}" for i, text in enumerate(TEXTS[:24])]})
    # Drawn by each process for itself, and each would draw others.
    folds = Folds.of(rows, 2, near_duplicates=False)
    args = settings(f"{folder}/teachers", batch_size, max_steps=3)
    teacher = train_out_of_fold(tiny_model(len(tokenizer), seed=1), args, rows, tokenizer, folds=folds)
    weights = {f"{i} {name}": p.clone() for i, one in enumerate(teacher.models) for name, p in one.named_parameters()}
    weights["of_row"] = torch.from_numpy(teacher.folds.of_row)
    save_file(weights, Path(folder) / f"{args.process_index}.safetensors")
    if args.process_index == 0:
        save_file(weights, Path(folder) / "result.safetensors")
    leave_together()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
