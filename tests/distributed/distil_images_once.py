"""A short run on images in float64; every process runs this file, the first one saves the student.

The noise can be repeated here, so that one process and two can be compared; outside of tests it cannot.
"""

import sys
from dataclasses import replace

import torch
from safetensors.torch import save_file

import swingkd.privacy.dp_sgd
import swingkd.privacy.sampling
from swingkd.privacy import ShardAnswers
from swingkd.vision import (
    BatchGradient,
    ClassifierArguments,
    ClassifierTraining,
    DataFreeArguments,
    DataFreeDistillation,
    DynamicSampleSelection,
    ExactTeacher,
    GeneratorLoss,
    ImageGenerator,
    PublishedNoise,
    SampleSelectionArguments,
    ShardTeachers,
    Teacher,
    ZerothOrder,
)
from tests.distributed.leaving import leave_together
from tests.harness import coloured, small


def replayable(device="cpu"):
    return torch.Generator(device).manual_seed(5)


def network(seed):
    return small(seed, norm="group").double()


def guidance(kind, folder):
    if kind == "published":
        return PublishedNoise(Teacher(network(1), "private"), Teacher(network(2), "public"))
    if kind == "shards":
        return ShardTeachers(
            [network(1), network(2)], ShardAnswers(2.0, path=f"{folder}/answers", generator=replayable())
        )
    made = (ZerothOrder if kind == "zeroth" else BatchGradient)([network(1), network(2)], 0.5)
    made._generator = replayable()
    return made


def make(kind, folder):
    common = {"output_dir": folder, "progress": False, "batch_size": 31, "channels_last": False, "learning_rate": 1e-3}
    public = coloured(61, seed=0)
    if kind == "dp":
        args = ClassifierArguments(epochs=2, target_epsilon=50.0, **(common | {"batch_size": 61}))
        # Each process augments the images that it draws.
        return ClassifierTraining(network(0), replace(public, crop=0, flip=False), args=args)
    if kind in ("data_free", "learnt_noise"):
        # The entropy of a batch is that of each process's part: no sum.
        loss = GeneratorLoss(batch_entropy=0.0)
        learns = {"noise_learning_rate": 0.1, "images_per_round": 20, "generator_batch_size": 20}
        args = DataFreeArguments(
            rounds=2,
            epochs_per_round=1,
            generator_epochs=1,
            generator_updates=2,
            loss=loss,
            crop=1,
            flip=True,
            **(learns if kind == "learnt_noise" else {"images_per_round": 21}),
            **common,
        )
        torch.manual_seed(7)
        generator = ImageGenerator(8, width=4, latent=6)
        # Batch norm sees another batch in each process: take it out.
        plain = [m for m in generator.layers if not isinstance(m, torch.nn.BatchNorm2d)]
        generator.layers = torch.nn.Sequential(*plain)
        generator.double()
        teacher = ExactTeacher(network(1), "private", soft=True)
        return DataFreeDistillation(network(0), generator, teacher, critic=network(1), classes=3, args=args)
    hints = {"hint_epochs": 1, "hint_layers": ("stem", "stem")} if kind == "published" else {}
    args = SampleSelectionArguments(
        warm_up_epochs=1,
        self_learning_epochs=1,
        distillation_epochs=1,
        shares=(0.5, 0.3),
        distillation_batch_size=13,
        **hints,
        **common,
    )
    return DynamicSampleSelection(network(0), guidance(kind, folder), public, args=args)


def main(folder: str, kind: str) -> None:
    swingkd.privacy.dp_sgd.secret_generator = swingkd.privacy.sampling.secret_generator = replayable
    run = make(kind, folder)
    run.train()
    accuracy = run.evaluate(coloured(31, seed=3))
    if run.accelerator.is_main_process:
        weights = {name: p.detach().contiguous() for name, p in run.model.named_parameters()}
        releases = sum(entry.releases for entry in run.ledger.entries)
        found = {"accuracy": torch.tensor(accuracy), "releases": torch.tensor(releases)}
        save_file({**weights, **found}, f"{folder}/result.safetensors")
    leave_together()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
