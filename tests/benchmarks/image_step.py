"""A step of dynamic sample selection against the passes that it cannot do without: images a second, and memory.

The floor is a bare loop: the teacher's forward pass without gradients, the student's step, nothing else.

python tests/benchmarks/image_step.py --out image_step.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from process_memory import resident
from rich.console import Console
from rich.table import Table

from swingkd.report.metrics import environment
from swingkd.vision import (
    CifarResNet,
    DynamicSampleSelection,
    Images,
    Labels,
    PublishedNoise,
    SampleSelectionArguments,
    SlimResNet,
    Teacher,
)

BATCH, STEPS, REPEATS = 128, 6, 5
WAYS = {
    "bare loop": "teacher forward and student step: the floor",
    "live teacher": "asked about each augmented batch",
    "cached teacher": "asked once about each image",
    "bare loop, two teachers": "private and public teacher forward, student step: the floor of the published method",
    "published, live": "private and public teacher, bounded and noised losses",
    "bare loop, no teacher": "student step alone",
    "labels": "no teacher",
}


def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (STEPS * BATCH, 3, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.randint(10, (len(pixels),), generator=generator)
    return Images(pixels, labels, 10, crop=4, flip=True)


def bare(teachers: int):
    """Return a function that makes the steps, with everything in memory as the models want it."""
    given = images()
    form = {"memory_format": torch.channels_last}
    batches = [part.to(**form) for part in given.inputs(torch.arange(len(given))).split(BATCH)]
    labels = given.labels.split(BATCH)
    models = [CifarResNet(56).eval().to(**form) for _ in range(teachers)]
    student = SlimResNet().train().to(**form)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)

    def steps():
        for inputs, own in zip(batches, labels, strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                with torch.no_grad():
                    targets = [(model(inputs).float() / 3).softmax(-1) for model in models]
                logits = student(inputs).float()
            if targets:
                loss = -(targets[0] * (logits / 3).log_softmax(-1)).sum(-1).mean()
            else:
                loss = torch.nn.functional.cross_entropy(logits, own)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps


def ours(way: str):
    teachers = [Teacher(CifarResNet(56), "private", live="live" in way) for _ in range(2)]
    guidance = {"labels": Labels()}.get(way) or (PublishedNoise(*teachers) if "published" in way else teachers[0])
    args = SampleSelectionArguments(
        output_dir=tempfile.mkdtemp(), mixed_precision="bf16", distillation_batch_size=BATCH, checkpoint_every=0
    )
    run = DynamicSampleSelection(SlimResNet(), guidance, images(), args=args)
    run.prepare(1000)
    run.chosen = guidance.take(run, torch.arange(len(run.public)))
    generator = torch.Generator().manual_seed(0)
    return lambda: run._distil(len(run.chosen), generator)


def prepare(way: str):
    if way.startswith("bare loop"):
        return bare({"bare loop": 1, "bare loop, two teachers": 2, "bare loop, no teacher": 0}[way])
    return ours(way)


def peak(way: str, queue) -> None:
    steps = prepare(way)
    steps()
    queue.put(resident("VmHWM") / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ways = {way: prepare(way) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    # Turn by turn, so that a busy moment meets them all.
    for repeat in range(REPEATS + 1):
        for way, steps in ways.items():
            start = time.perf_counter()
            steps()
            if repeat:
                times[way].append(time.perf_counter() - start)
    rows = []
    floors = {
        "live teacher": "bare loop",
        "published, live": "bare loop, two teachers",
        "labels": "bare loop, no teacher",
    }
    context = multiprocessing.get_context("spawn")
    for way, found in times.items():
        queue = context.Queue()
        process = context.Process(target=peak, args=(way, queue))
        process.start()
        memory = queue.get()
        process.join()
        # Of rounds, not of medians: a busy round is busy for both.
        ratio = median(a / b for a, b in zip(found, times[floors[way]], strict=True)) if way in floors else None
        rate = STEPS * BATCH / median(found)
        rows.append({"way": way, "images_per_second": rate, "times_floor": ratio, "peak_mb": memory})
    content = {
        "batch": BATCH,
        "teacher": "CifarResNet(56)",
        "student": "SlimResNet()",
        "precision": "bf16",
        "threads": torch.get_num_threads(),
        "environment": environment(),
        "rows": rows,
    }
    table = Table("way", "what", "images a second", "times its floor", "peak memory, MB")
    for row in rows:
        ratio = f"{row['times_floor']:.2f}" if row["times_floor"] else ""
        table.add_row(row["way"], WAYS[row["way"]], f"{row['images_per_second']:.0f}", ratio, f"{row['peak_mb']:.0f}")
    Console().print(table)
    if options.out:
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
