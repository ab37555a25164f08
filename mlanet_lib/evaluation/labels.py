"""Points in files: AFLW2000-3D's second label set (3DDFA's release), and other systems' predictions for its photos."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlanet_lib import metrics
from mlanet_lib.data.sample import Sample
from mlanet_lib.errors import UserError
from mlanet_lib.files.folders import pictures
from mlanet_lib.files.npz import read_npz
from mlanet_lib.geometry.crops import ONE_BASED, from_index

DISORDER = 10.0
"""NME in % between the label sets, median over the photos, beyond which rows are taken for those of other photos; the
two sets differ by 2.8 to 4.1 %."""


class Reannotated(NamedTuple):
    """The second label set. path: `AFLW2000-3D-Reannotated.pts68.npy` of 3DDFA's release, (R, 2 or 3, 68), in the same
    pixels as `pt3d_68` (3DDFA's script compares the same prediction with either); names: a text file with the photos of
    its rows, a name a line, as `AFLW2000-3D_crop.list`; by default all photos of the folder by their names."""

    path: Path
    names: Path | None = None


def read_reannotated(labels: Reannotated, folder: str | Path, samples: Sequence[Sample]) -> np.ndarray:
    """The reannotated landmarks for some of a folder's photos: (N, 68, 2) pixels, first centre at 0.5.

    Another number of rows than names, a photo without a row, or landmarks that are not those of the photos (they lie
    farther from the original labels than the label sets do from each other) are a UserError.
    """
    path, names = labels
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: no size that a header claims is reserved
        lines = [] if names is None else names.read_text(encoding="utf-8-sig").splitlines()
    except Exception as error:  # numpy raises whatever the broken bytes lead it to
        raise UserError(f"reannotated labels cannot be read: {error or type(error).__name__}") from error
    shape = getattr(stored, "shape", "an archive of arrays")
    if len(shape) != 3 or shape[1] not in (2, 3) or shape[2] != 68:
        raise UserError(f"{path}: reannotated labels are (2000, 2 or 3, 68), not {shape}")
    if stored.dtype.kind not in "iuf" or not np.isfinite(stored).all():
        raise UserError(f"{path}: reannotated labels that are not finite numbers")
    listed = [Path(line.strip()).name for line in lines if line.strip()]
    if names is None:
        listed = [photo.name for photo in pictures(Path(folder))]
    if len(listed) != len(stored):
        whose = "the list names" if names is not None else f"{Path(folder).name} has"
        raise UserError(
            f"{path} has {len(stored):,} rows, {whose} {len(listed):,} photos: a row cannot be matched to its photo "
            "(give the list of names that the rows follow)"
        )
    if len(set(listed)) < len(listed):
        raise UserError(f"{path}: the list of names holds a name twice")
    rows = _rows(listed, samples, f"{path}: no row for", ": the list of names does not hold it")
    points = from_index(stored[rows, :2].astype(np.float64).transpose(0, 2, 1), ONE_BASED)
    apart = float(np.median(metrics.sparse_nme(points, np.stack([np.asarray(sample.landmarks) for sample in samples]))))
    if apart > DISORDER:
        raise UserError(f"{path}: its points lie {apart:.0f} % from the original ones: its rows are of other photos")
    return points


def _rows(names: Sequence[str], samples: Sequence[Sample], missing: str, why: str = "") -> list[int]:
    """The positions of the samples' photos among the names; a UserError, `missing` NAME `why`, for a photo that is
    missing."""
    row = {name: k for k, name in enumerate(names)}
    for sample in samples:
        if sample.name not in row:
            raise UserError(f"{missing} {sample.name}{why}")
    return [row[sample.name] for sample in samples]


def read_points(path: str | Path, samples: Sequence[Sample]) -> np.ndarray:
    """Another system's points for these photos: (N, 68, 2) pixels, first centre at 0.5.

    path: `.npz` with `names` (R,) of photos and `landmarks68` (R, 68, 2 or more) in their pixels, counted as the labels
    are (3DDFA's script compares the two without a shift), in any order. UserError for a photo without a row or with
    two, and for arrays of another form.
    """
    stored = read_npz(Path(path), "file of a system's points")
    if missing := {"names", "landmarks68"} - set(stored):
        raise UserError(f"{path} has no field '{min(missing)}': points of a system are names and landmarks68")
    names, points = stored["names"], stored["landmarks68"]
    fits = names.ndim == 1 and points.ndim == 3 and points.shape[:2] == (len(names), 68) and points.shape[2] >= 2
    if not fits or points.dtype.kind not in "iuf":
        raise UserError(f"{path}: landmarks68 is {points.dtype} {points.shape}, not ({names.size}, 68, 2)")
    listed = [Path(str(name)).name for name in names]
    if len(set(listed)) < len(listed):
        raise UserError(f"{path}: names holds a photo twice")
    chosen = points[_rows(listed, samples, f"{path}: no points for"), :, :2].astype(np.float64)
    if not np.isfinite(chosen).all():
        raise UserError(f"{path}: points that are not finite numbers")
    return from_index(chosen, ONE_BASED)
