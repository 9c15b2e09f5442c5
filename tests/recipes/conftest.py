"""How tests get at a recipe: by its file, from wherever they are."""

import runpy
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parents[2] / "recipes"


def script(name: str) -> dict[str, Any]:
    """Return what a recipe's run.py defines."""
    return runpy.run_path(str(RECIPES / name / "run.py"))
