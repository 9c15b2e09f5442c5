"""The Trainer of docs/plug_in.md, trained shortly in float64; every process runs this file, the first one saves."""

import os
import re
import sys
from pathlib import Path

from datasets import Dataset
from safetensors.torch import save_file
from transformers import TrainingArguments

from tests.distributed.leaving import leave_together
from tests.harness import TEXTS, tiny_model, train_tokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "plug_in.md").read_text()


def main(folder: str, batch_size: int) -> None:
    # Each process has files of its own, and the one key.
    own = Path(folder, os.environ.get("RANK", "0"))
    (own / "out" / "_private").mkdir(parents=True)
    (own / "out" / "_private" / "noise_key").write_text((Path(folder) / "_private" / "noise_key").read_text())
    os.chdir(own)
    tokenizer = train_tokenizer(TEXTS)
    for name, seed in (("teacher", 1), ("student", 2)):
        tiny_model(len(tokenizer), seed=seed).save_pretrained(name)
        tokenizer.save_pretrained(name)
    # Rows of different lengths: what is divided by decides.
    texts = [" ".join(TEXTS[i : i + 1 + i % 3]) for i in range(24)]
    Dataset.from_dict({"text": texts}).to_json("private.jsonl")
    beginning, example = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[:2]
    made: dict = {}
    exec(compile(beginning, "plug_in.md", "exec"), made)
    exec(compile(example.partition("args = ")[0], "plug_in.md", "exec"), made)
    made["teacher"].double()
    args = TrainingArguments(
        "out/mine",
        max_steps=3,
        report_to=[],
        remove_unused_columns=False,
        use_cpu=True,
        optim="sgd",
        learning_rate=0.1,
        per_device_train_batch_size=batch_size,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = made["MyTrainer"](
        made["student"].double(), args, data_collator=made["collator"], train_dataset=made["rows"]
    )
    trainer.train()
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        save_file(dict(model.state_dict()), f"{folder}/result.safetensors")
    leave_together()


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()), int(sys.argv[2]))
