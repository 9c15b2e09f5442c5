"""What does a student lose when the teacher's likeliest k tokens are all that was kept?

On the quickstart's dialogues: one teacher, students of the live teacher and of caches, plain distillation, two seeds.

python tests/benchmarks/cached_teacher_utility.py --out cached_teacher_utility.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from transformers import set_seed

from swingkd import PrivateDistillationTrainer, cache_teacher
from swingkd.experiments.language import language_experiment
from swingkd.experiments.models import quiet
from swingkd.report.metrics import environment

RECIPES = Path(__file__).parents[2] / "recipes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ["SWINGKD_RECIPES"] = str(RECIPES)
    config = yaml.safe_load((RECIPES / "quickstart" / "config.yaml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        experiment = language_experiment(config | {"output_dir": folder})
        language = experiment.language
        teacher, live = language.teacher(), language.tokenise(language.texts["A"], None)
        results = []
        for kept in [None, *options.kept]:
            perplexities = []
            for seed in options.seeds:
                args = language.distillation(f"student-{kept}-{seed}", seed, {"protection": "none"})
                data = live
                if kept is not None:
                    data = cache_teacher(teacher, args, live, language.tokenizer, top_k=kept)
                set_seed(seed)
                asked = teacher if kept is None else None
                trainer = PrivateDistillationTrainer(
                    language.new("student"),
                    args,
                    teacher_model=asked,
                    train_dataset=data,
                    processing_class=language.tokenizer,
                )
                quiet(trainer).train()
                perplexities.append(trainer.evaluate(experiment.evaluation["test"])["eval_perplexity"])
            mean = statistics.mean(perplexities)
            results.append({"kept": kept, "seeds": options.seeds, "perplexity": perplexities, "mean": mean})
            Console().print(results[-1])
    table = Table("teacher", "test perplexity", "change")
    for row in results:
        name = "live" if row["kept"] is None else f"cached, {row['kept']} tokens"
        table.add_row(name, f"{row['mean']:.3f}", f"{100 * (row['mean'] / results[0]['mean'] - 1):+.2f} %")
    Console().print(table)
    if options.out:
        found = {"vocabulary": len(language.tokenizer), "results": results}
        options.out.write_text(json.dumps({"environment": environment(), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
