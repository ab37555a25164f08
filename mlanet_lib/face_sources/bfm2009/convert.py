"""The Basel Face Model 2009 (Paysan et al. 2009) -> `MorphableModel`, and its raw form that 300W-LP's labels speak of.

It is licensed and not here: `mlanet_lib.face_sources.bfm2009.bfm_files` says in which shapes it circulates. Whatever
the shape, x runs to the subject's left, y up, z out of the face, which is this project's model frame; lengths are
micrometres (original, 3DDFA) or decimetres (Deep3D) and become millimetres.
"""

from pathlib import Path

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_sources.bfm2009 import bfm_files as files
from mlanet_lib.face_sources.bfm2009.raw import RawBfm, columns, faces, index, landmarks, sigmas
from mlanet_lib.geometry.alignment import similarity
from mlanet_lib.geometry.surface import Surface

__all__ = ["MODES", "RawBfm", "carried_albedo", "convert", "cylindrical", "identify", "outward"]
MODES = {"deep3d": (80, 64, 80), "original": (80, 64, 80), "3ddfa": (199, 29, 80), "original_3ddfa": (199, 29, 80)}
"""Identity, expression and albedo modes that are kept, where nothing else is asked for."""
_SMALLEST, _LARGEST = 80.0, 500.0  # height of a face or head, mm


def identify(path: str | Path) -> str | None:
    """Says in a few lines which shape of BFM 2009 a file or folder holds, what is missing and what each wrong file
    usually is; None where nothing has to do with BFM. A path that is not there is a UserError."""
    path = Path(path)
    parts = files.parts_of(path)
    shape = files.shape_of(parts, path if path.is_file() else None)
    lines = []
    if shape:
        gaps = files.missing(shape, parts)
        bad = [(parts[p], said) for p in files.SHAPES[shape] if p in parts and (said := files.wrong(p, parts[p]))]
        state = "incomplete" if gaps else "cannot be used as it is" if bad else "complete"
        broken = {file for file, _ in bad}
        sizes = [files.counts(p, parts[p]) for p in files.SHAPES[shape] if p in parts and parts[p] not in broken]
        known = f" ({', '.join(filter(None, sizes))})" if any(sizes) else ""
        lines.append(f"BFM 2009, {files.TITLES[shape]}: {state}{known}")
        lines += [f"  missing: {gap}" for gap in gaps]
        lines += [f"  {file.name} {said}" for file, said in bad]
    elif path.is_file() and path.suffix.lower() in (".mat", ".bin") and (said := files.instead(path)):
        lines.append(f"{path.name} is {said}")
    lines += [f"{'  ' if shape else ''}{file.name}: {said}" for file, said in files.strangers(path)]
    return "\n".join(lines) or None


def convert(
    source: str | Path,
    identity: int | None = None,
    expression: int | None = None,
    albedo: int | None = None,
    albedo_from: MorphableModel | str | Path | None = None,
) -> MorphableModel:
    """BFM 2009 as a `MorphableModel`: mm, modes per standard deviation, RGB in [0, 1], triangles wound outward.

    source: a folder with the files of one shape (of several complete ones the first of `bfm2009_files.SHAPES`), or one
    of the files. identity, expression, albedo: how many modes to keep (`MODES`: Deep3D's 80, 64, 80; of 3DDFA's all
    199 and 29, so that the labels of 300W-LP fit). `original` is cut as Deep3D cuts it, and like Deep3D leaves out
    the mean of the expressions; 3DDFA's adds it.

    Where the files have no scaled texture modes (3DDFA's), the albedo is carried over from `albedo_from`, a face model
    or its file (`carried_albedo`). BFM has no UVs: they are a cylindrical projection of the mean face round a vertical
    axis behind it, which folds inside nostrils and lips. Expression modes are principal components without a meaning of
    their own, `bfm_expression_00` and so on. Files that are missing, wrong or do not fit together are a UserError that
    says which.
    """
    source = Path(source)
    parts, shape = _complete(source)
    wanted = dict(zip(("identity", "expression", "albedo"), MODES[shape], strict=True))
    asked = {"identity": identity, "expression": expression, "albedo": albedo}
    wanted |= {name: count for name, count in asked.items() if count is not None}
    if min(wanted.values()) < 1:
        raise UserError(f"a face model needs at least one mode of each kind, not {wanted}")
    raw = {"deep3d": _deep3d, "original": _original}.get(shape, _from_raw)(parts)
    mean, points, faces = raw["mean"], raw["landmarks"], raw["faces"]
    height = float(np.ptp(mean[:, 1]))
    if not _SMALLEST <= height <= _LARGEST:
        raise UserError(f"{source}: the mean face would be {height:.3g} mm high: its unit is not that of {shape}")
    bases = {name: raw[name][..., : wanted[name]] for name in wanted if name in raw}
    colour = raw.get("colour")
    if "albedo" not in bases:
        other = albedo_from if isinstance(albedo_from, MorphableModel) else _model_with_albedo(albedo_from, source)
        carried_mean, carried_basis = carried_albedo(other, mean, mean[points])
        colour = carried_mean if colour is None else colour
        bases["albedo"] = carried_basis[..., : wanted["albedo"]]
    return MorphableModel(
        mean=mean,
        identity_basis=bases["identity"],
        expression_basis=bases["expression"],
        albedo_mean=colour,
        albedo_basis=bases["albedo"],
        faces=outward(mean, faces),
        uv=cylindrical(mean),
        landmark_index=points,
        expression_names=[f"bfm_expression_{k:02d}" for k in range(bases["expression"].shape[2])],
        name=f"bfm2009_{shape}",
    )


