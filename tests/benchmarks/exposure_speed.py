"""How fast is the exact exposure of one canary among a million, against scoring every filling by itself?

Brute force is timed on some of the fillings and scaled; on ten thousand fillings all ranks are compared.

python tests/benchmarks/exposure_speed.py --out exposure_speed.json
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from swingkd import CanarySet, measure_exposure
from swingkd.audit.exposure import _Walker
from swingkd.audit.prefix_tree import leading_special_ids, split_prefix, whole_space
from swingkd.experiments.models import make_tokenizer
from swingkd.report.metrics import environment

TEMPLATE = "the account number of {name} at our house is {secret}"


@torch.inference_mode()
def brute_force(model, tokenizer, prefix: str, fillings: list[str], batch_size: int = 512) -> np.ndarray:
    """Return the log-probability of each filling after the prefix, each scored as a whole sequence."""
    head = len(tokenizer(prefix)["input_ids"])
    scores = []
    for start in range(0, len(fillings), batch_size):
        ids = tokenizer([prefix + filling for filling in fillings[start : start + batch_size]])["input_ids"]
        inputs = torch.tensor(ids, device=model.device)
        log_probs = model(input_ids=inputs, use_cache=False).logits[:, head - 1 : -1].float().log_softmax(-1)
        scores.append(log_probs.gather(-1, inputs[:, head:, None]).double().sum((1, 2)).cpu().numpy())
    return np.concatenate(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timed", type=int, default=20_000, help="fillings that brute force is timed on")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names = [TEMPLATE.format(name=name, secret="0") for name in ("ann", "bob", "eve")]
    tokenizer = make_tokenizer({"vocab_size": 600}, names)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=192, num_hidden_layers=4, num_attention_heads=3, intermediate_size=768
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = LlamaForCausalLM(config).eval().to(device)

    canaries = CanarySet.generate(TEMPLATE, length=4, count=1, repetitions=(1,), controls=0, seed=0)
    head, tail = split_prefix(tokenizer, canaries.canaries[0].prefix, ["0000", "1234"])
    fillings, tree, _ = whole_space(tokenizer, tail, canaries.slots, "")
    with torch.inference_mode():
        walked = _Walker(model, 1024).walk(leading_special_ids(tokenizer) + head, tree, -math.inf, 0)
    # A tree and a batch round differently: a rank is the same if only fillings as near as that could swap.
    walked_ranks = len(walked) - np.searchsorted(np.sort(walked), walked, side="left")
    own = brute_force(model, tokenizer, canaries.canaries[0].prefix, fillings)
    scores = np.sort(own)
    best, worst = (len(scores) - np.searchsorted(scores, own + shift, side="left") for shift in (1e-5, -1e-5))
    same = int(((best <= walked_ranks) & (walked_ranks <= worst)).sum())

    canaries = CanarySet.generate(TEMPLATE, length=6, count=1, repetitions=(1,), controls=0, seed=0)
    canary = canaries.canaries[0]
    start = time.perf_counter()
    report = measure_exposure(model, tokenizer, canaries, progress=False)
    exact = time.perf_counter() - start
    some = [f"{i:06d}" for i in np.random.default_rng(0).integers(0, 10**6, options.timed)]
    start = time.perf_counter()
    brute_force(model, tokenizer, canary.prefix, some)
    brute = (time.perf_counter() - start) * 10**6 / options.timed

    table = Table("way", "seconds", "tokens fed")
    table.add_row("exact, prefix tree", f"{exact:.1f}", f"{report.token_evaluations:,}")
    table.add_row(f"brute force (from {options.timed:,})", f"{brute:.1f}", f"{report.brute_force_evaluations:,}")
    Console().print(
        table, f"{brute / exact:.0f}x faster; {same:,} of {len(fillings):,} ranks are brute force's.", sep="\n"
    )
    results = {
        "exact_seconds": exact,
        "brute_force_seconds": brute,
        "speedup": brute / exact,
        "token_evaluations": report.token_evaluations,
        "brute_force_evaluations": report.brute_force_evaluations,
        "ranks_compared": len(fillings),
        "ranks_equal": same,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "rank_in_a_million": report.canaries[0].rank,
    }
    if options.out:
        options.out.write_text(json.dumps({"environment": environment(), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
