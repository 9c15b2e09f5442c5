"""Images, models and trainings of an experiment: from names on the Hub, from local files, or from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from datasets import load_dataset
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageClassification

from swingkd.experiments.grid import precision
from swingkd.experiments.launch import expand
from swingkd.privacy import PrivacyLedger, shard
from swingkd.report import Row, ledger_rows, membership_rows
from swingkd.vision import CifarResNet, ClassifierArguments, ClassifierTraining, Images, RonaNet, SlimResNet
from swingkd.vision.base import Classifier

#: Why a plain teacher's data is not covered.
PLAIN = "the teacher was trained on it without differential privacy"
KINDS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (CifarResNet, SlimResNet, RonaNet)}
Module = TypeVar("Module", bound=nn.Module)


def load_images(data: dict[str, Any], split: str) -> Images:
    """Load one split by the arguments of `load_dataset`."""
    spec = expand(data[split])
    dataset = load_dataset(**{"split": split, **spec})
    limit = data.get("limit", {}).get(split)
    return Images.from_dataset(dataset.select(range(limit)) if limit else dataset, **data.get("images", {}))


def make_model(spec: dict[str, Any]) -> nn.Module:
    """Build or load a classifier: {name: on the Hub}, or {kind: SlimResNet, ...} with or without {weights: file}."""
    spec = expand(spec)
    if "name" in spec:
        return AutoModelForImageClassification.from_pretrained(spec["name"])
    weights, kind = spec.pop("weights", None), KINDS[spec.pop("kind")]
    model = kind(**spec)
    if weights is not None:
        model.load_state_dict(load_file(weights), strict=True)
    return model


def trained(
    folder: Path, start: nn.Module, images: Images, settings: dict[str, Any], *, public: bool = False
) -> tuple[nn.Module, PrivacyLedger]:
    """Train a classifier once, of private images or of public ones; its weights and its ledger stay in a folder."""
    ledger = PrivacyLedger.of_weights(folder / "model") if (folder / "model").exists() else None
    if ledger is None:
        if PartialState().is_main_process:
            print(f"training {folder.name}", flush=True)
        args = ClassifierArguments(output_dir=str(folder), **settings)
        run = ClassifierTraining(start, images, args=args, public=public)
        run.train(resume_from_checkpoint=True)
        # The ledger is sealed last, when the weights are there.
        run.save_model(folder / "model")
        run.accelerator.wait_for_everyone()
        ledger = PrivacyLedger.of_weights(folder / "model")
        assert ledger is not None
    return read(start, folder / "model"), ledger


def read(model: Module, folder: Path) -> Module:
    """Read a model's weights from a folder of `save_model`."""
    state = load_file(folder / "model.safetensors")
    model.load_state_dict(state, strict=isinstance(model, PyTorchModelHubMixin))
    return model.eval()


def stage_settings(config: dict[str, Any], stage: str, *worlds: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Return the settings of a training stage: those of all stages, of this one, of worlds that differ, of a row."""
    settings = {"mixed_precision": config.get("mixed_precision", precision()), "progress": False} | config["training"]
    for level in (config, *worlds):
        settings |= level.get(f"{stage}_training", {})
    return settings | others


def trained_elsewhere(spec: dict[str, Any]) -> bool:
    """Say whether a model comes with its weights."""
    return bool({"weights", "name"} & spec.keys())


def plain_teacher(folder: Path, spec: dict[str, Any], images: Images, settings: dict[str, Any]) -> nn.Module:
    """Return the private teacher, trained elsewhere, or once here."""
    model = fresh(spec, 0)
    return model.eval() if trained_elsewhere(spec) else trained(folder, model, images, settings)[0]


def shards(images: Images, count: int) -> list[Images]:
    """Deal private images to teachers: disjoint parts, the same in every run."""
    dealt = torch.from_numpy(shard(len(images), count, torch.Generator().manual_seed(0)))
    return [images.select((dealt == number).nonzero()[:, 0]) for number in range(count)]


def parameters(model: nn.Module) -> int:
    """Count a model's parameters."""
    return sum(p.numel() for p in model.parameters())


def audited(members: Images, others: Images, count: int) -> tuple[Images, Images]:
    """Draw as many of both for an audit: at random, since files have an order, which a model can tell.

    The first half of MNIST's test images is the harder one: beside it, even a model that never saw a real image seems
    to recognise the first training images.
    """
    count = min(count, len(members), len(others))
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(len(images), generator=generator)[:count] for images in (members, others)]
    return members.select(drawn[0]), others.select(drawn[1])


def fresh(spec: dict[str, Any], seed: int) -> nn.Module:
    """Build a model whose first weights follow from a seed."""
    torch.manual_seed(seed)
    return make_model(spec)


def student_rows(
    name: str, setting: str, run: Classifier, test: Images, *, counts: dict[str, float] | None = None
) -> list[Row]:
    """Return the accuracy and the size of a model, and what its training promises.

    Args:
        name, setting: what it is called.
        run: the model.
        test: images that it never saw.
        counts: what else was counted, by metric.
    """
    rows = [Row(name, setting, "accuracy", run.evaluate(test), n=len(test))]
    rows += [Row(name, setting, metric, value) for metric, value in (counts or {}).items()]
    return [*rows, Row(name, setting, "parameters", parameters(run.model)), *ledger_rows(name, setting, run.ledger)]


def audit_rows(
    name: str,
    setting: str,
    run: Classifier,
    members: Images,
    others: Images,
    count: int,
    references: Sequence[nn.Module] = (),
) -> list[Row]:
    """Attack a model: were these private images among the teacher's?"""
    report = run.audit(*audited(members, others, count), references=references)
    return membership_rows(name, f"{setting} records=private", report)


def told(rows: list[Row], run: Classifier) -> str:
    """Return what is printed of a student that was measured."""
    return f"{rows[0].model} ({rows[0].setting}): accuracy {rows[0].value:.4f}\n{run.ledger}"
