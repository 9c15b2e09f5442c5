"""How much memory do the loss and its gradient need beyond their inputs, against the dense formula?

python tests/benchmarks/loss_memory.py --out loss_memory.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from loss_cases import Case, dense, fused
from process_memory import resident
from rich.console import Console
from rich.table import Table

from swingkd.report.metrics import environment


def measure(kind: str, vocabulary: int, tokens: int) -> int:
    """Return the bytes that one loss and gradient need beyond the inputs; each measurement has its own process."""
    way = {"dense": dense, "fused": fused}[kind]
    way(Case(8, 1000))  # what the libraries load at their first call is no part of it
    case = Case(tokens, vocabulary)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way(case)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the process's highest mark
    before = resident("VmRSS")
    way(case)
    return resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[50_257, 151_936])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--measure", choices=["dense", "fused"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.measure:
        print(measure(options.measure, options.vocabulary[0], options.tokens))
        return
    results = []
    for vocabulary in options.vocabulary:
        found = {}
        for kind in ("dense", "fused"):
            command = [sys.executable, __file__, "--measure", kind, "--vocabulary", str(vocabulary)]
            done = subprocess.run(
                [*command, "--tokens", str(options.tokens)], capture_output=True, text=True, check=True
            )
            found[kind] = int(done.stdout)
        results.append({"vocabulary": vocabulary, "tokens": options.tokens, **found})
    table = Table("vocabulary", "dense, MB", "one pass, MB", "share")
    for row in results:
        share = f"1/{row['dense'] / row['fused']:.1f}"
        table.add_row(f"{row['vocabulary']:,}", f"{row['dense'] / 1e6:,.0f}", f"{row['fused'] / 1e6:,.0f}", share)
    Console().print(table)
    if options.out:
        options.out.write_text(json.dumps({"environment": environment(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
