"""The quickstart: a private teacher, an ordinary student and a protected one, and what each of them gives away.

It is recipes/swing_clm on a small bundled data set.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from rich.console import Console

from swingkd.experiments.language import language_experiment
from swingkd.report import MetricsFile, comparison_table


def main(output_dir: Path = Path("out/quickstart")) -> None:
    """Run it, and show the comparison."""
    config = yaml.safe_load((Path(__file__).parent / "config.yaml").read_text()) | {"output_dir": str(output_dir)}
    out = language_experiment(config).run()
    console = Console()
    console.print(comparison_table(MetricsFile(out / "metrics.json").read()))
    console.print(f"Figure: {out / 'exposure.png'}   Card: {out / 'README.md'}", highlight=False)


if __name__ == "__main__":
    main()
