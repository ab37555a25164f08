"""The pictures of a folder, each once, and limits on their number: the same rules for all layouts."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from mlanet_lib.errors import UserError
from mlanet_lib.files.pictures import PICTURES


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, by path, hidden ones left out.

    Two pictures of one name (a.jpg and a.png, or a.JPG) would be one photo counted twice, with the same labels: a
    UserError that names both, as for a folder that cannot be listed.
    """
    found = listed(folder)
    once(found, str(folder))
    return found


def listed(folder: Path, deep: bool = False) -> list[Path]:
    """The same, without a look at their names; deep: those of the folders below it too."""
    try:
        found = sorted(folder.rglob("*") if deep else folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error
    found = [path for path in found if path.suffix.lower() in PICTURES and not path.is_dir()]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def once(names: Iterable[PurePath], where: str) -> None:
    """UserError if two of the pictures `names` differ in nothing but their endings; `where` begins its text."""
    first: dict[PurePath, PurePath] = {}
    for name in names:
        other = first.setdefault(name.with_suffix(""), name)
        if other is not name:
            raise UserError(f"{where}: {other.name} and {name.name} are one photo twice, or two of one name: keep one")


def first(items: Sequence, limit: int | None) -> Sequence:
    """The first `limit` items, all of them for None; a limit below 1 is a UserError."""
    if limit is not None and limit < 1:
        raise UserError(f"a limit is 1 or more, not {limit}")
    return items[:limit]
