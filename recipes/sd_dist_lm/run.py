"""Let speakers' language models learn from each other: SD-Dist beside its rivals and its controls.

python recipes/sd_dist_lm/run.py --config recipes/sd_dist_lm/config.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swingkd.experiments.federated_text import FederatedText
from swingkd.experiments.launch import launch


def main(config: dict[str, Any], only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return FederatedText(config).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
