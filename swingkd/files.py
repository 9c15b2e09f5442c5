"""Files that are written whole, so that a process that is killed leaves the old one or the new one; files of others,
that are read with their types checked; and where the recipes are."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import StringConstraints, TypeAdapter, ValidationError

T = TypeVar("T")
#: What the files of a checkpoint hold; written last, so a checkpoint without it is not whole.
SEAL_FILE = "seal.json"
#: Stands in a folder while it is written, until it is sealed.
UNFINISHED = "unfinished"
#: Where a run keeps its secrets: noise keys, canaries, what it averaged.
PRIVATE = "_private"
_DAY = 24 * 60 * 60
#: Text of somebody else that may be shown: one line, of no great length.
Line = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]


@contextmanager
def written_whole(path: str | os.PathLike, *, owner_only: bool = False) -> Iterator[Path]:
    """Yield the name to write to; the file takes its place when the block ends without an error.

    After an error, a full disk for one, the old file is still there and nothing of the new one.

    Args:
        path: the file.
        owner_only: nobody else may read it, not even while it is written.
    """
    path = Path(path)
    (private_folder if path.parent.name == PRIVATE else _folder)(path.parent)
    # Its ending stays: some libraries choose a format by it.  Two processes may write one file: the last one wins.
    _forget_dead(path.parent, rf"{re.escape(path.stem)}\.\d+\.part{re.escape(path.suffix)}")
    part = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        if owner_only or path.parent.name == PRIVATE:
            part.unlink(missing_ok=True)
            part.touch(0o600, exist_ok=False)
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: str | os.PathLike, *, owner_only: bool = False) -> Iterator[Path]:
    """Yield the folder to write into, which takes its place when the block ends without an error.

    Args:
        path: the folder, which must not be there yet.
        owner_only: nobody else may look into it.
    """
    path = Path(path)
    _forget_dead(path.parent, rf"{re.escape(path.name)}\.\d+\.part")
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(0o700 if owner_only else 0o755, parents=True)
    try:
        yield part
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _forget_dead(folder: Path, parts: str) -> None:
    """Remove what killed processes had begun to write: nobody has touched it, or anything in it, for a day."""
    for part in folder.iterdir() if folder.is_dir() else ():
        if re.fullmatch(parts, part.name) is None:
            continue
        # Another process may do the same; or it is somebody else's, who may not want it removed.
        with suppress(OSError):
            if time.time() - max(each.stat().st_mtime for each in (part, *part.rglob("*"))) > _DAY:
                shutil.rmtree(part) if part.is_dir() else part.unlink()


def keep_secret(path: str | os.PathLike, size: int = 16) -> None:
    """Draw a secret and write it as hexadecimal, for its owner only, unless one is there: the first process wins.

    Args:
        path: the file.
        size: bytes of the secret.
    """
    path = Path(path)
    private_folder(path.parent)
    if path.exists():
        return
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with open(part, "x", opener=_owner_only) as file:
        file.write(secrets.token_hex(size))
    with suppress(FileExistsError):
        os.link(part, path)  # whole or not at all
    part.unlink()


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write text whole, as UTF-8 whatever the locale."""
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def private_folder(path: str | os.PathLike) -> Path:
    """Return a folder that only its owner may look into, made if need be."""
    folder = _folder(Path(path))
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def alone_in(folder: str | os.PathLike) -> Iterator[None]:
    """Keep other runs out of an output folder while the block lasts; a run that was killed keeps nobody out.

    Raises:
        ValueError: another run is at work there.
    """
    lock = FileLock(_folder(Path(folder)) / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"Another run is writing into {folder}. Wait for it, or choose another output folder."
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_json(path: str | os.PathLike, content: Any, *, owner_only: bool = False) -> None:
    """Write JSON whole, indented so that versions of it can be compared."""
    with written_whole(path, owner_only=owner_only) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def digest_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: str | os.PathLike) -> None:
    """Write down what every file of a folder holds, so that one that is changed or lost later is seen.

    It shows an edit, not a forger, who could seal anew.
    """
    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (SEAL_FILE, UNFINISHED))
    write_json(folder / SEAL_FILE, {path.relative_to(folder).as_posix(): digest_of(path) for path in files})
    (folder / UNFINISHED).unlink(missing_ok=True)


def check_seal(folder: str | os.PathLike) -> None:
    """Refuse a folder of which a sealed file was changed or is gone; files that came later do no harm.

    Raises:
        ValueError: names the file; or the folder was never sealed.
    """
    folder = Path(folder)
    if not (folder / SEAL_FILE).exists():
        raise ValueError(
            f"{folder} has no {SEAL_FILE}, so nobody can tell whether it is whole. Resume from another checkpoint, or "
            "start afresh."
        )
    for name, digest in read_as(dict[str, str], (folder / SEAL_FILE).read_bytes(), str(folder / SEAL_FILE)).items():
        path = folder / name
        if not path.is_file() or digest_of(path) != digest:
            happened = "was changed after it was written" if path.is_file() else "is gone"
            raise ValueError(
                f"{name} of {folder} {happened}. What the run spent and how it was trained is not known any more: "
                "resume from another checkpoint, or start afresh."
            )


def read_as(schema: type[T], text: str | bytes, what: str) -> T:
    """Read JSON that may be anybody's: its types are checked, and nothing is taken for what it is not.

    Args:
        schema: a dataclass or another type with annotations.
        text: the JSON.
        what: what it is called in the error, such as its path.

    Raises:
        ValueError: it is no JSON, holds NaN or infinity, or does not fit; what it holds may be secret and is not told.
    """
    try:
        # pydantic would let these pass; JSON has no such numbers.
        content = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        return TypeAdapter(schema).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"]) or "as a whole"
        raise ValueError(f"{what} is damaged: {place}: {first['msg'][:1].lower()}{first['msg'][1:]}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{what} is no JSON.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is damaged: {error}.") from None


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError("a number in it is too large")
    return number


def recipes_dir() -> Path:
    """Return where the recipes are: inside an installed wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.exists() else Path(__file__).parents[1] / "recipes"
