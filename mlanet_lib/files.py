"""Files written whole or not at all, through a crash, a kill or a full disk; and names from outside as file names."""

import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from mlanet_lib.errors import UserError

_HOST = socket.gethostname()
_RUN = secrets.token_hex(4)  # tells this process from an earlier one with the same number
_PART = re.compile(rf"\..+\.{re.escape(_HOST)}\.(?P<pid>\d{{1,9}})\.(?P<run>[0-9a-f]{{8}})[0-9a-f]{{8}}\.part")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path (same suffix, same disk); it takes the place of `path` only if the block succeeds.

    The folder is made. The data reach the disk before the name does, with the permissions of any new file. An
    `OSError` (read-only folder, full disk) becomes a `UserError`; whatever the failure, what was written is removed
    and an older `path` stays as it was. What a killed process could not remove, the next one that writes into the same
    folder does.
    """
    path = Path(path)
    # a folder of its own, since a library may write through a temporary file that it names itself (safetensors does)
    scratch = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.{_RUN}{secrets.token_hex(4)}.part")
    temporary = scratch / f".{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent.resolve())
        scratch.mkdir()
        yield temporary
        temporary.chmod(scratch.stat().st_mode & 0o666)  # the same library keeps what it writes from other users
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@cache
def _sweep(folder: Path) -> None:
    """Remove what processes of this machine that are no more left in the folder; once a folder and process."""
    here = os.getpid()
    for found in folder.iterdir():
        if not (name := _PART.fullmatch(found.name)):
            continue
        pid, run = int(name["pid"]), name["run"]
        if run != _RUN if pid == here else not _alive(pid):
            shutil.rmtree(found, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff/\\:*?"<>|]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows, whatever the folder
LONGEST_NAME = 200  # bytes; file systems allow 255, and names get endings


def safe_name(name: str) -> str:
    """`name` as the name of a file in any folder on any system: what could lead out of the folder, name a device, break
    a line or is not UTF-8 becomes "_". A name that is safe is returned as it is."""
    safe = _UNSAFE.sub("_", name)
    safe = f"_{safe}" if not safe.strip(". ") or _DEVICE.fullmatch(safe) else safe
    while len(safe.encode()) > LONGEST_NAME:
        safe = safe[:-1]
    return safe


def check_name(name: str, what: str) -> str:
    """`name`, which comes from outside and becomes part of a path; UserError unless it is its own `safe_name`."""
    if name != safe_name(name):
        raise UserError(
            f"{what} {name!r} cannot be a file's name: no path, no device, no control character, not longer"
        )
    return name
