"""A small file that records the data of a study. The pipeline depends on it, not on copies of licensed data.

`mlanet data check` writes it if the data are sound; `verify` detects that the folders have changed since.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from tqdm.auto import tqdm

from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import atomic_path

NO_PHOTOS = Path("profiles/no_photos.json")
"""The manifest of a study without photos: tracked by git, and never written."""
_AGAIN = "run mlanet data check"


def write(path: str | Path, folders: Mapping[str, str | Path], progress: bool = True) -> dict[str, dict]:
    """Write the manifest of `folders` (name -> folder) as JSON, and return it.

    {name: {"path", "files", "bytes", "sha256"}}, the hash over the names and contents of all files. A file or a folder
    that cannot be read is a UserError.
    """
    record = {}
    for name, folder in folders.items():
        digest, files = hashlib.sha256(), _files(folder)
        for file in tqdm(files, desc=f"hashing {name}", unit="file", disable=not progress, leave=False):
            try:
                with file.open("rb") as opened:
                    content = hashlib.file_digest(opened, "sha256").hexdigest()
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
            digest.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
        record[name] = {"path": str(folder), **_counts(files), "sha256": digest.hexdigest()}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def verify(path: str | Path, folders: Mapping[str, str | Path]) -> None:
    """UserError unless the manifest at `path` lists just these folders, with as many files and bytes as are there.

    Contents are not read again; only `mlanet data check` finds a file that changed but kept its size.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        listed = {name: (entry["path"], entry["files"], entry["bytes"]) for name, entry in record.items()}
    except FileNotFoundError as error:
        raise UserError(f"{path} is not here yet: put the data into place and {_AGAIN}") from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is no manifest ({error}): {_AGAIN}") from error
    if wrong := sorted(listed.keys() ^ folders.keys()):
        names = ", ".join(sorted(listed)) or "nothing"
        raise UserError(f"{path} lists {names}, and params.yaml names {wrong[0]}: {_AGAIN}")
    for name, folder in sorted(folders.items()):
        found = _counts(_files(folder))
        if (str(folder), *found.values()) != listed[name]:
            now = f"{found['files']:,} files, {found['bytes']:,} bytes"
            raise UserError(f"{folder} is no longer what {path} says ({now}): {_AGAIN}")


def _files(folder: str | Path) -> list[Path]:
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder")

    def refuse(error: OSError) -> None:  # Path.rglob passes over what it may not read
        raise UserError(f"{error.filename}: cannot be read ({error.strerror or error})") from error

    found = sorted(Path(place) / name for place, _, names in os.walk(folder, onerror=refuse) for name in names)
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def _counts(files: list[Path]) -> dict[str, int]:
    return {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}
