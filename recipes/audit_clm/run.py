"""Train a teacher and its students with 1,000 canaries in or out by coin, and run every attack on all of them.

python recipes/audit_clm/run.py --config recipes/audit_clm/config.yaml
"""

from __future__ import annotations

from pathlib import Path

from swingkd.experiments.audit_worlds import AuditExperiment
from swingkd.experiments.launch import launch


def main(config: dict, only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return AuditExperiment(config).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
