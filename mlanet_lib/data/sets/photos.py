"""A folder of any photos without labels; a detector finds the faces."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from mlanet_lib.data.sample import Sample
from mlanet_lib.errors import UserError
from mlanet_lib.files import folders
from mlanet_lib.files.outputs import is_own
from mlanet_lib.files.pictures import PICTURES, read_image
from mlanet_lib.geometry.crops import Box

_SHOWN = 5


class Detection(Protocol):
    """A face in `numpy.rot90(photo, turns)`; crop: x, y, w, h of the training crop there."""

    @property
    def turns(self) -> int: ...

    def crop(self) -> np.ndarray: ...


class Detector(Protocol):
    """A face detector, as `mlanet_lib.predictor.detector.Detector`."""

    def detect(self, photo: np.ndarray, /) -> Sequence[Detection]: ...


def photos_in(folder: Path) -> list[Path]:
    """The pictures of a folder and its subfolders, by path; those that mlanet wrote are left out, counted on stderr.

    A folder that is not there or holds no photo, or two of one name, is a UserError.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found = folders.listed(folder, deep=True)
    paths = [path for path in found if not is_own(path)]
    if ours := len(found) - len(paths):
        print(f"note: {folder}: {ours} pictures that mlanet wrote are left out", file=sys.stderr)
    if not paths:
        raise UserError(f"{folder}: no pictures ({', '.join(PICTURES)})")
    folders.once(paths, str(folder))
    return paths


def read_folder(folder: str | Path, detector: Detector) -> list[Sample]:
    """The faces in the photos of a folder and its subfolders, by path, the largest of a photo first; no labels.

    `Sample.box` is the detection's crop, and `Sample.image` the photo turned upright: by its EXIF orientation and by
    the detection's `turns`. Names are paths below the folder, with "#2", "#3", ... for a photo's further faces.

    Pictures that mlanet wrote are left out. They, photos without a face and those that cannot be read are counted on
    stderr, and the first few named. A folder that is not there or holds no photo, or two of one name, or in which no
    face is found, is a UserError.
    """
    folder = Path(folder)
    paths = photos_in(folder)
    samples, empty, broken = [], [], []
    for path in paths:
        try:
            faces = detector.detect(read_image(path))
        except UserError as error:
            broken.append(str(error))
            continue
        name = path.relative_to(folder).as_posix()
        if not faces:
            empty.append(name)
        for number, face in enumerate(faces, 1):
            own = name if number == 1 else f"{name}#{number}"
            samples.append(Sample(own, partial(_read, path, face.turns), box=Box(*map(float, face.crop()))))
    for what, names in (("show no face that the detector finds", empty), ("cannot be read", broken)):
        if names:
            more = ", ..." if len(names) > _SHOWN else ""
            print(f"{folder}: {len(names)} pictures {what}: {', '.join(names[:_SHOWN])}{more}", file=sys.stderr)
    if not samples:
        raise UserError(f"{folder}: no face found in {len(paths)} pictures")
    return samples


def _read(path: Path, turns: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(read_image(path), turns))
