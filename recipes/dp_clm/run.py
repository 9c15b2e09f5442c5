"""Distil with differential privacy, beside plain and protected students; audit all of them.

accelerate launch recipes/dp_clm/run.py --config recipes/dp_clm/config.yaml
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))
from private import PrivateExperiment


def main(config: dict, only: list[str] | None = None) -> Path:
    experiment = PrivateExperiment(config)
    experiment.run(only)
    return experiment.out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file, see config.yaml beside this script")
    parser.add_argument("--only", nargs="*", help="only rows of these models")
    options = parser.parse_args()
    main(yaml.safe_load(Path(options.config).read_text()), options.only)
