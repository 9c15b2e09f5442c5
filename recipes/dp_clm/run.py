"""Distil with differential privacy, beside plain and protected students; audit all of them.

accelerate launch recipes/dp_clm/run.py --config recipes/dp_clm/config.yaml
"""

from __future__ import annotations

from pathlib import Path

from swingkd.experiments.launch import launch
from swingkd.experiments.private_language import private_experiment


def main(config: dict, only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return private_experiment(config).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
