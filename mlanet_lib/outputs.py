"""What `mlanet reconstruct` writes: names that are planned before anything is written, and own files told from others.

Every file says itself that mlanet wrote it (`MARK`): OBJ, MTL, JSON, GLB and PNG near their beginning, MP4 at its end;
a clip's table is known by its first line. So files can be moved, and those of somebody else, or of an unmarked older
version, are never replaced unasked and never taken for mlanet's.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlanet_lib.errors import UserError
from mlanet_lib.files import NOT_OURS, safe_name

MARK = "written by mlanet"
TABLE_HEADER = "frame,time_s,face,score,pitch,yaw,roll,x_mm,y_mm,z_mm"
"""The first columns of a clip's table."""
_BEGINNING, _END = 1024, 64  # bytes in which the mark is looked for
_OF_A_PHOTO = r"_(0|[1-9]\d{0,2})(\.(glb|obj|mtl|png|json)|_texture\.png)"
_OF_A_CLIP = r"\.csv|\.json|_overlay\.mp4"


def is_own(path: str | Path) -> bool:
    """Whether a file is one that mlanet wrote, by what it says of itself."""
    path = Path(path)
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
        file.seek(max(0, path.stat().st_size - _END))
        end = file.read()
    return MARK.encode() in beginning or MARK.encode() in end or beginning.startswith(TABLE_HEADER.encode())


@dataclass(frozen=True)
class Task:
    """One photo or clip. name: what its files are called after, a safe one; clip: whether it is one."""

    source: Path
    name: str
    clip: bool = False

    def writes(self, file: str) -> bool:
        """Whether a file's name is one that this task may write (a photo's faces are not counted yet: any of 1,000)."""
        return bool(re.fullmatch(re.escape(self.name) + f"(?:{_OF_A_CLIP if self.clip else _OF_A_PHOTO})", file))


def plan(photos: Iterable[Path], clips: Iterable[Path], out: Path, overwrite: bool = False) -> list[Task]:
    """The tasks in order, photos first, or a UserError that names the first file that would be lost.

    A task may write neither over an input, nor over a file in `out` that mlanet did not write (with `overwrite` it
    may), nor over another task's files. Nothing is written here.
    """
    tasks = [Task(path, name_of(path)) for path in photos] + [Task(path, name_of(path), True) for path in clips]
    check_text(out)
    _check_clashes(tasks)
    inputs = {path.resolve() for task in tasks for path in _files_of(task.source)}
    for path in sorted(out.iterdir()) if out.is_dir() else ():
        if (writer := next((task for task in tasks if task.writes(path.name)), None)) is None:
            continue
        if path.resolve() in inputs:
            raise UserError(f"{path} is an input, and {writer.source} would be written over it: name another --out")
        if not overwrite and not is_own(path):
            raise UserError(f"{path} {NOT_OURS}")
    return tasks


def name_of(path: Path) -> str:
    """What a photo's or clip's files are called after: the stem, of a folder its name, as a safe name of a file."""
    return safe_name(path.resolve().name if path.is_dir() else path.stem)


def _files_of(source: Path) -> Sequence[Path]:
    return [source, *source.iterdir()] if source.is_dir() else [source]


def check_text(path: Path) -> None:
    """UserError for a path that is not UTF-8, as what is written about it is."""
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
