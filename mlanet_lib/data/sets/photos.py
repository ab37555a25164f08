"""A folder of any photos: no labels, but a detector says where the faces are."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from mlanet_lib.data.sample import Sample
from mlanet_lib.errors import UserError
from mlanet_lib.files.folders import first, pictures
from mlanet_lib.files.outputs import is_own
from mlanet_lib.files.pictures import PICTURES, read_image
from mlanet_lib.geometry.crops import Box

_SHOWN = 5


def read_folder(folder: str | Path, detector, limit: int | None = None, progress: bool = False) -> list[Sample]:
    """The faces in the photos of a folder and its subfolders, by path, the largest of a photo first; no labels.

    detector: `detect(photo) -> list` of detections with `crop()` (4,) x, y, w, h, the training crop, in
    `numpy.rot90(photo, turns)`, and `turns` (`mlanet_lib.predictor.detector.Detector`). `Sample.box` is that crop, and
    `Sample.image` the photo turned upright: by its EXIF orientation and by `turns`. Names are paths below the folder,
    with "#2", "#3", ... for a photo's further faces. limit: only the first so many photos.

    Photos without a face, and pictures that cannot be read, are counted and the first few named on stderr. A folder
    that is not there or holds no picture, or two of one name, or in which no face is found, is a UserError, and so is a
    limit below 1.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found = pictures(folder, PICTURES, deep=True)
    paths = [path for path in found if not is_own(path)]
    if own := len(found) - len(paths):
        print(f"note: {folder}: {own} pictures that mlanet wrote are left out", file=sys.stderr)
    if not paths:
        raise UserError(f"{folder}: no pictures ({', '.join(PICTURES)})")
    samples, empty, broken = [], [], []
    for path in tqdm(first(paths, limit), "finding faces", unit="photo", disable=not progress):
        try:
            found = detector.detect(read_image(path, upright=True))
        except UserError as error:
            broken.append(str(error))
            continue
        name = path.relative_to(folder).as_posix()
        if not found:
            empty.append(name)
        for number, face in enumerate(found, 1):
            box = Box(*(float(value) for value in face.crop()))
            read = partial(_read, path, face.turns)
            samples.append(Sample(name if number == 1 else f"{name}#{number}", read, box=box))
    for what, names in (("show no face that the detector finds", empty), ("cannot be read", broken)):
        if names:
            more = ", ..." if len(names) > _SHOWN else ""
            print(f"{folder}: {len(names)} pictures {what}: {', '.join(names[:_SHOWN])}{more}", file=sys.stderr)
    if not samples:
        raise UserError(f"{folder}: no face found in {len(paths[:limit])} pictures")
    return samples


def _read(path: Path, turns: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(read_image(path, upright=True), turns))
