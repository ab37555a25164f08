"""Wavefront OBJ and MTL files of every make: meshes, their colours, and the pictures that they name as textures."""

import os
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

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
    one, or None where no vertex has one; libraries: what stands behind each `mtllib`, a file's name or several."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None
    colours: np.ndarray | None
    libraries: tuple[str, ...]


def read_obj(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 and triangles (F, 3) int64 of a Wavefront OBJ; see `parse_obj`."""
    return parse_obj(path)[:2]


def parse_obj(path: str | Path) -> Obj:
    """A Wavefront OBJ, in the file's order and unit, nothing merged.

    Reads `v` (with a colour after the position, where there is one), `vt`, `mtllib` and `f` with any number of corners
    (fans), with or without texture and normal indices, from 1 or negative; everything else is skipped. A file without
    vertices, or a line that is not numbers or names no vertex, is a UserError that names the line.
    """
    path = Path(path)
    vertices, colours, places, faces, corners_uv, libraries = [], [], [], [], [], []
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                words = line.split()
                if not words or words[0] not in ("v", "vt", "f", "mtllib"):
                    continue
                try:
                    if words[0] == "v":
                        x, y, z = map(float, words[1:4])
                        vertices.append((x, y, z))
                        colours.append(tuple(map(float, words[4:7])) if len(words) >= 7 else _NO_COLOUR)
                    elif words[0] == "vt":
                        places.append((float(words[1]), float(words[2])))
                    elif words[0] == "f":
                        corners = [word.split("/") for word in words[1:]]
                        points = [_index(corner[0], len(vertices)) for corner in corners]
                        if len(points) < 3:
                            raise ValueError("fewer than three corners")
                        uv = [_index(c[1], len(places)) if len(c) > 1 and c[1] else -1 for c in corners]
                        for b, c in pairwise(range(1, len(points))):
                            faces.append((points[0], points[b], points[c]))
                            corners_uv.append((uv[0], uv[b], uv[c]))
                    else:
                        libraries.append(line.split(maxsplit=1)[1].strip())
                except (ValueError, IndexError) as error:
                    raise UserError(f"{path}, line {number}: not a vertex or face ({line.strip()[:60]})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    points, triangles = np.array(vertices, np.float64).reshape(-1, 3), np.array(faces, np.int64).reshape(-1, 3)
    if not len(points) or not np.isfinite(points).all():
        raise UserError(f"{path}: no vertices, or some that are not finite")
    if len(triangles) and triangles.max() >= len(points):
        raise UserError(f"{path}: a face names vertex {triangles.max() + 1} of {len(points)}")
    index = np.array(corners_uv, np.int64).reshape(-1, 3)
    if len(index) and index.max() >= len(places):
        raise UserError(f"{path}: a face names texture coordinate {index.max() + 1} of {len(places)}")
    if not np.isfinite(np.array(places)).all():
        raise UserError(f"{path}: texture coordinates that are not finite")
    uv = np.array([*places, (np.nan, np.nan)])[index] if len(index) and (index >= 0).any() else None
    coloured = any(colour is not _NO_COLOUR for colour in colours)
    return Obj(points, triangles, uv, np.array(colours) if coloured else None, tuple(libraries))


def _index(word: str, count: int) -> int:
    """An OBJ's index, from 1 or back from -1, as one from 0; what comes later in the file may still be named."""
    value = int(word)
    if value == 0 or value < -count or value > _LARGEST_INDEX:
        raise ValueError("counted from 1 or back from -1")
    return value - 1 if value > 0 else count + value


def write_obj(path: str | Path, vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray | None = None) -> None:
    """Vertices (V, 3), to 1e-4, colours (V, 3) in [0, 1] or None, and triangles (F, 3) as a Wavefront OBJ; atomic."""
    rows = (
        np.asarray(vertices, np.float64)
        if colours is None
        else np.concatenate([vertices, colours], 1).astype(np.float64)
    )
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines("v " + " ".join(f"{x:.4f}" for x in row) + "\n" for row in rows.tolist())
        file.writelines(f"f {a} {b} {c}\n" for a, b, c in (np.asarray(faces) + 1).tolist())


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
    found, troubles = [], []
    for text in libraries:
        whole = _inside(path.parent, text)
        names = {text: whole} if whole else {name: _inside(path.parent, name) for name in text.split()}
        for name, file in names.items():
            if file is None:
                troubles.append(f"its material file {name!r} is not in its folder")
            else:
                _read_library(path.parent, file, found, troubles)
    return tuple(dict.fromkeys(found)), (troubles or [""])[0]


def _read_library(folder: Path, library: Path, found: list[Path], troubles: list[str]) -> None:
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
    name in the folder; None where there is none, or only one outside."""
    parts = PurePosixPath(name.strip('"').replace("\\", "/")).parts
    if not parts:
        return None
    safe = [part == safe_name(part) for part in parts]
    places = [place.joinpath(*parts) for place in (*others, folder)] if all(safe) else []
    places += [folder / parts[-1]] if safe[-1] else []
    return next((place for place in places if os.path.isfile(place)), None)
