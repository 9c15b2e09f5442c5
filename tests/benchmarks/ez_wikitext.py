"""Do the attacks that compare token by token (ez, wbc) find more than ratio, as published?

A pretrained model is fine-tuned on a part of WikiText and attacked with itself, as it was before, for reference.
Published for GPT-2 (Ilic et al. 2026, arXiv 2601.12104): ez finds 66.3 % of the members at 1 % false alarms.

python tests/benchmarks/ez_wikitext.py --model <folder> --members validation.parquet --others test.parquet
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from swingkd import audit_membership
from swingkd.report.metrics import environment


def chunks(path: str, tokenizer, count: int, length: int) -> list[str]:
    """Cut articles into texts of so many tokens."""
    text = "".join(row for row in pq.read_table(path)["text"].to_pylist() if row.strip())
    ids = tokenizer(text, verbose=False)["input_ids"]
    return [tokenizer.decode(ids[i * length : (i + 1) * length]) for i in range(min(count, len(ids) // length))]


def train(model, tokenizer, texts: list[str], epochs: int, rate: float, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(texts)).tolist()
        for start in range(0, len(order), 8):
            batch = tokenizer([texts[i] for i in order[start : start + 8]], return_tensors="pt", padding=True)
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            with torch.autocast(model.device.type, torch.bfloat16):
                loss = model(**batch, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: loss {float(loss.detach()):.3f}", flush=True)
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--model", "--members", "--others"):
        parser.add_argument(name, required=True)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--length", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    members, others = (
        chunks(path, tokenizer, options.count, options.length) for path in (options.members, options.others)
    )
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    train(model, tokenizer, members, options.epochs, options.rate, options.seed)
    report = audit_membership(model, tokenizer, members, others, references=[base], progress=False)
    table = Table("attack", "AUC", "found at 1 % false alarms")
    for result in report.results:
        rate = result.tpr_at_1_fpr
        table.add_row(result.attack, f"{result.auc.value:.3f}", f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}]")
    Console().print(table)
    if options.out:
        settings = {name: getattr(options, name) for name in ("count", "length", "epochs", "rate", "seed")}
        model_of = f"{model.config.model_type}, {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M weights"
        content = {"environment": environment(), "model": model_of, "settings": settings, **report.to_dict()}
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
