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
from mlanet_lib.face_sources.ict import obj
from mlanet_lib.files import archive

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
    points, digests, neutral, indices = {}, {}, b"", {}
    for name, content in archive.members(folder if folder.is_dir() else source, hashes()):
        digests[name] = hashlib.sha256(content).hexdigest()
        if name == INDICES:
            indices = _read_indices(content, f"{source}: {name}")
        elif name.endswith(".obj"):
            points[name[:-4]] = obj.vertices(content, f"{source}: {name}", VERTICES)
        if name == f"{NEUTRAL}.obj":
            neutral = content
    return Published(source, points, neutral, indices, digests)


def identify(path: str | Path) -> str | None:
    """One line that says what an ICT-FaceKit folder or archive holds or lacks; None where it is nothing of ICT's."""
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
    polygons, uv = obj.polygons(found.neutral, f"{found.source}: {NEUTRAL}.obj", len(mean))
    names = found.indices["expressions"]
    modes = [MM * np.stack([found.points[name] for name in chosen], -1) for chosen in (IDENTITIES, names)]
    triangles = obj.split_quads(mean, polygons)
    _check_winding(mean, triangles[(triangles < FACE).all(1)], found.source)
    return Whole(mean, triangles, uv, *(mode - mean[..., None] for mode in modes), [arkit_name(name) for name in names])


def arkit_name(name: str) -> str:
    """`eyeBlink_L` -> `eyeBlinkLeft`. ICT's halves of browInnerUp and cheekPuff keep their side (ARKit: one each)."""
    side = {"_L": "Left", "_R": "Right"}.get(name[-2:])
    return name[:-2] + side if side else name


def _check_winding(mean: np.ndarray, triangles: np.ndarray, source: Path) -> None:
    outwards = mean[triangles].mean(1) - mean[:FACE].mean(0)
    if (obj.normals(mean, triangles) * outwards).sum() <= 0:
        raise UserError(f"{source}: {NEUTRAL}.obj has its faces wound inwards or is mirrored")


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
