"""What does a step cost in which the student writes, and one in which the teacher has a tokenizer of its own?

On-policy: against sampling alone plus an off-policy step on what was written.  Across tokenizers: against the same
step with one tokenizer.

python tests/benchmarks/on_policy_step.py --out on_policy_step.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib import resources
from pathlib import Path

import torch
from datasets import Dataset
from loss_time import timed
from rich.console import Console
from rich.table import Table
from tokenizers import ByteLevelBPETokenizer
from training_step import model
from transformers import PreTrainedTokenizerFast

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer
from swingkd.report.metrics import environment


def tokenizer_of(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of some texts."""
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(texts, size, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=made._tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new", type=int, default=96, help="tokens that the student writes")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    path = resources.files("recipes") / "quickstart" / "data" / "dialogues.parquet"
    texts = Dataset.from_parquet(str(path))["text"][:2000]
    one, other = (tokenizer_of(part, options.vocabulary) for part in (texts[::2], texts[1::2]))
    rows = Dataset.from_dict(
        {"prompt": [text[:120] for text in texts[:64]], "completion": [text[120:] for text in texts[:64]]}
    )
    with tempfile.TemporaryDirectory() as folder:

        def trainer(lmbda: float = 0.0, own: PreTrainedTokenizerFast | None = None) -> PrivateDistillationTrainer:
            args = PrivateDistillationConfig(
                output_dir=folder,
                protection="none",
                report_to=[],
                disable_tqdm=True,
                bf16=options.bf16,
                use_cpu=not torch.cuda.is_available(),
                lmbda=lmbda,
                max_new_tokens=options.new,
                max_length=256,
                completion_only_loss=lmbda > 0 or None,
                per_device_train_batch_size=options.batch,
            )
            return PrivateDistillationTrainer(
                model(len(one), 256, 6),
                args,
                teacher_model=model(len(own or one), 512, 12),
                train_dataset=rows,
                processing_class=one,
                teacher_processing_class=own,
            )

        writing, same, across = trainer(lmbda=1.0), trainer(), trainer(own=other)
        for made in (writing, same, across):
            made.optimizer_own = torch.optim.AdamW(made.model.parameters(), lr=1e-4)
        given = next(iter(writing.get_train_dataloader()))
        written = writing.writer.batch(writing.model, given, writing.data_collator, 0)
        batches = {made: next(iter(made.get_train_dataloader())) for made in (same, across)}

        def learn(made: PrivateDistillationTrainer, batch: dict) -> None:
            with made.accelerator.autocast():
                made.compute_loss(made.model, dict(batch)).backward()
            made.optimizer_own.step()
            made.optimizer_own.zero_grad()

        def sample() -> dict:
            with writing.accelerator.autocast():
                return writing.writer.batch(writing.model, given, writing.data_collator, 0)

        seconds = timed(
            {
                "sampling": sample,
                "off-policy": lambda: learn(writing, written),
                "on-policy": lambda: learn(writing, sample()),
                "one tokenizer": lambda: learn(same, batches[same]),
                "two tokenizers": lambda: learn(across, batches[across]),
            },
            options.rounds,
        )
    results = {
        "batch": options.batch,
        "new_tokens": options.new,
        "vocabulary": options.vocabulary,
        "bf16": options.bf16,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "on_policy_over_its_parts": seconds["on-policy"] / (seconds["sampling"] + seconds["off-policy"]),
        "two_over_one_tokenizer": seconds["two tokenizers"] / seconds["one tokenizer"],
    }
    table = Table("step", "seconds")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)
    for name in ("on_policy_over_its_parts", "two_over_one_tokenizer"):
        Console().print(f"{name}: {results[name]:.2f}")
    if options.out:
        options.out.write_text(json.dumps({"environment": environment(), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
