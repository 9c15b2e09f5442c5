"""Let speakers' models learn from each other which character comes next: SD-Dist beside its rivals and its controls.

python recipes/sd_dist_text/run.py --config recipes/sd_dist_text/config.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swingkd.experiments.federations import FederationExperiment
from swingkd.experiments.launch import launch


def main(config: dict[str, Any], only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return FederationExperiment(config).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
