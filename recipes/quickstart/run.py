"""The quickstart: a private teacher, an ordinary student and a protected one, and what each of them gives away.

It is recipes/swing_clm on a small bundled data set.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import yaml
from rich.console import Console

from swingkd.report import MetricsFile, comparison_table

HERE = Path(__file__).parent


def main(output_dir: Path = Path("out/quickstart")) -> None:
    recipe = runpy.run_path(str(HERE.parent / "swing_clm" / "run.py"))
    config = yaml.safe_load((HERE / "config.yaml").read_text()) | {"output_dir": str(output_dir)}
    out = recipe["main"](config)
    console = Console()
    console.print(comparison_table(MetricsFile(out / "metrics.json").read()))
    console.print(f"Figure: {out / 'exposure.png'}   Card: {out / 'README.md'}", highlight=False)


if __name__ == "__main__":
    main()
