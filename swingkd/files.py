"""Files that are written whole: a process that is killed leaves the old file or the new one, never half of one; and
where the recipes are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: str | os.PathLike, *, owner_only: bool = False) -> Iterator[Path]:
    """Yield the name to write to; the file takes its place when the block ends without an error.

    Args:
        path: the file.
        owner_only: nobody else may read it, not even while it is written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    if owner_only:
        part.unlink(missing_ok=True)
        part.touch(0o600, exist_ok=False)
    yield part
    part.replace(path)


def write_json(path: str | os.PathLike, content: Any, *, owner_only: bool = False) -> None:
    """Write JSON whole, indented so that versions of it can be compared."""
    with written_whole(path, owner_only=owner_only) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


def recipes_dir() -> Path:
    """Return where the recipes are: inside an installed wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.exists() else Path(__file__).parents[1] / "recipes"
