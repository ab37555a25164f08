"""ICT-FaceKit's light face model (Li et al. 2020, Learning Formation of Physically-Based Face Attributes; MIT licence).

Source: the folder FaceXModel of github.com/ICT-VGL/ICT-FaceKit, whose README gives the vertex ranges and the points
below: `generic_neutral_mesh.obj`, `identity000.obj` ... `identity099.obj`, an OBJ an expression, each 26,719 vertices
in cm, x to the subject's left, y up, z out, and `vertex_indices.json`. A mode is its OBJ minus the neutral one;
identity modes are in standard deviations. It has no albedo.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.face_model.points import N_LANDMARKS
from mlanet_lib.files import archive
from mlanet_lib.files.obj import Obj, parse_obj, read_vertices
from mlanet_lib.geometry.mesh import face_normals

NEUTRAL, INDICES = "generic_neutral_mesh", "vertex_indices.json"
IDENTITIES = [f"identity{k:03d}" for k in range(100)]
MM = 10.0  # in the files' unit
VERTICES, FACE = 26719, 9409
"""Of the published mesh, and of its first part, the face."""


@dataclass(frozen=True, eq=False)
class Published:
    """What a FaceXModel folder or archive holds: points, name of the OBJ -> (26719,3) in cm; neutral, the neutral OBJ's
    bytes; indices, `vertex_indices.json`; digests, file name -> sha256."""

    source: Path
    points: dict[str, np.ndarray]
    neutral: bytes
    indices: dict
    digests: dict[str, str]

    def missing(self) -> list[str]:
        """Names of the files that a conversion needs and that are not there."""
        needed = [NEUTRAL, *IDENTITIES, *self.indices.get("expressions", [])]
        return [INDICES] * (not self.indices) + [f"{name}.obj" for name in needed if name not in self.points]

    def changed(self) -> list[str]:
        """Names of the files that are not the published ones, byte for byte."""
        return sorted(name for name, digest in self.digests.items() if digest != hashes()[name])


@cache
def hashes() -> dict[str, str]:
    """File name in FaceXModel -> sha256, of the published files (see `mlanet_lib.face_sources.ict.fetch`)."""
    lines = (files(__package__) / "facekit.sha256").read_text().splitlines()
    return {name: digest for digest, name in map(str.split, lines)}


def read(source: str | Path) -> Published:
    """Read a FaceXModel folder (or the folder around it), or an archive (.tar.xz, .tar.gz, .tar, .zip), in memory.

    What is missing is left out (`Published.missing`). A damaged archive or file is a UserError that names it.
    """
    source = Path(source)
    folder = source / "FaceXModel"
    points: dict[str, np.ndarray] = {}
    digests: dict[str, str] = {}
    neutral, indices = b"", {}
    for name, content in archive.members(folder if folder.is_dir() else source, hashes()):
        digests[name] = hashlib.sha256(content).hexdigest()
        if name == INDICES:
            indices = _read_indices(content, f"{source}: {name}")
        elif name.endswith(".obj"):
            points[name[:-4]] = read_vertices(content, f"{source}: {name}")
            if (count := len(points[name[:-4]])) != VERTICES:
                raise UserError(f"{source}: {name}: {count:,} vertices instead of {VERTICES:,}")
        if name == f"{NEUTRAL}.obj":
            neutral = content
    return Published(source, points, neutral, indices, digests)


def identify(path: str | Path) -> str | None:
    """One line that says what an ICT-FaceKit folder or archive holds or lacks; None if it is nothing of ICT's."""
    try:
        found = read(path)
    except UserError as error:
        ours = "FaceXModel" in str(path) or any(name in str(error) for name in hashes())
        return f"ICT-FaceKit, but not readable: {error}" if ours else None
    if not found.points and not found.indices:
        return None
    missing, changed = found.missing(), found.changed()
    identities = sum(name in found.points for name in IDENTITIES)
    expressions = sum(name in found.points for name in found.indices.get("expressions", []))
    line = f"ICT-FaceKit's FaceXModel: {identities} of 100 identity modes, {expressions} of 53 expressions"
    if missing:
        line += f"; missing: {_few(missing)}"
    line += f"; not as published: {_few(changed)}" if changed else "; every file as published"
    return line + ("" if missing else "; whole (mlanet face-model build --ict it)")


