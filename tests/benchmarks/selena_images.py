"""Out-of-fold teachers on images (SELENA, Tang et al. 2022, arXiv 2110.08324): what do they hide, what do they cost?

A small network is trained on images that it remembers.  Beside it stand a student of such a teacher, and a student of
teachers out of fold: each image is answered by those that never saw it.  Published: attacks near a
coin's 0.5, accuracy within 3 points.

python tests/benchmarks/selena_images.py --train train.parquet --test test.parquet --out selena_images.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, load_dataset
from rich.console import Console
from rich.table import Table
from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification, set_seed

from swingkd import Folds, PrivateDistillationConfig, PrivateDistillationTrainer, audit_membership, train_out_of_fold
from swingkd.report.metrics import environment


def network(classes: int) -> ResNetForImageClassification:
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_channels=3, num_labels=classes, **sizes))


def images(path: str, rows: range) -> Dataset:
    data = load_dataset("parquet", data_files=path, split="train")
    data = data.rename_columns({name: "image" for name in ("img",) if name in data.column_names})
    if not isinstance(data.features["label"], ClassLabel):
        data = data.class_encode_column("label")
    return data.shuffle(seed=0).select(rows).select_columns(["image", "label"])


def accuracy(trainer: PrivateDistillationTrainer, data: Dataset) -> float:
    found = trainer.predict(data)
    return float((found.predictions.argmax(-1) == np.array(data["label"])).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--held-out", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    members = images(options.train, range(options.members))
    others = images(options.test, range(options.members))
    unseen = images(options.test, range(options.members, 2 * options.members))
    classes = members.features["label"].num_classes
    processor = ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0)
    results = []

    def train(folder: str, seed: int, teacher=None, **fields) -> PrivateDistillationTrainer:
        set_seed(seed)
        args = settings(folder, seed, **fields)
        trainer = PrivateDistillationTrainer(
            network(classes), args, teacher_model=teacher, train_dataset=members, processing_class=processor
        )
        trainer.train()
        return trainer

    def settings(folder: str, seed: int, **fields) -> PrivateDistillationConfig:
        return PrivateDistillationConfig(
            folder, seed=seed, num_train_epochs=options.epochs, learning_rate=2e-3, lr_scheduler_type="cosine",
            per_device_train_batch_size=64, per_device_eval_batch_size=256, save_strategy="no", report_to=[],
            disable_tqdm=True, logging_strategy="no", **({"protection": "none"} | fields),
        )  # fmt: skip

    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            plain = train(f"{folder}/plain", seed, alpha=0.0)
            kd = train(f"{folder}/kd", seed, plain.model, alpha=0.5)
            set_seed(seed)
            teachers = train_out_of_fold(
                network(classes), settings(f"{folder}/teachers", seed, alpha=0.0), members, processor,
                folds=Folds.of(members, options.k, near_duplicates=False, seed=seed), held_out=options.held_out,
            )  # fmt: skip
            apart = train(f"{folder}/apart", seed, teachers, alpha=1.0)
        for name, trainer in (("plain", plain), ("kd", kd), ("out of fold", apart)):
            report = audit_membership(trainer.model, processor, members, others, progress=False)
            best = max(report.results, key=lambda result: result.auc.value)
            results.append(
                {
                    "student": name,
                    "seed": seed,
                    "accuracy": accuracy(trainer, unseen),
                    "attack": best.attack,
                    "auc": best.auc.value,
                    "balanced_accuracy": best.balanced_accuracy.value,
                    "tpr_at_1_fpr": best.tpr_at_1_fpr.value,
                }
            )
            print(results[-1], flush=True)
    table = Table("student", "accuracy", "attack: AUC", "balanced accuracy", "found at 1 %")
    for name in ("plain", "kd", "out of fold"):
        own = [row for row in results if row["student"] == name]
        means = [
            np.mean([row[key] for row in own]) for key in ("accuracy", "auc", "balanced_accuracy", "tpr_at_1_fpr")
        ]
        table.add_row(name, *(f"{value:.3f}" for value in means))
    Console().print(table)
    if options.out:
        settings_said = {key: value for key, value in vars(options).items() if key not in ("train", "test", "out")}
        content = {"environment": environment(), **settings_said, "rows": results}
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
