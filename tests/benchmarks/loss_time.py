"""How long do the loss and its gradient take, against TRL's chunked kernel, the dense formula and bare products?

Run it where TRL is installed beside swingkd (`pip install trl` in an environment of its own); every way is timed in
turn, so that all of them see the same machine:

python tests/benchmarks/loss_time.py --out loss_time.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from loss_cases import Case, dense, fused, products, trl
from rich.console import Console
from rich.table import Table

from swingkd.report.metrics import environment


def timed(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each way over a few rounds, each round running all of them in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            _wait()
            start = time.perf_counter()
            way()
            _wait()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def error(tokens: int, vocabulary: int, beta: float) -> float:
    """Return the largest relative error of the gradients against the plain formula in float64."""
    exact = Case(tokens, vocabulary, torch.float64)
    narrow = Case(tokens, vocabulary)
    for name in ("hidden", "weight", "teacher_hidden", "teacher_weight"):
        value = getattr(exact, name).detach().float()
        setattr(narrow, name, value.requires_grad_(getattr(exact, name).requires_grad))
        setattr(exact, name, value.detach().double().requires_grad_(getattr(exact, name).requires_grad))
    narrow.labels = exact.labels
    pairs = zip(fused(narrow, beta, 0.5), dense(exact, beta, 0.5), strict=True)
    return max(float((found.double() - right).norm() / right.norm()) for found, right in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    results: dict = {"tokens": options.tokens, "vocabulary": options.vocabulary, "dtype": options.dtype}
    results["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    results["threads"] = torch.get_num_threads()
    console, rows = Console(), []
    for name, beta in (("forward KL", 0.0), ("JSD", 0.5)):
        case = Case(options.tokens, options.vocabulary, dtype)
        ways: dict[str, Callable[[], object]] = {
            "one pass": lambda case=case, beta=beta: fused(case, beta),
            "products": lambda case=case: products(case),
            "dense": lambda case=case, beta=beta: dense(case, beta),
        }
        if importlib.util.find_spec("trl"):
            ways["trl"] = lambda case=case, beta=beta: trl(case, beta)
        rows.append({"divergence": name, "seconds": timed(ways, options.rounds)})
        rows[-1]["gradient_error"] = error(256, min(options.vocabulary, 50_257), beta)
        del case
    results["rows"] = rows
    table = Table("divergence", *rows[0]["seconds"], "gradient error")
    for row in rows:
        own = row["seconds"]["one pass"]
        cells = [f"{value:.3f} s ({own / value:.2f}x)" for value in row["seconds"].values()]
        table.add_row(row["divergence"], *cells, f"{row['gradient_error']:.1e}")
    console.print(table, "In brackets: the one pass's time as a share of this one's.", sep="\n")
    scaling = []
    for tokens in (options.tokens // 2, options.tokens, options.tokens * 2):
        for vocabulary in (options.vocabulary // 2, options.vocabulary, options.vocabulary * 2):
            case = Case(tokens, vocabulary, dtype)
            seconds = timed({"one pass": lambda case=case: fused(case)}, 3)["one pass"]
            scaling.append({"tokens": tokens, "vocabulary": vocabulary, "seconds": seconds})
    results["scaling"] = scaling
    table = Table("tokens", "vocabulary", "seconds", "ns a token and entry")
    for entry in scaling:
        each = 1e9 * entry["seconds"] / entry["tokens"] / entry["vocabulary"]
        table.add_row(f"{entry['tokens']:,}", f"{entry['vocabulary']:,}", f"{entry['seconds']:.3f}", f"{each:.2f}")
    console.print(table)
    if options.out:
        options.out.write_text(json.dumps({"environment": environment(), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
