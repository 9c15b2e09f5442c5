"""Choosing teachers among many clients: time and memory of a round, against the two ways that one would try first.

500 reference examples of ten classes.  "one client at a time" broadcasts a client's messenger against all others;
"all pairs at once" holds every messenger in float32, and the matrix of all divergences.

python tests/benchmarks/selection_cost.py --out selection_cost.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections import deque
from pathlib import Path

import torch
from process_memory import forget_peak, resident
from rich.console import Console
from rich.table import Table

from swingkd.decentralized.aggregation import SDDist, nearest, tempered
from swingkd.report.metrics import environment

CLIENTS, EXAMPLES, CLASSES, NEIGHBOURS = (10, 100, 1_000, 10_000), 500, 10, 5
# More than that and a way is left out: minutes, or more memory than a laptop has.
LIMITS = {"one client at a time": 1_000, "all pairs at once": 10_000}


def messengers(clients: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(min(256, clients - start), EXAMPLES, CLASSES, generator=generator).softmax(-1).half()
        for start in range(0, clients, 256)
    ]
    return torch.cat(parts)


def one_at_a_time(known: torch.Tensor, everybody: torch.Tensor) -> torch.Tensor:
    them = tempered(known, 1.0)
    logs, found = them.log(), torch.empty(len(known), NEIGHBOURS, dtype=torch.int64)
    for mine in range(len(known)):
        distances = (them * (logs - logs[mine])).sum(-1).mean(-1)
        distances[mine] = torch.inf
        found[mine] = distances.topk(NEIGHBOURS, largest=False).indices
    return found


def all_at_once(known: torch.Tensor, everybody: torch.Tensor) -> torch.Tensor:
    them = tempered(known, 1.0).flatten(1)
    logs = them.log()
    distances = ((them * logs).sum(1) - logs @ them.T) / EXAMPLES
    return distances.fill_diagonal_(torch.inf).topk(NEIGHBOURS, largest=False).indices


def in_blocks(known: torch.Tensor, everybody: torch.Tensor) -> torch.Tensor:
    return nearest(known, everybody, everybody, NEIGHBOURS)


def whole_round(known: torch.Tensor, everybody: torch.Tensor) -> None:
    labels = torch.randint(CLASSES, (EXAMPLES,), generator=torch.Generator().manual_seed(1))
    # Each target is sent as soon as it is there.
    deque(SDDist(0.7, NEIGHBOURS).targets(known, labels, everybody, everybody, 0), maxlen=0)


WAYS = {
    "one client at a time": one_at_a_time,
    "all pairs at once": all_at_once,
    "in blocks": in_blocks,
    "a whole round": whole_round,
}


def measure(way: str, clients: int, queue) -> None:
    """Say seconds, and bytes beyond the messengers themselves; each in a process of its own."""
    torch.set_num_threads(1)
    known, everybody = messengers(clients), torch.arange(clients)
    WAYS[way](known[:8], everybody[:8])
    forget_peak()
    before, start = resident("VmRSS"), time.perf_counter()
    WAYS[way](known, everybody)
    queue.put((time.perf_counter() - start, max(0, resident("VmHWM") - before)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    some = messengers(100)
    for way in ("one client at a time", "all pairs at once"):
        # The ways differ in rounding alone, so that neighbours as far as each other may change places.
        agree = (WAYS[way](some, torch.arange(100)) == in_blocks(some, torch.arange(100))).double().mean()
        assert agree > 0.98, (way, agree)
    context, rows = multiprocessing.get_context("spawn"), []
    for clients in CLIENTS:
        for way in WAYS:
            if clients > LIMITS.get(way, clients):
                continue
            queue = context.Queue()
            process = context.Process(target=measure, args=(way, clients, queue))
            process.start()
            seconds, memory = queue.get()
            process.join()
            rows.append({"clients": clients, "way": way, "seconds": seconds, "megabytes": memory / 2**20})
    table = Table(title=f"{EXAMPLES} examples, {CLASSES} classes, {NEIGHBOURS} neighbours; one core")
    for heading in ("clients", "way", "seconds", "MB beyond the messengers"):
        table.add_column(heading, justify="right")
    for found in rows:
        table.add_row(f"{found['clients']:,}", found["way"], f"{found['seconds']:.3f}", f"{found['megabytes']:,.0f}")
    Console().print(table)
    if options.out:
        about = {
            "examples": EXAMPLES,
            "classes": CLASSES,
            "neighbours": NEIGHBOURS,
            "messenger_bytes": 2 * EXAMPLES * CLASSES,
        }
        options.out.write_text(json.dumps({**about, "rows": rows, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
