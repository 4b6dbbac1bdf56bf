"""One door for the user's own files."""

from pathlib import Path

from infimum.errors import UserError

from .arrays import read_npy, read_npz
from .folders import read_folder
from .raw import Raw
from .tables import read_csv, read_parquet

__all__ = ["read"]

_READERS = {".npy": read_npy, ".csv": read_csv, ".parquet": read_parquet}


def read(path: str | Path, *, id: str | None = None, labels: str | None = None) -> Raw:
    """Raw values of a ``.npy``, ``.npz``, ``.csv`` or ``.parquet`` file, or of a folder of images.

    Args:
        path: of the file or folder; ``file.npz:key`` chooses an array of an archive.
        id: column (of an archive: array) that holds a distinct id for each item; without it, ids are row numbers.
            A folder of images takes "name": the file names.
        labels: column (of an archive: array) that holds labels, which are kept apart from the data.

    Raises:
        UserError: the file is missing, empty, damaged or of another type, or a value in it cannot be data; the message
            names row and column, counted from 0.
    """
    title, key = str(path), None
    file = Path(path)
    if not file.exists() and ".npz:" in title.lower():
        at = title.lower().rindex(".npz:") + 4
        file, key = Path(title[:at]), title[at + 1 :]
    try:
        if not file.exists():
            raise UserError(f"{file}: there is no such file or folder: check the path")
        if file.is_dir():
            return read_folder(file, title, id_column=id, labels=labels)
        suffix = file.suffix.lower()
        if suffix not in (*_READERS, ".npz"):
            raise UserError(
                f"{title}: the name ends in {suffix!r}, expected .npy, .npz, .csv, .parquet or a folder of images: "
                "convert or rename it"
            )
        if file.stat().st_size == 0:
            raise UserError(f"{title}: the file is empty: write it again")
        if suffix == ".npz":
            return read_npz(file, title, key, id_column=id, labels=labels)
        return _READERS[suffix](file, title, id_column=id, labels=labels)
    except OSError as error:
        raise UserError(f"{title}: cannot be read ({error.strerror}): check path and permissions") from None
