"""Distil a real pretrained model that learnt clinical dialogues; measure its quality against every leak.

accelerate launch recipes/smollm2_clinical/run.py --config recipes/smollm2_clinical/config.yaml
"""

from __future__ import annotations

from pathlib import Path

from swingkd.experiments.clinical import clinical_experiment
from swingkd.experiments.launch import launch


def main(config: dict, only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return clinical_experiment(config).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