class Whole(NamedTuple):
    """The published model: mean (26719, 3) mm, triangles (F, 3), uv (26719, 2) in several unit squares, identity
    (26719, 3, 100) mm per standard deviation, expression (26719, 3, 53) mm at full activation, names as ARKit's."""

    mean: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    expression_names: list[str]


def whole(source: str | Path) -> Whole:
    """Read a FaceXModel folder or archive. Quads are split where they bend least. A file that is missing or not as
    published, or faces that are wound inwards, are UserErrors."""
    found = read(source)
    if missing := found.missing():
        raise UserError(f"{found.source}: ICT-FaceKit's {_few(missing)} missing")
    if changed := found.changed():
        raise UserError(f"{found.source}: not as ICT-FaceKit published it: {_few(changed)}")
    mean = MM * found.points[NEUTRAL]
    name = f"{found.source}: {NEUTRAL}.obj"
    polygons, uv = _polygons(parse_obj(name, found.neutral), name)
    triangles = split_quads(mean, polygons)
    face = triangles[(triangles < FACE).all(1)]
    if (face_normals(mean, face) * (mean[face].mean(1) - mean[:FACE].mean(0))).sum() <= 0:
        raise UserError(f"{name} has its faces wound inwards or is mirrored")
    names = found.indices["expressions"]
    modes = (MM * np.stack([found.points[name] for name in chosen], -1) for chosen in (IDENTITIES, names))
    identity, expression = (mode - mean[..., None] for mode in modes)
    return Whole(mean, triangles, uv, identity, expression, [arkit_name(name) for name in names])


def _polygons(found: Obj, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Corners (P, 4) of the triangles (-1 in the last place) and quads of an OBJ, and uv (V, 2): where a vertex has
    several, that in the first polygon with it. Other polygons, corners without uv, and vertices in no polygon are a
    UserError that starts with `name`."""
    first, halves = np.unique(found.polygons, return_index=True, return_counts=True)[1:]
    used, corner = np.unique(found.faces, return_index=True)
    if found.uv is None or np.isnan(found.uv).any() or halves.max() > 2 or len(used) < len(found.vertices):
        raise UserError(f"{name}: not triangles and quads with a uv at each corner, or a vertex that is in none")
    last = np.where(halves == 2, found.faces[np.minimum(first + 1, len(found.faces) - 1), 2], -1)
    return np.column_stack([found.faces[first], last]), found.uv.reshape(-1, 2)[corner]


def split_quads(points: np.ndarray, polygons: np.ndarray) -> np.ndarray:
    """(F, 3) triangles of polygons (P, 4), whose last corner is -1 where they are triangles, in their order and
    winding; a quad is cut along the diagonal that bends it least. points: (V, 3)."""
    quad = polygons[:, 3] >= 0
    a, b, c, d = polygons.T
    first = np.stack([np.stack([a, b, c], 1), np.stack([a, c, d], 1)], 1)
    second = np.stack([np.stack([a, b, d], 1), np.stack([b, c, d], 1)], 1)
    bend = [(face_normals(points, one[:, 0]) * face_normals(points, one[:, 1])).sum(1) for one in (first, second)]
    triangles = np.where((~quad | (bend[0] >= bend[1] - 1e-9))[:, None, None], first, second)
    return triangles.reshape(-1, 3)[np.stack([np.ones_like(quad), quad], 1).reshape(-1)]


def arkit_name(name: str) -> str:
    """`eyeBlink_L` -> `eyeBlinkLeft`. ICT's halves of browInnerUp and cheekPuff keep their side (ARKit: one each)."""
    side = {"_L": "Left", "_R": "Right"}.get(name[-2:])
    return name[:-2] + side if side else name


def _read_indices(content: bytes, name: str) -> dict:
    try:
        record = json.loads(content)
        expressions, points = record["expressions"], np.array(record["idx_to_landmark_verts"])
        ok = all(isinstance(expression, str) for expression in expressions) and len(expressions) > 0
        ok &= points.shape == (N_LANDMARKS,) and points.dtype.kind == "i" and points.min() >= 0
        if not ok or points.max() >= FACE:
            raise ValueError("expressions are names, the 68 points vertices of the face")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{name}: no fields expressions and idx_to_landmark_verts as ICT has them ({error})") from error
    return record


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