def carried_albedo(source: MorphableModel, mean: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Albedo of `source` at the vertices of another mean face: (V, 3) display-encoded RGB and modes (V, 3, Ka).

    mean: (V, 3), any unit and frame; landmarks: (68, 3), the same face's Multi-PIE points. A similarity brings these
    onto the source's (Umeyama 1991); there each vertex takes what the source has at the nearest point of its mean
    surface, interpolated in the triangle. Not finite or collinear points are a ValueError.
    """
    own, faces = source.mean.double(), source.faces.numpy()
    to_source = similarity(landmarks, source.landmarks(own[None])[0].numpy())
    nearest = Surface(own.numpy(), faces).closest(to_source.apply(mean))
    corners, weights = faces[nearest.face_index], nearest.barycentric
    colour = np.einsum("vk,vkc->vc", weights, source.albedo_mean.double().numpy()[corners])
    modes = np.zeros((*colour.shape, source.n_albedo))
    for corner in range(3):
        modes += weights[:, corner, None, None] * source.albedo_basis.double().numpy()[corners[:, corner]]
    return colour, modes


def _model_with_albedo(path: str | Path | None, source: Path) -> MorphableModel:
    if path is None or not Path(path).is_file():
        raise UserError(
            f"{source} holds no scaled texture modes, and no face model is here to take the albedo from: "
            f"{path or 'none is named'} (dvc pull data.dvc)"
        )
    return MorphableModel.load(path)


def outward(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) faces, all turned round if a face (V, 3) that looks along +z shows its back: counter-clockwise outside."""
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    return faces if np.cross(b - a, c - a)[:, 2].sum() > 0 else faces[:, ::-1].copy()


def cylindrical(vertices: np.ndarray) -> np.ndarray:
    """(V, 3) -> (V, 2) UVs in [0, 1]: angle round the vertical axis behind the face, and height."""
    x, y, z = (vertices - [vertices[:, 0].mean(), 0, vertices[:, 2].min() - 1]).T
    uv = np.stack([np.arctan2(x, z), y], 1)
    return (uv - uv.min(0)) / np.ptp(uv, axis=0)


def _complete(source: Path) -> tuple[dict[str, Path], str]:
    parts = files.parts_of(source)
    shape = files.shape_of(parts, source if source.is_file() else None)
    if shape is None or files.missing(shape, parts):
        said = identify(source) or "holds none of the files in which BFM 2009 circulates"
        raise UserError(f"{source}: {'; '.join(line.strip() for line in said.splitlines())}")
    return parts, shape


def _deep3d(parts: dict[str, Path]) -> dict[str, np.ndarray]:
    path = parts["front"]
    data = files.read(path, "front")
    mean = data["meanshape"].astype(np.float64).reshape(-1, 3) * 100
    bases = {"identity": ("idBase", 100), "expression": ("exBase", 100), "albedo": ("texBase", 1 / 255)}
    arrays = {
        name: columns(data[field], path, field, len(mean)) * np.float32(unit) for name, (field, unit) in bases.items()
    }
    if data["meantex"].size != mean.size:
        raise UserError(f"{path}: field 'meantex' has {data['meantex'].size} numbers, not {mean.size}")
    return arrays | {
        "mean": mean,
        "colour": data["meantex"].reshape(-1, 3) / 255,
        "faces": faces(data["tri"], len(mean), path),
        "landmarks": landmarks(data["keypoints"], len(mean), path),
    }


def _original(parts: dict[str, Path]) -> dict[str, np.ndarray]:
    path = parts["original"]
    data, info = files.read(path, "original"), files.read(parts["cut_info"], "cut_info")
    shape, texture = (columns(data[name], path, name) for name in ("shapePC", "texPC"))
    if data["shapeMU"].size != 3 * len(shape) or data["texMU"].size != 3 * len(shape) or len(texture) != len(shape):
        raise UserError(f"{path}: shapeMU, shapePC, texMU and texPC are not of one mesh")
    trim = index(files.read(parts["trim"], "trim")["trimIndex"], len(shape), parts["trim"], "trimIndex")
    cut = index(files.read(parts["cut"], "cut")["idx"], len(trim), parts["cut"], "idx")
    pick = trim[cut]
    moving = np.moveaxis(files.read_expression_bin(parts["expression_bin"], len(trim))[:, cut], 0, 2)
    try:
        deviations = np.loadtxt(parts["expression_sd"], dtype=np.float64).ravel()
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{parts['expression_sd']} does not hold numbers ({error})") from error
    arrays = {
        "identity": shape[pick] * sigmas(data["shapeEV"], shape, path, "shapeEV").astype(np.float32) / 1000,
        "expression": moving * sigmas(deviations, moving, parts["expression_sd"], "std").astype(np.float32) / 1000,
        "albedo": texture[pick] * sigmas(data["texEV"], texture, path, "texEV").astype(np.float32) / 255,
    }
    return arrays | {
        "mean": data["shapeMU"].astype(np.float64).reshape(-1, 3)[pick] / 1000,
        "colour": data["texMU"].reshape(-1, 3)[pick] / 255,
        "faces": faces(info["tri"], len(cut), parts["cut_info"]),
        "landmarks": landmarks(info["keypoints"], len(cut), parts["cut_info"]),
    }


def _from_raw(parts: dict[str, Path]) -> dict[str, np.ndarray]:
    raw = RawBfm._read(parts)
    colour, texture = raw.texture
    known = {"colour": colour, "albedo": texture}
    return {name: value for name, value in known.items() if value is not None} | {
        "mean": raw.mean.astype(np.float64) / 1000,
        "identity": raw.shape_basis * (raw.shape_sigma / 1000).astype(np.float32),
        "expression": raw.expression_basis * (raw.expression_sigma / 1000).astype(np.float32),
        "faces": raw.faces,
        "landmarks": raw.landmarks,
    }
