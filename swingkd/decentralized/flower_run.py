"""Start a federation on Flower: in simulation on this machine, or on a SuperLink whose nodes are elsewhere."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swingkd.decentralized import leash
from swingkd.decentralized.federation import Federation, FederationSettings
from swingkd.decentralized.result import FederationResult

#: Flower and Ray then talk to the federation's own nodes and to nobody else.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# Seconds between two looks at a run, and until a SuperLink must answer.
_LOOK, _START = 2.0, 60.0
_HERE = "here"


def write_app(folder: Path, config: Path, output_dir: Path, least: int, patience: float) -> Path:
    """Write the folder that `flwr run` wants: it names our server and client, and what they read.

    Args:
        folder: where it goes.
        config: the federation's configuration, as JSON or YAML.
        output_dir: where server and clients keep what they know.
        least: nodes that a round waits for.
        patience: seconds that a round waits for answers.

    Returns:
        The folder.
    """
    import tomli_w

    app = "swingkd.decentralized.flower_app"
    content = {
        "project": {"name": "federation", "version": "1.0.0", "license": "Apache-2.0", "dependencies": []},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "swingkd",
                    "components": {"serverapp": f"{app}:server_app", "clientapp": f"{app}:client_app"},
                    "config": {
                        "config": str(config.absolute()),
                        "output-dir": str(output_dir.absolute()),
                        "min-nodes": least,
                        "round-timeout": float(patience),
                    },
                }
            }
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(tomli_w.dumps(content))
    return folder


def run_on_flower(
    config: Path,
    output_dir: Path,
    *,
    superlink: str | None = None,
    least: int | None = None,
    patience: float = 600.0,
    cpus: int = 1,
    gpus: float = 0.0,
) -> FederationResult:
    """Run a federation on Flower, or what is left of it.

    Args:
        config: the configuration; every node reads it, or one of its own (see docs/federation.md).
        output_dir: where server and clients keep what they know.
        superlink: name of a connection in Flower's own configuration; `None`: a simulation on this machine, with a
            SuperLink of its own that ends with it.
        least: nodes that a round waits for; default: all clients in simulation, else two.
        patience: seconds that a round waits for answers.
        cpus, gpus: of each client in simulation; with half a GPU two learn at once on one.

    Raises:
        ImportError: Flower is not installed.
        RuntimeError: the run failed.
    """
    # What an earlier run left is no answer of this one.
    (output_dir / "result.json").unlink(missing_ok=True)
    try:
        import flwr  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise ImportError('engine="flower" needs Flower: pip install "swingkd[federated]".') from error
    clients = len(Federation(FederationSettings.read(config)).names) if superlink is None else 2
    app = write_app(output_dir / "flower" / "app", config, output_dir, least or clients, patience)
    environment = {**os.environ, **QUIET}
    # Flower starts its own commands by name.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    if superlink is not None:
        _submit(app, superlink, environment, [])
    else:
        with _simulation(output_dir / "flower", environment) as link:
            options = f"num-supernodes={clients} client-resources-num-cpus={cpus} client-resources-num-gpus={gpus}"
            _submit(app, link, environment, ["--federation-config", options])
    return FederationResult.load(output_dir / "result.json")


@contextmanager
def _simulation(home: Path, environment: dict[str, str]) -> Iterator[str]:
    """Start a SuperLink that simulates its nodes; the one that `flwr run` would start stays behind for ever."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment["FLWR_HOME"] = str(home.absolute())
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{_HERE}"\n\n[superlink.{_HERE}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    command = ["flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    # On a leash: it ends with this process, however that ends.
    command = [sys.executable, "-P", leash.__file__, *command]
    with (home / "superlink.log").open("a") as log:
        link = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait_for(link, port, home / "superlink.log")
            yield _HERE
        finally:
            assert link.stdin is not None
            link.stdin.close()
            link.wait()


def _wait_for(link: subprocess.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and link.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"Flower's SuperLink did not start. See {log}.")


def _submit(app: Path, superlink: str, environment: dict[str, str], options: list[str]) -> None:
    """Hand an app to a SuperLink and wait for its end: `flwr run` itself says success whatever becomes of it.

    Raises:
        RuntimeError: it was refused, or failed.
    """
    started = _flwr(["run", str(app), superlink, *options], environment)
    if not started.get("success", True) or "run-id" not in started:
        raise RuntimeError(f"Flower did not take the run: {started.get('error-message', started)}")
    run = str(started["run-id"])
    while True:
        entry = _flwr(["ls", superlink, "--run-id", run], environment).get("runs", [{}])[0]
        status = str(entry.get("status", ""))
        if status.startswith("finished"):
            break
        time.sleep(_LOOK)
    if status != "finished:completed":
        raise RuntimeError(f"The run ended as {status}. See what `flwr log {run} {superlink}` says.")


def _flwr(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Return what a command of Flower says, read from JSON."""
    done = subprocess.run(
        ["flwr", *arguments, "--format", "json"], env=environment, capture_output=True, text=True, check=False
    )
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise RuntimeError(f"`flwr {arguments[0]}` failed: {(done.stderr or done.stdout).strip()[-500:]}") from error
