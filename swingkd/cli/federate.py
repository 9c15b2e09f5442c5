"""swingkd federate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swingkd.cli.common import SetOption, command, plain_console, read_fields, say


@command
def federate(
    config: Annotated[
        Path, typer.Option(help="YAML of a federation; that of a recipe will do, such as sd_dist_har.", exists=True)
    ],
    output_dir: Annotated[Path, typer.Option(help="Where the clients' models, the results and the card go.")] = Path(
        "out/federation"
    ),
    changes: SetOption = None,
    method: Annotated[
        str | None, typer.Option(help="sd_dist, fedmd, local, ...; default: the configuration's.")
    ] = None,
    engine: Annotated[str, typer.Option(help="inproc: all in this process; flower: on Flower.")] = "inproc",
    superlink: Annotated[
        str | None, typer.Option(help="With --engine flower: a connection of Flower's; default: a simulation here.")
    ] = None,
    min_nodes: Annotated[int | None, typer.Option(help="With --engine flower: nodes that a round waits for.")] = None,
    round_timeout: Annotated[float, typer.Option(help="With --engine flower: seconds a round may take.")] = 600.0,
    client_cpus: Annotated[int, typer.Option(min=1, help="With --engine flower: processors of each client.")] = 1,
    client_gpus: Annotated[
        float, typer.Option(min=0, help="With --engine flower: GPUs of each client; with 0.5, two share one.")
    ] = 0.0,
) -> None:
    """Let clients with different models learn from each other; run again, it goes on where it stopped.

    Example: swingkd federate --config recipes/sd_dist_har/config.yaml --output-dir out/har
    """

    from swingkd.decentralized import federate as run
    from swingkd.report import MetricsFile, federation_table, write_card

    fields = read_fields(config, changes, method=method)
    missing = [name for name in ("people", "models") if name not in fields]
    if missing:
        raise ValueError(f"{config} says nothing of {' and '.join(missing)}. Begin with a recipe's: sd_dist_har.")
    others = {"superlink": superlink, "least": min_nodes, "patience": round_timeout}
    others = others | {"cpus": client_cpus, "gpus": client_gpus} if engine == "flower" else {}
    result = run(fields, output_dir, engine, **others)  # type: ignore[arg-type]
    metrics = MetricsFile(output_dir / "metrics.json", "federation", fields, kind="federation")
    where = f"table=main seed={fields.get('seed', 0)}"
    name = fields.get("method", "sd_dist")
    if not metrics.has(name, where):
        metrics.add(result.rows(name, where))
    card_path = write_card(metrics.path, output_dir)
    plain_console().print(federation_table(result.accuracies))
    say(str(result.weakest))
    say(f"Written: {card_path}")
