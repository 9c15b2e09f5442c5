"""How fast are surrogates made and values tagged, and does a student of surrogates train as fast as a plain one?

python tests/benchmarks/surrogate_speed.py --text <parquet with a text column> --out surrogate_speed.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from swingkd import ConsistentTagger, PrivateDistillationConfig, PrivateDistillationTrainer, RuleTagger, Surrogates
from swingkd.experiments.models import make_tokenizer
from swingkd.report.metrics import environment
from swingkd.tagging import private_spans, tag_texts

#: Pairs of a plain training and one with surrogates.
TURNS = 9


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def megabytes_a_second(texts: list[str]) -> dict[str, float]:
    """Return the speeds of the parts, and of all of it through `Surrogates.map`, on one core and on two."""
    size, tagger = sum(map(len, texts)) / 1e6, RuleTagger()
    found = [
        [{"start": start, "end": end, "label": tagger.labels[label]} for start, end, label in private_spans(tags, 0.5)]
        for tags in tag_texts(tagger, texts)
    ]
    surrogates = Surrogates(seed=0)

    def make() -> None:
        for row, (text, spans) in enumerate(zip(texts, found, strict=True)):
            surrogates.replace(text, spans, row)

    def tag() -> None:
        consistent = ConsistentTagger(tagger)
        consistent.learn(texts)
        consistent.tag(texts)

    make()
    # Enough that starting processes is no part of it.
    rows = Dataset.from_dict({"text": texts * 12})
    return {
        "surrogates": size / seconds(make),
        "rules": size / seconds(lambda: tagger.tag(texts)),
        "rules and every mention": size / seconds(tag),
        "all, one process": 12 * size / seconds(lambda: surrogates.map(rows, tagger=tagger)),
        "all, two processes": 12 * size / seconds(lambda: surrogates.map(rows, tagger=tagger, num_proc=2)),
    }


def training(texts: list[str], steps: int) -> dict[str, list[float]]:
    """Return the seconds of so many steps of plain distillation and with surrogates, in turns; rows are ready."""
    tokenizer = make_tokenizer({"vocab_size": 1024}, texts)
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 128, "intermediate_size": 341}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes)
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(config)
    taken: dict[str, list[float]] = {"none": [], "surrogate": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(TURNS):
            for protection, times in taken.items():
                args = PrivateDistillationConfig(
                    f"{folder}/{protection}",
                    protection=protection,
                    max_steps=steps,
                    max_length=128,
                    packing=True,
                    packing_strategy="wrapped",
                    per_device_train_batch_size=16,
                    use_cpu=True,
                    report_to=[],
                    save_strategy="no",
                    disable_tqdm=True,
                )
                trainer = PrivateDistillationTrainer(
                    LlamaForCausalLM(config),
                    args,
                    teacher_model=teacher,
                    train_dataset=Dataset.from_dict({"text": texts}),
                    processing_class=tokenizer,
                    tagger=RuleTagger() if protection == "surrogate" else None,
                )
                times.append(seconds(trainer.train))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    datasets.disable_caching()
    datasets.disable_progress_bars()
    texts = pq.read_table(options.text)["text"].to_pylist()
    speeds, times = megabytes_a_second(texts), training(texts[:800], options.steps)
    table = Table("work", "MB/s")
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:.2f}")
    Console().print(table)
    # Of neighbours: a processor's speed wanders by more than what is asked here.
    ratios = [made_up / plain for plain, made_up in zip(times["none"], times["surrogate"], strict=True)]
    ratio = statistics.median(ratios)
    Console().print(f"{options.steps} steps with surrogates take {ratio:.2f} of plain ones ({TURNS} pairs).")
    if options.out:
        content = {
            "environment": environment(),
            "megabytes_a_second": speeds,
            "steps": options.steps,
            "seconds": times,
            "ratio": ratio,
        }
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
