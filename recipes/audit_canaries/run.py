"""Put canaries of every kind into a teacher's text, and ask students of all protections for each.

accelerate launch recipes/audit_canaries/run.py --config recipes/audit_canaries/config.yaml
"""

from __future__ import annotations

from pathlib import Path

from swingkd.experiments.canary_kinds import canary_experiment
from swingkd.experiments.launch import launch


def main(config: dict, only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return canary_experiment(config).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
