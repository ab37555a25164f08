"""Files written whole or not at all, through a crash, a kill or a full disk; and names from outside as file names."""

import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

from mlanet_lib.errors import UserError

_HOST = socket.gethostname()
_RUN = secrets.token_hex(4)  # tells this process from an earlier one with the same number
_PART = re.compile(rf"\..+\.{re.escape(_HOST)}\.(?P<pid>\d{{1,9}})\.(?P<run>[0-9a-f]{{8}})[0-9a-f]{{8}}\.part")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path (same suffix, same disk); it takes the place of `path` only if the block succeeds.

    The folder is made. The data reach the disk before the name does, with the permissions of any new file. A link
    stays, and what it leads to is replaced; a device or a FIFO is written through. An `OSError` (read-only folder, full
    disk) becomes a `UserError`; whatever the failure, what was written is removed and an older `path` stays as it was.
    What a killed process could not remove, the next one that writes into the same folder does.
    """
    path = Path(path)
    try:
        if is_stream(path):
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / _short(path)
                yield temporary
                with temporary.open("rb") as written, _open_stream(path) as through:
                    shutil.copyfileobj(written, through)
            return
        target = followed(path)
        with _scratch(target.parent, _short(path)) as scratch:
            temporary = scratch / _short(path)
            yield temporary
            _settle(temporary, scratch)
            temporary.replace(target)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def together(folder: str | Path, may_replace: Callable[[Path], bool] = lambda path: True) -> Iterator[Path]:
    """Yield an empty folder inside `folder`; its files move to `folder` only when the block succeeds, else none does.

    may_replace: whether a file of the same name may be replaced. If not, or if it is no regular file, no file moves and
    a UserError names it. Each name changes from the old file to the new one at once, the JSON's last. `OSError`
    (read-only or full disk) becomes a `UserError`; the rest as `atomic_path` has it.
    """
    folder = Path(folder)
    try:
        with _scratch(folder, "files") as scratch:
            yield scratch
            names = sorted((path.suffix == ".json", path.name) for path in scratch.iterdir())
            goals = [folder / name for _, name in names]
            for goal in goals:
                if goal.is_symlink() or (goal.exists() and not (goal.is_file() and may_replace(goal))):
                    raise UserError(f"{goal} {NOT_OURS}")
                _settle(scratch / goal.name, scratch)
            _place(scratch, goals)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error


def _place(scratch: Path, goals: list[Path]) -> None:
    """Move files of the folder `scratch` to `goals`; where one cannot be moved, all old ones are put back."""
    old, moved = scratch / ".old", []
    old.mkdir()
    for goal in goals:
        if goal.exists():
            try:
                os.link(goal, old / goal.name)
            except OSError:  # a file system without hard links
                shutil.copy2(goal, old / goal.name)
    try:
        for goal in goals:
            (scratch / goal.name).replace(goal)
            moved.append(goal)
    except OSError:
        for goal in moved:
            if (old / goal.name).exists():
                (old / goal.name).replace(goal)
            else:
                goal.unlink()
        raise


NOT_OURS = "is there already, and mlanet did not write it: name another --out, or say --overwrite"


def check_writable(folder: Path) -> None:
    """UserError unless files can be made in `folder`, or the folder itself in its nearest parent. Writes nothing."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"cannot write into {folder}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write into {folder}: {existing} is read-only")


def is_stream(path: Path) -> bool:
    """Whether `path` can only be written through: a device, a FIFO, or a file descriptor of this process."""
    return path.exists() and not path.is_dir() and (not path.is_file() or _descriptor(path) is not None)


def _descriptor(path: Path) -> int | None:
    """The number of the file descriptor that a path such as /dev/stdout names."""
    name = os.path.abspath(path)
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", name)
    return int(found[1]) if found else {"/dev/stdout": 1, "/dev/stderr": 2}.get(name)


def _open_stream(path: Path) -> BinaryIO:
    number = _descriptor(path)  # opened by its name, a file behind it would be emptied
    return path.open("wb") if number is None else os.fdopen(os.dup(number), "wb")


def followed(path: Path) -> Path:
    """The target of a link; any other path unchanged."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise UserError(f"cannot write {path}: a link that leads in a circle")
    return target


def _short(path: Path) -> str:
    """A hidden name with the suffix of `path`, which leaves room for what is put around it."""
    return f".{path.stem[:40]}{path.suffix[:20]}"


@contextmanager
def _scratch(folder: Path, name: str) -> Iterator[Path]:
    """A new hidden folder inside `folder`, which is made where it is missing; removed at the end.

    A folder of its own, since a library may write through a temporary file that it names itself (safetensors does).
    """
    scratch = folder / f".{name.strip('.')}.{_HOST}.{os.getpid()}.{_RUN}{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder.resolve())
        scratch.mkdir()
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _settle(path: Path, scratch: Path) -> None:
    """Give a written file the permissions of any new one, and wait until the disk has it."""
    path.chmod(scratch.stat().st_mode & 0o666)  # safetensors keeps what it writes from other users
    with path.open("rb") as written:
        os.fsync(written.fileno())


@cache
def _sweep(folder: Path) -> None:
    """Delete the scratch folders of dead processes of this machine; once a folder and process."""
    for found in folder.iterdir():
        if name := _PART.fullmatch(found.name):
            pid = int(name["pid"])
            dead = name["run"] != _RUN if pid == os.getpid() else not _alive(pid)
            if dead:
                shutil.rmtree(found, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process
        pass
    return True


_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff/\\:*?"<>|]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows, whatever the folder
LONGEST_NAME = 200  # bytes; file systems allow 255, and names get endings


def safe_name(name: str) -> str:
    """`name` as the name of a file in any folder on any system: what could lead out of the folder, name a device, break
    a line or is not UTF-8 becomes "_". A name that is safe is returned as it is."""
    safe = _UNSAFE.sub("_", name)
    safe = f"_{safe}" if not safe.strip(". ") or _DEVICE.fullmatch(safe) else safe
    return safe.encode()[:LONGEST_NAME].decode(errors="ignore")  # no half of a character at the end


def check_name(name: str, what: str) -> str:
    """`name`, which comes from outside and becomes part of a path; UserError unless it is its own `safe_name`."""
    if name != safe_name(name):
        raise UserError(
            f"{what} {name!r} cannot be a file's name: no path, no device, no control character, not longer"
        )
    return name
