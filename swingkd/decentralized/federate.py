"""A federation from a configuration, on the engine that is asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, get_args

from swingkd.decentralized.distillation import DecentralizedDistillation
from swingkd.decentralized.federation import Federation, FederationSettings
from swingkd.decentralized.flower_run import run_on_flower
from swingkd.decentralized.result import FederationResult

Engine = Literal["inproc", "flower"]


def federate(
    config: dict[str, Any], output_dir: str | os.PathLike, engine: Engine = "inproc", **others: Any
) -> FederationResult:
    """Run a federation, or what is left of one that was stopped.

    Args:
        config: the fields of `FederationSettings`, or a recipe's configuration.
        output_dir: where the configuration, what server and clients know, and result.json are kept.
        engine: "inproc": all in this process; "flower": see `run_on_flower`.
        **others: of `run_on_flower`.

    Raises:
        ValueError: there is no such engine, the configuration says what there is not, or the folder holds a federation
            of other settings.
        ImportError: Flower is asked for and not installed.
        RuntimeError: Flower's run failed.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"engine={engine!r} is none of {', '.join(get_args(Engine))}.")
    folder = Path(output_dir)
    # As it will be read again: a tuple is a list there.
    settings = FederationSettings.of(json.loads(json.dumps(config, default=str)))
    kept = folder / "federation.json"
    if kept.exists() and FederationSettings.read(kept) != settings:
        raise ValueError(f"{folder} holds a federation of other settings. Choose another folder, or delete it.")
    folder.mkdir(parents=True, exist_ok=True)
    settings.write(kept)
    if engine == "flower":
        return run_on_flower(kept, folder, **others)
    federation = Federation(settings)
    clients = [federation.client(name) for name in federation.names]
    run = DecentralizedDistillation(clients, federation.server(), rounds=federation.rounds, output_dir=str(folder))
    run.run(resume_from_checkpoint=True)
    result = run.result()
    result.save(folder / "result.json")
    return result
