"""Wavefront OBJ and MTL files of every make: meshes, their colours, and the pictures that they name as textures."""

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import atomic_path, safe_name

_LARGEST_INDEX = 1 << 31  # of an OBJ's indices: what is beyond is no scan
_LONGEST_LINE = 4096  # letters of a material file's line that are looked at: no path is longer
_NO_COLOUR, _ROUNDING = (np.nan,) * 3, 1e-3
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_OPTION = re.compile(
    rf"-(?:(?P<place>[ost])(?P<numbers>(?:\s+{_NUMBER}(?=\s)){{1,3}})|mm(?:\s+\S+){{2}}"
    r"|(?:blendu|blendv|bm|boost|cc|clamp|imfchan|texres|type)\s+\S+)\s+",
    re.IGNORECASE,
)
"""What may stand between `map_Kd` and the picture's name."""


class Obj(NamedTuple):
    """vertices (V, 3), faces (F, 3), uv (F, 3, 2) or None, colours (V, 3) as they are written, NaN for a vertex without
    one, or None if no vertex has one; libraries: the text after each `mtllib`, one or more file names; polygons
    (F,): the polygon of the file that each face belongs to, counted from 0."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None
    colours: np.ndarray | None
    libraries: tuple[str, ...]
    polygons: np.ndarray


def read_obj(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 and triangles (F, 3) int64 of a Wavefront OBJ; see `parse_obj`."""
    return parse_obj(path)[:2]


