"""Distil with differential privacy, beside plain and protected students; audit all of them.

accelerate launch recipes/dp_clm/run.py --config recipes/dp_clm/config.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from launch import launch
from private import PrivateExperiment


def main(config: dict, only: list[str] | None = None) -> Path:
    experiment = PrivateExperiment(config)
    experiment.run(only)
    return experiment.out


if __name__ == "__main__":
    launch(main, __doc__)
