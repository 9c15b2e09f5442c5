"""The command line that every recipe has."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def launch(main: Callable[..., Any], about: str | None) -> None:
    """Read the configuration that the command line names, and run a recipe with it."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file; there are some beside the script")
    parser.add_argument("--only", nargs="*", help="only rows with these names")
    options = parser.parse_args()
    main(yaml.safe_load(Path(options.config).read_text()), options.only)
