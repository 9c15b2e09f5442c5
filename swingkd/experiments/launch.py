"""The command line that every recipe has, and the folders that configurations name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from swingkd.files import recipes_dir


def launch(main: Callable[..., Any], about: str | None) -> None:
    """Read the configuration that the command line names, and run a recipe with it."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file; there are some beside the script")
    parser.add_argument("--only", nargs="*", help="only rows with these names")
    options = parser.parse_args()
    main(yaml.safe_load(Path(options.config).read_text()), options.only)


def expand(spec: dict[str, Any]) -> dict[str, Any]:
    """Fill in the folders that a configuration names by environment variables."""
    os.environ.setdefault("SWINGKD_RECIPES", str(recipes_dir()))
    return {key: _expanded(value) for key, value in spec.items()}


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(each) for each in value]
    return os.path.expandvars(value) if isinstance(value, str) else value
