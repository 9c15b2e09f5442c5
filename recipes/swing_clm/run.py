"""Swing-distil a causal language model and measure what leaked.

accelerate launch recipes/swing_clm/run.py --config recipes/swing_clm/config.yaml
"""

from __future__ import annotations

from pathlib import Path

from swingkd.experiments.language import language_experiment
from swingkd.experiments.launch import launch


def main(config: dict, only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return language_experiment(config).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
