"""The Basel Face Model 2009 (Paysan et al. 2009) as a `MorphableModel`.

It is licensed and not here: `mlanet_lib.face_sources.bfm2009.bfm_files` says which files are read. In them x runs to
the subject's left, y up, z out of the face, which is this project's model frame; lengths are micrometres and become
millimetres.
"""

from pathlib import Path

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_sources.bfm2009 import bfm_files as files
from mlanet_lib.face_sources.bfm2009.raw import RawBfm
from mlanet_lib.geometry.alignment import similarity
from mlanet_lib.geometry.mesh import crossed
from mlanet_lib.geometry.surface import Surface

ALBEDO_MODES = 80
"""Albedo modes that are kept at most; of identity and expression all, so that the labels of 300W-LP fit."""
_SMALLEST, _LARGEST = 80.0, 500.0  # height of a face or head, mm


def identify(path: str | Path) -> str | None:
    """Says in a few lines which shape of BFM 2009 a file or folder holds, what is missing and what is wrong; None if
    nothing has to do with BFM. A path that is not there is a UserError."""
    parts = files.parts_of(path)
    shape = files.shape_of(parts)
    if shape is None:
        other, wanted = files.deep3d_in(path), " and ".join(files.missing("3ddfa", {}))
        return other and f"{other}: BFM 2009 as Deep3D has it, which is not read here: {wanted} are wanted"
    gaps = files.missing(shape, parts)
    bad = [(parts[p].name, said) for p in files.SHAPES[shape] if p in parts and (said := files.wrong(p, parts[p]))]
    state = "incomplete" if gaps else "cannot be used as it is" if bad else "complete"
    lines = [f"BFM 2009, {files.TITLES[shape]}: {state}", *(f"  missing: {gap}" for gap in gaps)]
    return "\n".join([*lines, *(f"  {name} {said}" for name, said in bad)])


def convert(source: str | Path, albedo_from: MorphableModel | str | Path | None = None) -> MorphableModel:
    """BFM 2009 as a `MorphableModel`: mm, modes per standard deviation, RGB in [0, 1], triangles wound outward.

    source: a folder with the files of one shape (of two complete ones the first of `bfm_files.SHAPES`), or one of the
    files. Where they have no scaled texture modes, the albedo is carried over from `albedo_from`, a face model or its
    file (`carried_albedo`). BFM has no UVs: they are a cylindrical projection of the mean face round a vertical axis
    behind it, which folds inside nostrils and lips. Expression modes are principal components without a meaning of
    their own, `bfm_expression_00` and so on. Files that are missing, wrong or do not fit together are a UserError that
    says which.
    """
    source = Path(source)
    parts = files.parts_of(source)
    shape = files.shape_of(parts)
    if shape is None or files.missing(shape, parts):
        said = identify(source) or "holds none of the files in which BFM 2009 circulates"
        raise UserError(f"{source}: {'; '.join(line.strip() for line in said.splitlines())}")
    raw = RawBfm.read(parts)
    mean = raw.mean.astype(np.float64) / 1000
    height = float(np.ptp(mean[:, 1]))
    if not _SMALLEST <= height <= _LARGEST:
        raise UserError(f"{source}: the mean face would be {height:.3g} mm high: its unit is not that of {shape}")
    colour, albedo = raw.texture
    if colour is None or albedo is None:
        other = albedo_from if isinstance(albedo_from, MorphableModel) else _model_with_albedo(albedo_from, source)
        carried = carried_albedo(other, mean, mean[raw.landmarks])
        colour, albedo = (own if own is not None else there for own, there in zip(raw.texture, carried, strict=True))
    return MorphableModel(
        mean=mean,
        identity_basis=raw.shape_basis * (raw.shape_sigma / 1000).astype(np.float32),
        expression_basis=raw.expression_basis * (raw.expression_sigma / 1000).astype(np.float32),
        albedo_mean=colour,
        albedo_basis=albedo[..., :ALBEDO_MODES],
        faces=outward(mean, raw.faces),
        uv=cylindrical(mean),
        landmark_index=raw.landmarks,
        expression_names=[f"bfm_expression_{k:02d}" for k in range(raw.expression_basis.shape[2])],
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
    return faces if crossed(vertices, faces)[:, 2].sum() > 0 else faces[:, ::-1].copy()


def cylindrical(vertices: np.ndarray) -> np.ndarray:
    """(V, 3) -> (V, 2) UVs in [0, 1]: angle round the vertical axis behind the face, and height."""
    x, y, z = (vertices - [vertices[:, 0].mean(), 0, vertices[:, 2].min() - 1]).T
    uv = np.stack([np.arctan2(x, z), y], 1)
    return (uv - uv.min(0)) / np.ptp(uv, axis=0)
