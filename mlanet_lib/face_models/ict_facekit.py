"""ICT-FaceKit's light face model (Li et al. 2020, Learning Formation of Physically-Based Face Attributes; MIT licence).

Source: the folder FaceXModel of github.com/ICT-VGL/ICT-FaceKit, whose README gives the vertex ranges and the points
below: `generic_neutral_mesh.obj`, `identity000.obj` ... `identity099.obj`, an OBJ an expression, each 26,719 vertices
in cm, x to the subject's left, y up, z out, and `vertex_indices.json`. A mode is its OBJ minus the neutral one;
identity modes are in standard deviations. It has no albedo: that is carried over from another model.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import N_LANDMARKS, MorphableModel
from mlanet_lib.face_models import anthropometric, archive, landmarks, obj, transfer
from mlanet_lib.face_models.appearance import MOUTH, TEETH
from mlanet_lib.face_models.measure import JAWLINE

NAME = "ict_facekit"
NEUTRAL, INDICES = "generic_neutral_mesh", "vertex_indices.json"
IDENTITIES = [f"identity{k:03d}" for k in range(100)]
MM = 10.0  # in the files' unit
CUTS = {"face": 9409, "narrow": 6706, "head": 26719}  # the first so many vertices
JAWLINES = ("substitute", "multipie")
# First vertex of each part, left before right. The last ones are transparent in a film renderer.
PARTS = {
    "face": 0,
    "head and neck": 9409,
    "mouth socket": 11248,
    "eye sockets": 13294,
    "gums and tongue": 14062,
    "teeth": 17039,
    "left cornea and sclera": 21451,
    "left iris": 22221,
    "right cornea and sclera": 23021,
    "right iris": 23791,
    "lacrimal fluid": 24591,
    "eye blend": 24999,
    "eye occlusion": 25047,
    "eyelashes": 25351,
}
# `head` leaves these triangles out, not the vertices: shells and lashes that without transparency would hide the eye,
# and the inner eyeball, which the opaque outer one hides (the iris is painted onto that).
NOT_DRAWN = {"left iris", "right iris", "lacrimal fluid", "eye blend", "eye occlusion", "eyelashes"}
PAINTED = {
    "mouth socket": MOUTH,
    "eye sockets": (0.45, 0.25, 0.22),
    "gums and tongue": (0.62, 0.33, 0.32),
    "teeth": TEETH,
}
# The parts' UV squares in the full head's map, in quarters of it; the face has the 3 x 3 quarters at the top left.
_CELLS = {
    "head and neck": (3, 3),
    "mouth socket": (3, 3),
    "eye sockets": (3, 3),
    "gums and tongue": (3, 2),
    "teeth": (3, 1),
    "left cornea and sclera": (3, 0),
    "left iris": (3, 0),
    "right cornea and sclera": (2, 0),
    "right iris": (2, 0),
    "lacrimal fluid": (1, 0),
    "eye blend": (1, 0),
    "eye occlusion": (1, 0),
    "eyelashes": (0, 0),
}


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
    """File name in FaceXModel -> sha256, of the published files (see `mlanet_lib.fetch`)."""
    lines = (files(__package__) / "ict_facekit.sha256").read_text().splitlines()
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
            points[name[:-4]] = obj.vertices(content, f"{source}: {name}", CUTS["head"])
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
    return line + ("" if missing else "; whole (mlanet face-model fetch ict --from it)")


def convert(
    source: str | Path | Published,
    cut: str = "face",
    jawline: str = "substitute",
    albedo_from: MorphableModel | None = None,
    calibrated: bool = True,
) -> MorphableModel:
    """ICT-FaceKit as a MorphableModel in mm: 100 identity modes, 53 expressions by ARKit's names, albedo carried over.

    source: what `read` takes or returns. cut: "face" (9,409 vertices: face, ears, front of the neck), "narrow" (6,706),
    or "head" (all 26,719; see NOT_DRAWN). In all of them vertex k is ICT's vertex k. jawline: "substitute", points
    0-16 on the outline that 300W-LP's and AFLW2000-3D's jaws follow, or "multipie"; ICT's README gives both.
    calibrated: with the substitutes, all points are moved to where photos' labels have them (`landmarks`).

    albedo_from: the model whose albedo is carried over (default: the anthropometric one), by `transfer.albedo`: the
    skin's from its skin, the eyeballs' from its other parts; what is inside gets one colour a part (PAINTED).

    UVs: the published ones for "face" and "narrow", which have no seam. "head" packs ICT's UV tiles into one square
    (_CELLS); a vertex on a seam keeps the UV of the first polygon that has it, so that the triangles across a seam
    (the face's rim, inside the mouth, around teeth and eyeballs) are stretched over the map.

    Quads are split where they bend least. A missing file, one with other vertices, or faces that are wound inwards are
    UserErrors.
    """
    if cut not in CUTS or jawline not in JAWLINES:
        raise UserError(f"cut is one of {', '.join(CUTS)} and jawline of {', '.join(JAWLINES)}, not {cut}, {jawline}")
    found = source if isinstance(source, Published) else read(source)
    if missing := found.missing():
        raise UserError(f"{found.source}: ICT-FaceKit's {_few(missing)} missing")
    mean = MM * found.points[NEUTRAL]
    polygons, uv = obj.polygons(found.neutral, f"{found.source}: {NEUTRAL}.obj", len(mean))
    names = found.indices["expressions"]
    modes = [MM * np.stack([found.points[name] for name in chosen], -1) for chosen in (IDENTITIES, names)]
    multipie = np.array(found.indices["idx_to_landmark_verts"])
    outline = multipie.copy()
    outline[list(JAWLINE)] = list(JAWLINE.values())

    keep = CUTS[cut]
    owner = part_of(np.arange(len(mean)))
    triangles = obj.split_quads(mean, polygons)
    drawn = ~np.isin(owner[triangles[:, 0]], list(NOT_DRAWN)) & (triangles < keep).all(1)
    triangles = triangles[drawn]
    _check_winding(mean, triangles[(triangles < CUTS["face"]).all(1)], found.source)
    source_model = albedo_from or anthropometric.build(calibrated=False)
    albedo_mean, albedo_basis = _albedo(source_model, mean[:keep], owner[:keep], mean[outline])
    model = MorphableModel(
        mean=mean[:keep],
        identity_basis=modes[0][:keep] - mean[:keep, :, None],
        expression_basis=modes[1][:keep] - mean[:keep, :, None],
        albedo_mean=albedo_mean,
        albedo_basis=albedo_basis,
        faces=triangles,
        uv=(_packed_uv(uv, owner) if cut == "head" else uv)[:keep],
        landmark_index=outline if jawline == "substitute" else multipie,
        expression_names=[arkit_name(name) for name in names],
        name="_".join([NAME, *[cut] * (cut != "face"), *[jawline] * (jawline != "substitute")]),
    )
    move = calibrated and jawline == "substitute"
    return landmarks.placed(model, landmarks.load(NAME)) if move else model


def arkit_name(name: str) -> str:
    """`eyeBlink_L` -> `eyeBlinkLeft`. ICT's halves of browInnerUp and cheekPuff keep their side (ARKit: one each)."""
    side = {"_L": "Left", "_R": "Right"}.get(name[-2:])
    return name[:-2] + side if side else name


def part_of(vertices: np.ndarray) -> np.ndarray:
    """Name of the part (PARTS) of each vertex index."""
    return np.array(list(PARTS))[np.searchsorted(list(PARTS.values()), vertices, side="right") - 1]


def _check_winding(mean: np.ndarray, triangles: np.ndarray, source: Path) -> None:
    outwards = mean[triangles].mean(1) - mean[: CUTS["face"]].mean(0)
    if (obj.normals(mean, triangles) * outwards).sum() <= 0:
        raise UserError(f"{source}: {NEUTRAL}.obj has its faces wound inwards or is mirrored")


def _packed_uv(uv: np.ndarray, owner: np.ndarray) -> np.ndarray:
    inside = uv - np.floor(uv)
    cells = np.array([_CELLS.get(name, (0, 1)) for name in PARTS])[[list(PARTS).index(name) for name in owner]]
    return (inside * np.where(owner == "face", 3, 1)[:, None] + cells) / 4


def _albedo(source: MorphableModel, mean: np.ndarray, owner: np.ndarray, points: np.ndarray):
    """Mean and modes for the first vertices, part by part."""
    skin, *others = transfer.parts(source)
    colour, modes = transfer.albedo(source, mean, points, skin)
    eyes = np.isin(owner, [name for name in PARTS if name.startswith(("left", "right"))])
    if others and eyes.any():
        colour[eyes], modes[eyes] = transfer.albedo(source, mean[eyes], points, np.concatenate(others))
    for name, painted in PAINTED.items():
        colour[owner == name], modes[owner == name] = painted, 0
    return colour, modes


def _read_indices(content: bytes, name: str) -> dict:
    try:
        record = json.loads(content)
        expressions, points = record["expressions"], np.array(record["idx_to_landmark_verts"])
        ok = all(isinstance(expression, str) for expression in expressions) and len(expressions) > 0
        ok &= points.shape == (N_LANDMARKS,) and points.dtype.kind == "i" and points.min() >= 0
        if not ok or points.max() >= CUTS["narrow"]:
            raise ValueError("expressions are names, the 68 points vertices of the face")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{name}: no fields expressions and idx_to_landmark_verts as ICT has them ({error})") from error
    return record


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
