"""What does a step with out-of-fold teachers cost, beside one teacher: adapters, live and cached; and what memory?

K LoRA adapters on one base answer a batch of K folds; the rival is plain distillation from one model with one adapter.

python tests/benchmarks/out_of_fold_step.py --out tests/benchmarks/out_of_fold_step.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from loss_time import timed
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models
from training_step import model, rows
from transformers import PreTrainedTokenizerFast

from swingkd import OutOfFoldTeacher, PrivateDistillationConfig, PrivateDistillationTrainer, cache_teacher
from swingkd.data.columns import FOLD
from swingkd.report.metrics import environment

LORA = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False)


def adapted(vocabulary: int, k: int):
    """Return a teacher's size with K adapters."""
    made = get_peft_model(model(vocabulary, 512, 12), LORA, adapter_name="fold-0")
    for number in range(1, k):
        made.add_adapter(f"fold-{number}", LORA)
    return made


def megabytes(module: torch.nn.Module) -> float:
    return sum(p.numel() * p.element_size() for p in module.parameters()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=257, help="tokens a row; one less is predicted")
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    words = {"[PAD]": 0} | {f"w{i}": i for i in range(1, options.vocabulary)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w1")), pad_token="[PAD]", eos_token="w2"
    )
    data = rows(options.vocabulary, options.batch, options.length, 0.0)
    data = data.add_column(FOLD, [i % options.k for i in range(options.batch)])
    with tempfile.TemporaryDirectory() as folder:
        args = PrivateDistillationConfig(
            output_dir=folder,
            alpha=1.0,
            protection="none",
            report_to=[],
            disable_tqdm=True,
            max_length=options.length,
            per_device_eval_batch_size=options.batch,
            per_device_train_batch_size=options.batch,
        )
        one, several = adapted(options.vocabulary, 1), OutOfFoldTeacher(adapted(options.vocabulary, options.k))

        def trainer(teacher, data):
            made = PrivateDistillationTrainer(
                model(options.vocabulary, 256, 6),
                args,
                teacher_model=teacher,
                train_dataset=data,
                processing_class=tokenizer,
            )
            made.model.to(args.device)
            return made, torch.optim.AdamW(made.model.parameters(), lr=1e-4)

        plain = trainer(one, data)
        live = trainer(several, data)
        cached = trainer(None, cache_teacher(several, args, data, tokenizer, top_k=64))

        def step(trainer, optimizer):
            batch = next(iter(trainer.get_train_dataloader()))
            trainer.compute_loss(trainer.model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()

        seconds = timed(
            {
                "one teacher": lambda: step(*plain),
                f"{options.k} out of fold": lambda: step(*live),
                f"{options.k} out of fold, cached": lambda: step(*cached),
            },
            options.rounds,
        )
    first = seconds["one teacher"]
    table = Table("step", "seconds", "of one teacher's")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}", f"{value / first:.2f}x")
    Console().print(table)
    weights = {"one model": megabytes(model(options.vocabulary, 512, 12)), f"{options.k} adapters": megabytes(several)}
    results = {
        "k": options.k,
        "rank": LORA.r,
        "tokens": options.batch * (options.length - 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "live_over_plain": seconds[f"{options.k} out of fold"] / first,
        "cached_over_plain": seconds[f"{options.k} out of fold, cached"] / first,
        "megabytes": weights,
        "adapters_over_one_model": weights[f"{options.k} adapters"] / weights["one model"],
    }
    if options.out:
        options.out.write_text(json.dumps({"environment": environment(), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
