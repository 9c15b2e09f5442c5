"""What does a whole step of swing distillation cost, against the least that any distillation does?

The floor: the teacher's forward pass, the student's forward and backward with plain cross-entropy, and the optimizer.
Then the same step with the teacher's targets read from a cache.

python tests/benchmarks/training_step.py --out training_step.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from loss_time import timed
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer, cache_teacher
from swingkd.report.metrics import environment


def model(vocabulary: int, width: int, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(width)
    heads = {"num_attention_heads": width // 64, "intermediate_size": 4 * width, "max_position_embeddings": 2048}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, pad_token_id=0, **heads)
    )


def rows(vocabulary: int, count: int, length: int, private: float) -> Dataset:
    """Random tokens, some of them private."""
    generator = np.random.default_rng(0)
    ids = generator.integers(1, vocabulary, (count, length))
    likelihood = np.where(generator.random((count, length)) < private, 255, 0).astype(np.uint8)
    zeros = np.zeros((count, length), np.int64)
    columns = {
        "input_ids": ids,
        "pii_likelihood": likelihood,
        "pii_group": zeros,
        "pii_shape": zeros,
        "pii_span": zeros,
    }
    return Dataset.from_dict({name: list(values) for name, values in columns.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=513, help="tokens a row; one less is predicted")
    parser.add_argument("--private", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    words = {"[PAD]": 0} | {f"w{i}": i for i in range(1, options.vocabulary)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w1")), pad_token="[PAD]", eos_token="w2"
    )
    data = rows(options.vocabulary, options.batch, options.length, options.private)
    with tempfile.TemporaryDirectory() as folder:
        args = PrivateDistillationConfig(
            output_dir=folder,
            protection="noise",
            report_to=[],
            disable_tqdm=True,
            bf16=options.bf16,
            max_length=options.length,
            per_device_eval_batch_size=options.batch,
            per_device_train_batch_size=options.batch,
        )
        teacher = model(options.vocabulary, 512, 12)

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

        live, live_optimizer = trainer(teacher, data)
        cached, cached_optimizer = trainer(None, cache_teacher(teacher, args, data, tokenizer, top_k=64))
        plain = model(options.vocabulary, 256, 6).to(args.device)
        plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-4)

        def step(trainer, optimizer):
            batch = next(iter(trainer.get_train_dataloader()))
            with trainer.accelerator.autocast():
                trainer.compute_loss(trainer.model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()

        def floor():
            batch = next(iter(live.get_train_dataloader()))
            batch = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
            with live.accelerator.autocast():
                with torch.no_grad():
                    teacher(batch["input_ids"], batch["attention_mask"], use_cache=False)
                plain(**batch, use_cache=False).loss.backward()
            plain_optimizer.step()
            plain_optimizer.zero_grad()

        seconds = timed(
            {
                "floor": floor,
                "swing": lambda: step(live, live_optimizer),
                "swing, cached teacher": lambda: step(cached, cached_optimizer),
            },
            options.rounds,
        )
    table = Table("step", "seconds", "of the floor", "tokens a second")
    tokens = options.batch * (options.length - 1)
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}", f"{value / seconds['floor']:.2f}x", f"{tokens / value:,.0f}")
    Console().print(table)
    results = {
        "tokens": tokens,
        "vocabulary": options.vocabulary,
        "private": options.private,
        "bf16": options.bf16,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "swing_over_floor": seconds["swing"] / seconds["floor"],
        "live_over_cached": seconds["swing"] / seconds["swing, cached teacher"],
    }
    if options.out:
        options.out.write_text(json.dumps({"environment": environment(), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
