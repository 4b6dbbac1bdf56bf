"""Files and folders that are either the old one or the new one, never half of either."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infimum.errors import UserError

__all__ = ["current", "dump", "read_json", "replacing", "write_json", "write_text"]


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: written beside it, flushed to the disk, renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync(path.parent)


def write_json(path: Path, value: object) -> None:
    """Replace a JSON file at once.  NaN and infinities are a `ValueError`: JSON has no such numbers."""
    write_text(path, _text(value))


def dump(path: Path, value: object) -> None:
    """Write a JSON file inside `replacing`, which flushes it with its folder."""
    path.write_text(_text(value), encoding="utf-8")


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        UserError: the file is missing, is not JSON, or is not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give a folder that infimum wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): restore it from the original") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, and a JSON object was expected")
    return value


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends without an exception.

    A folder cannot be renamed over another, so the old one steps aside first: at every instant `current(path)`
    finds one complete folder, whatever kills the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = path.with_name(f"{path.name}.tmp"), path.with_name(f"{path.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for file in temporary.iterdir():
        _sync(file)
    _sync(temporary)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)
    os.rename(temporary, path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def current(path: Path) -> Path | None:
    """The complete folder that `replacing(path)` left, or None if there has never been one."""
    old = path.with_name(f"{path.name}.old") if path.name else path  # "." and "/" have no name
    return next((folder for folder in (path, old) if folder.is_dir()), None)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _text(value: object) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")
