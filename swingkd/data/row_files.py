"""Files of rows: how they are read, by the endings of their names; what is here is asked for nowhere else."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

_KINDS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
#: The endings, for help texts and errors.
ENDINGS = ", ".join(_KINDS)
#: How names of files end that hold rows, the last of their endings.
READ = (*_KINDS, *_COMPRESSED)


class RowFile(NamedTuple):
    """How a file is read: its `ending`, the builder's `kind`, whether it is `compressed`, and `options`."""

    ending: str
    kind: str
    compressed: bool
    options: dict[str, Any]


def row_file(source: str | Path) -> RowFile | None:
    """Return how a file is read; `None` for a folder, and for a name that is no file's.

    Args:
        source: a path, or the name of a data set on the Hub.

    Raises:
        ValueError: there is such a file, and its ending is not known; or there is none, and it ends like one.
    """
    path = Path(source)
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    compressed = bool(endings) and endings[-1] in _COMPRESSED
    known = endings[:-1] if compressed else endings[-1:]
    if path.is_file() and endings[-1:] == [".zip"] and not set(known) & _KINDS.keys():
        known = _inside(path)
    ending = known[-1] if known else ""
    if path.is_file() and ending in _KINDS:
        return RowFile(ending, _KINDS[ending], compressed, {"sep": "\t"} if ending == ".tsv" else {})
    if path.is_file():
        raise ValueError(
            f"{source}: how to read it is not known. Files of rows end in {ENDINGS}; compressed ones in "
            f"{', '.join(_COMPRESSED)} after that."
        )
    if ending in _KINDS and not path.exists():
        raise ValueError(f"There is no file {source}.")
    return None


def _inside(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    endings = {Path(name).suffix.lower() for name in names}
    return list(endings) if len(endings) == 1 else []


def load_file(source: str | Path, found: RowFile) -> Any:
    """Load all rows of a file.

    Args:
        source: its path.
        found: how it is read.
    """
    from datasets import load_dataset

    # A path with brackets or stars is a name, no pattern.
    files = str(Path(source).resolve()).replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
    return load_dataset(found.kind, data_files=files, split="train", **found.options)