def parse_obj(path: str | Path, content: bytes | None = None) -> Obj:
    """A Wavefront OBJ, in the file's order and unit, nothing merged.

    content: of the file, where it is read already; `path` then only names it. Reads `v` (with a colour after the
    position, where there is one), `vt`, `mtllib` and `f` with any number of corners (fans), with or without texture and
    normal indices, from 1 or negative; everything else is skipped. A file without vertices, or a line that is not
    numbers or names no vertex, is a UserError that names the line.
    """
    path, found = Path(path), _Found()
    try:
        file: BinaryIO = path.open("rb") if content is None else io.BytesIO(content)
        with io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                words = line.split(maxsplit=1)
                if not words or words[0] not in _KEYWORDS:
                    continue
                try:
                    _KEYWORDS[words[0]](found, words[1].strip())
                except (ValueError, IndexError) as error:
                    raise UserError(f"{path}, line {number}: not a vertex or face ({line.strip()[:60]})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return _checked(found, path)


@dataclass
class _Found:
    """The part of an OBJ that was read so far."""

    vertices: list[tuple[float, ...]] = field(default_factory=list)
    colours: list[tuple[float, ...]] = field(default_factory=list)
    places: list[tuple[float, float]] = field(default_factory=list)
    faces: list[tuple[int, int, int]] = field(default_factory=list)
    uv: list[tuple[int, int, int]] = field(default_factory=list)
    polygons: list[int] = field(default_factory=list)
    libraries: list[str] = field(default_factory=list)


def _read_vertex(found: _Found, text: str) -> None:
    numbers = text.split()
    x, y, z = map(float, numbers[:3])
    found.vertices.append((x, y, z))
    found.colours.append(tuple(map(float, numbers[3:6])) if len(numbers) >= 6 else _NO_COLOUR)


def _read_place(found: _Found, text: str) -> None:
    u, v = map(float, text.split()[:2])
    found.places.append((u, v))


def _read_polygon(found: _Found, text: str) -> None:
    corners = [word.split("/") for word in text.split()]
    points = [_index(corner[0], len(found.vertices)) for corner in corners]
    if len(points) < 3:
        raise ValueError("fewer than three corners")
    uv = [_index(corner[1], len(found.places)) if corner[1:] and corner[1] else -1 for corner in corners]
    number = found.polygons[-1] + 1 if found.polygons else 0
    for b, c in pairwise(range(1, len(points))):
        found.faces.append((points[0], points[b], points[c]))
        found.uv.append((uv[0], uv[b], uv[c]))
        found.polygons.append(number)


def _read_library(found: _Found, text: str) -> None:
    found.libraries.append(text)


_KEYWORDS = {"v": _read_vertex, "vt": _read_place, "f": _read_polygon, "mtllib": _read_library}


def _index(word: str, count: int) -> int:
    """An OBJ's index, from 1 or back from -1, as one from 0; what comes later in the file may still be named."""
    value = int(word)
    if value == 0 or value < -count or value > _LARGEST_INDEX:
        raise ValueError("counted from 1 or back from -1")
    return value - 1 if value > 0 else count + value


def _checked(found: _Found, path: Path) -> Obj:
    """The arrays of an OBJ, or a UserError for indices that point outside and numbers that are not finite."""
    points = np.array(found.vertices, np.float64).reshape(-1, 3)
    faces, index = (np.array(rows, np.int64).reshape(-1, 3) for rows in (found.faces, found.uv))
    if not len(points) or not np.isfinite(points).all():
        raise UserError(f"{path}: no vertices, or some that are not finite")
    if len(faces) and faces.max() >= len(points):
        raise UserError(f"{path}: a face names vertex {faces.max() + 1} of {len(points)}")
    if len(faces) and index.max() >= len(found.places):
        raise UserError(f"{path}: a face names texture coordinate {index.max() + 1} of {len(found.places)}")
    if not np.isfinite(np.array(found.places)).all():
        raise UserError(f"{path}: texture coordinates that are not finite")
    uv = np.array([*found.places, (np.nan, np.nan)])[index] if (index >= 0).any() else None
    coloured = any(colour is not _NO_COLOUR for colour in found.colours)
    colours = np.array(found.colours) if coloured else None
    return Obj(points, faces, uv, colours, tuple(found.libraries), np.array(found.polygons, np.int64))


def read_vertices(content: bytes, name: str) -> np.ndarray:
    """(V, 3) float64: the vertices alone of an OBJ's content, ten times as fast as `parse_obj` reads it all. What is no
    finite number is a UserError that starts with `name`."""
    lines = [line for line in content.split(b"\n") if line.startswith(b"v ")]
    try:
        points = np.loadtxt(lines, comments=None, usecols=(1, 2, 3), ndmin=2) if lines else np.zeros((0, 3))
    except ValueError as error:
        raise UserError(f"{name}: a vertex is not three numbers ({error})") from error
    if not np.isfinite(points).all():
        raise UserError(f"{name}: vertex {np.flatnonzero(~np.isfinite(points).all(1))[0] + 1} is not finite")
    return points


def lines_of(
    vertices: np.ndarray,
    faces: np.ndarray,
    colours: np.ndarray | None = None,
    uv: np.ndarray | None = None,
    head: Sequence[str] = (),
    material: Sequence[str] = (),
) -> Iterator[str]:
    """The lines of a Wavefront OBJ. vertices (V, 3), written to 1e-4; faces (F, 3), from 0; colours (V, 3) in [0, 1];
    uv (V, 2); head, material: lines at the beginning and before the faces."""
    rows = np.asarray(vertices, np.float64)
    rows = rows if colours is None else np.concatenate([rows, colours], 1)
    corner = "{0}" if uv is None else "{0}/{0}"
    yield from (f"{line}\n" for line in head)
    yield from ("v " + " ".join(f"{x:.4f}" for x in row) + "\n" for row in rows.tolist())
    yield from (f"vt {u:.6f} {v:.6f}\n" for u, v in np.asarray([] if uv is None else uv, np.float64).tolist())
    yield from (f"{line}\n" for line in material)
    for face in (np.asarray(faces) + 1).tolist():
        yield "f " + " ".join(corner.format(index) for index in face) + "\n"


def write_obj(path: str | Path, vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray | None = None) -> None:
    """A mesh as a Wavefront OBJ, atomically; see `lines_of`."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines_of(vertices, faces, colours))


def shades(colours: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Vertex colours as an OBJ has them -> (V, 3) in [0, 1], or None and what is wrong with them.

    Whole numbers up to 255, one of them above 1, are divided by 255; numbers in [0, 1] stay; all else is neither.
    """
    bare = np.isnan(colours).any(1)
    if bare.any():
        return None, f"only {(~bare).sum():,} of its {len(bare):,} vertices have a colour"
    low, high = colours.min(), colours.max()
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return colours.clip(0, 1), ""
    if low >= 0 and high <= 255 and (colours == colours.round()).all():
        return colours / 255, ""
    return None, f"its vertex colours ({low:g} to {high:g}) are neither in [0, 1] nor whole numbers up to 255"


def textures(path: Path, libraries: Iterable[str]) -> tuple[tuple[Path, ...], str]:
    """The pictures that an OBJ's material files name in map_Kd, and what is wrong with the first that cannot be used,
    "" where there is none such. Files are looked for in the OBJ's folder and below it, never outside."""
    found: list[Path] = []
    troubles: list[str] = []
    for text in libraries:
        whole = _inside(path.parent, text)
        names = {text: whole} if whole else {name: _inside(path.parent, name) for name in text.split()}
        for name, file in names.items():
            if file is None:
                troubles.append(f"its material file {name!r} is not in its folder")
            else:
                _read_material(path.parent, file, found, troubles)
    return tuple(dict.fromkeys(found)), (troubles or [""])[0]


def _read_material(folder: Path, library: Path, found: list[Path], troubles: list[str]) -> None:
    try:
        lines = library.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    except OSError as error:
        raise UserError(f"{library}: cannot be read ({error.strerror})") from error
    for line in lines:
        word, _, rest = line[:_LONGEST_LINE].strip().replace("\t", " ").partition(" ")
        if word.lower() != "map_kd" or not (rest := rest.strip()):
            continue
        file, moved = _inside(folder, rest, library.parent), False
        while file is None and (option := _OPTION.match(rest)):
            rest = rest[option.end() :]
            if option["place"]:
                moved |= any(float(value) != (option["place"] in "sS") for value in option["numbers"].split())
            file = _inside(folder, rest, library.parent)
        if file is None:
            troubles.append(f"its texture {rest!r} ({library.name}) is not in its folder")
        elif moved:
            troubles.append(f"{library.name} moves or scales the texture {rest!r} (-o, -s, -t), which is not followed")
        else:
            found.append(file)


def _inside(folder: Path, name: str, *others: Path) -> Path | None:
    """The file that a material's or an OBJ's line names: below the folder, or below `others` in it, or under its bare
    name in the folder; None if there is none, or only one outside."""
    parts = PurePosixPath(name.strip('"').replace("\\", "/")).parts
    if not parts:
        return None
    safe = [part == safe_name(part) for part in parts]
    places = [place.joinpath(*parts) for place in (*others, folder)] if all(safe) else []
    places += [folder / parts[-1]] if safe[-1] else []
    return next((place for place in places if os.path.isfile(place)), None)
