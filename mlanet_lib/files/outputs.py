"""What `mlanet reconstruct` writes: file names are planned before anything is written, and mlanet knows its own files.

Every file carries a mark (`MARK`) that mlanet wrote it: OBJ, MTL, JSON, GLB and PNG near their beginning, MP4 and ZIP
at their end; a clip's table is known by its first line. So files can be moved, and files without the mark, also those
of older versions, are never replaced unless the user asks for it.
"""

import os
import re
import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import NOT_OURS, check_writable, followed, is_stream, safe_name

MARK = "written by mlanet"
TABLE_HEADER = "frame,time_s,face,score,pitch,yaw,roll,x_mm,y_mm,z_mm"
"""The first columns of a clip's table."""
_BEGINNING, _END = 1024, 64  # bytes in which the mark is looked for
_OF_A_PHOTO = re.compile(r"(.+)_(?:0|[1-9]\d*)(?:\.(?:glb|obj|mtl|png|json)|_texture\.png)")
_OF_A_CLIP = re.compile(r"(.+)(?:\.csv|\.json|_overlay\.mp4)")


def is_own(path: str | Path) -> bool:
    """Whether mlanet wrote a file, judged by its mark."""
    path = Path(path)
    try:
        if path.is_symlink() or not path.is_file():
            return False
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:  # marked, or a face model's fields
                fields = set(archive.namelist())
                return archive.comment == MARK.encode() or {"format.npy", "mean.npy", "faces.npy"} <= fields
        if path.suffix in (".onnx", ".pt2"):
            return MARK.encode() in path.read_bytes()
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING)
            file.seek(max(0, path.stat().st_size - _END))
            end = file.read()
    except (OSError, zipfile.BadZipFile):  # what cannot be read was not written here
        return False
    return MARK.encode() in beginning or MARK.encode() in end or beginning.startswith(TABLE_HEADER.encode())


def mark_zip(path: Path) -> None:
    """Put the mark that mlanet wrote it into a zip or an `.npz`, as the archive's comment."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = MARK.encode()


def may_replace(path: Path) -> bool:
    """Whether a file may be replaced without loss: mlanet wrote it, or it is an empty regular file."""
    empty = path.is_file() and not path.is_symlink() and not path.stat().st_size
    return empty or is_own(path)


@dataclass(frozen=True)
class Task:
    """One photo or clip. name: a safe name that its files begin with; clip: whether it is a clip."""

    source: Path
    name: str
    clip: bool = False

    def writes(self, file: str) -> bool:
        """Whether a file's name is one that this task may write (a photo's faces are not counted yet: any number)."""
        return (self.name, self.clip) in _writers(file)


def plan(photos: Iterable[Path], clips: Iterable[Path], out: Path, overwrite: bool = False) -> list[Task]:
    """The tasks in order, photos first, or a UserError that names the first file that would be lost.

    A task may write neither over an input, nor over a file in `out` that mlanet did not write (with `overwrite` it
    may), nor over another task's files. Nothing is written here.
    """
    found = [(path, False) for path in photos] + [(path, True) for path in clips]
    once = {os.path.realpath(path): (path, clip) for path, clip in reversed(found)}  # one file named twice is one task
    tasks = [Task(path, name_of(path), clip) for path, clip in reversed(once.values())]
    check_text(out)
    _check_clashes(tasks)
    inputs = {os.path.realpath(path) for task in tasks for path in _files_of(task.source)}
    known = {(task.name, task.clip): task for task in tasks}
    for path in sorted(out.iterdir()) if out.is_dir() else ():
        if (writer := next((known[key] for key in _writers(path.name) if key in known), None)) is None:
            continue
        if os.path.realpath(path) in inputs:
            raise UserError(f"{path} is an input, and {writer.source} would be written over it: name another --out")
        if not overwrite and not may_replace(path):
            raise UserError(f"{path} {NOT_OURS}")
    return tasks


def _writers(file: str) -> list[tuple[str, bool]]:
    """The name and kind (True: a clip) of every task that may write a file of this name."""
    matches = [(_OF_A_PHOTO.fullmatch(file), False), (_OF_A_CLIP.fullmatch(file), True)]
    return [(match[1], clip) for match, clip in matches if match]


def name_of(path: Path) -> str:
    """The name that a photo's or clip's files begin with: its stem (for a folder its name), made safe as a file
    name."""
    return safe_name(os.path.basename(os.path.realpath(path)) if os.path.isdir(path) else path.stem)


def others_in(folder: Path) -> list[Path]:
    """The pictures of a folder (`pictures_in`) but for those that mlanet wrote, which are counted on stderr."""
    from mlanet_lib.files.pictures import pictures_in  # NumPy and Pillow: seconds that `mlanet --help` need not wait

    found = pictures_in(folder)
    others = [path for path in found if not is_own(path)]
    if not others:
        raise UserError(f"{folder} holds no pictures but those that mlanet wrote")
    if own := len(found) - len(others):
        print(f"note: {folder}: {own} pictures that mlanet wrote are left out", file=sys.stderr)
    return others


def check_target(path: Path, inputs: Iterable[Path] = ()) -> None:
    """UserError unless the file `path` can be written, and nothing of the user's is lost by it. Writes nothing.

    It must be none of the inputs, nor a file inside one that is a folder; and if it is there, empty or mlanet's own.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    if is_stream(path):
        if not os.access(path, os.W_OK):
            raise UserError(f"cannot write {path}: permission denied")
        return
    target = followed(path).resolve()
    check_writable(target.parent)
    for given in inputs:
        if path.exists() and (target == given.resolve() or (given.is_dir() and given.resolve() in target.parents)):
            raise UserError(f"{path} is an input ({given}): name another file to write")
    if target.exists() and not may_replace(target):
        raise UserError(f"{path} is there already, and mlanet did not write it: name another file, or remove it")


def _files_of(source: Path) -> Sequence[Path]:
    return [source, *source.iterdir()] if os.path.isdir(source) else [source]


def check_text(path: Path) -> None:
    """UserError for a path that is not UTF-8, since the records that name it are."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: the name is not UTF-8, which the files about it are: rename it") from error


def _check_clashes(tasks: Sequence[Task]) -> None:
    names: dict[tuple[str, bool], Task] = {}
    for task in tasks:
        if (other := names.setdefault((task.name, task.clip), task)) is not task:
            example = f"{task.name}{'.csv' if task.clip else '_0.glb'}"
            raise UserError(f"{other.source} and {task.source} would write the same files ({example}): rename one")
    for clip in (task for task in tasks if task.clip):
        stem = re.sub(r"_\d+$", "", clip.name)
        photo = names.get((stem, False))
        if photo is not None and photo.writes(f"{clip.name}.json"):
            raise UserError(
                f"{photo.source} and {clip.source} would write the same file ({clip.name}.json): rename one"
            )
