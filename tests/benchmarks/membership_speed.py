"""How many texts a second go through the four reference-free attacks, all from one forward pass a text?

Against what a user finds elsewhere: one script an attack, one text at a time.  The
scores of both are compared.

python tests/benchmarks/membership_speed.py --out membership_speed.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from swingkd.audit.scores import score_texts
from swingkd.experiments.models import make_tokenizer
from swingkd.report.metrics import environment

ROOT = Path(__file__).parents[2]
ATTACKS = ("loss", "zlib", "min_k", "min_k++")


@torch.inference_mode()
def one_attack(model, tokenizer, texts: list[str], attack: str, share: float = 0.2) -> np.ndarray:
    """Score texts by one attack, one text at a time, as its own script would."""
    scores = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids).logits[0, :-1].float()
        log_probs = logits.log_softmax(-1)
        own = log_probs.gather(-1, ids[0, 1:, None])[:, 0]
        if attack == "loss":
            scores.append(own.mean().item())
        elif attack == "zlib":
            scores.append(own.mean().item() / len(zlib.compress(text.encode())))
        else:
            if attack == "min_k++":
                probs = logits.softmax(-1)
                mean = (probs * log_probs).sum(-1)
                own = (own - mean) / ((probs * log_probs.square()).sum(-1) - mean.square()).sqrt()
            scores.append(own.topk(max(round(share * len(own)), 1), largest=False).values.mean().item())
    return np.array(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    data = load_dataset(
        "parquet", data_files=str(ROOT / "recipes" / "quickstart" / "data" / "dialogues.parquet"), split="train"
    )
    # Whole dialogues, and then their turns, which are much shorter: the mixture that batches have to cope with.
    turns = [line for text in data["text"] for line in text.split("\n")]
    texts = (data["text"][:] + turns)[: options.texts]
    tokenizer = make_tokenizer({"vocab_size": 4096}, data["text"])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=192, num_hidden_layers=4, num_attention_heads=3, intermediate_size=512
    )
    model = LlamaForCausalLM(config).eval()

    score_texts(model, tokenizer, texts[:200], progress=False)
    start = time.perf_counter()
    ours = score_texts(model, tokenizer, texts, progress=False)
    together = time.perf_counter() - start
    one_by_one, error = 0.0, 0.0
    for attack in ATTACKS:
        start = time.perf_counter()
        found = one_attack(model, tokenizer, texts, attack)
        one_by_one += time.perf_counter() - start
        error = max(error, float(np.abs(found - ours.attacks[attack]).max()))
    result = {
        "question": "texts a second through loss, zlib, min_k and min_k++",
        "texts": len(texts),
        "parameters": model.num_parameters(),
        "vocabulary": config.vocab_size,
        "seconds": {"one pass for all": together, "one text, one attack at a time": one_by_one},
        "texts_per_second": {
            "one pass for all": len(texts) / together,
            "one text, one attack at a time": len(texts) / one_by_one,
        },
        "speedup": one_by_one / together,
        "largest_error": error,
        "environment": environment(),
    }
    table = Table("", "seconds", "texts a second", title=f"{len(texts):,} texts, four attacks")
    for name, seconds in result["seconds"].items():
        table.add_row(name, f"{seconds:.1f}", f"{len(texts) / seconds:.0f}")
    Console().print(table, f"speedup {result['speedup']:.1f}, largest error {error:.1e}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
