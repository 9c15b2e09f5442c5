"""A step of DP-SGD against an ordinary one, and against plain Opacus, on one model: time and memory.

python tests/benchmarks/dp_step.py --out dp_step.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from swingkd.privacy import DPSGD, PrivacyPlan, UnitByUnit
from swingkd.report.metrics import environment

VOCABULARY, LENGTH, BATCH, MICRO, REPEATS = 8192, 128, 32, 8, 5
PLAN = PrivacyPlan(0.01, 100, 1.0)
WAYS = ("ordinary", "swingkd", "swingkd, ghost", "swingkd, row by row", "Opacus")


def build(trained: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=688,
            max_position_embeddings=LENGTH,
        )
    )
    if trained == "LoRA":
        model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    return model.train()


def losses(model, ids: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    token = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return token.view(len(ids), -1).sum(1)


def prepare(trained: str, way: str):
    """Return a function that makes one step on a batch."""
    model = build(trained)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    if way == "ordinary":

        def step(batch):
            optimizer.zero_grad()
            for part in batch.split(MICRO):
                (losses(model, part).sum() / BATCH).backward()
            optimizer.step()

    elif way == "Opacus":
        wrapped = GradSampleModule(model, loss_reduction="sum", strict=False)
        private = DPOptimizer(
            optimizer, noise_multiplier=PLAN.noise_multiplier, max_grad_norm=PLAN.clip_norm, expected_batch_size=BATCH
        )

        def step(batch):
            parts = batch.split(MICRO)
            for i, part in enumerate(parts):
                losses(wrapped, part).sum().backward()
                private.signal_skip_step(i < len(parts) - 1)
                private.step()
                private.zero_grad(set_to_none=True)

    elif way == "swingkd, row by row":
        alone = UnitByUnit(model, optimizer, PLAN, round(BATCH / PLAN.sampling_rate))

        def step(batch):
            alone.zero_grad()
            for row in batch.split(1):
                alone.accumulate_unit([losses(model, row)[0]])
            alone.finish()
            alone.optimizer.step()

    else:
        dp = DPSGD(model, optimizer, PLAN, round(BATCH / PLAN.sampling_rate), ghost=way.endswith("ghost"))

        def step(batch):
            dp.zero_grad()
            for part in batch.split(MICRO):
                dp.accumulate(losses(model, part))
            dp.finish()
            dp.optimizer.step()

    return step


def measure(trained: str, way: str, queue) -> None:
    """Time steps in a process of its own, whose largest size is this way's alone."""
    torch.set_num_threads(1)
    batch = torch.randint(1, VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    step = prepare(trained, way)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(batch)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queue.put({"seconds": median(seconds), "fastest": min(seconds), "megabytes": (peak - before) / 1024})


def main(out: Path | None) -> None:
    context = multiprocessing.get_context("spawn")
    rows: list[dict] = []
    table = Table(title=f"a step of {BATCH} rows of {LENGTH} tokens, {MICRO} at a time")
    for heading in ("trained", "way", "seconds", "times ordinary", "MB"):
        table.add_column(heading, justify="left" if heading in ("trained", "way") else "right")
    for trained in ("full", "LoRA"):
        for way in WAYS:
            queue = context.Queue()
            process = context.Process(target=measure, args=(trained, way, queue))
            process.start()
            rows.append({"trained": trained, "way": way, **queue.get()})
            process.join()
            row, base = rows[-1], next(r for r in rows if r["trained"] == trained)
            row["times_ordinary"] = row["seconds"] / base["seconds"]
            table.add_row(
                trained, way, f"{row['seconds']:.2f}", f"{row['times_ordinary']:.2f}", f"{row['megabytes']:.0f}"
            )
    Console().print(table)
    if out is not None:
        sizes = {"vocabulary": VOCABULARY, "length": LENGTH, "batch": BATCH, "micro_batch": MICRO}
        out.write_text(json.dumps({**sizes, "rows": rows, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")
    main(parser.parse_args().out)
