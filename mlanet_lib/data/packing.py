"""Samples of any data set -> the arrays that training reads (`mlanet_lib.data.arrays`).

Decoding and cropping are done once; a training then takes its batches from memory (`mlanet_lib.training.data`).
"""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from mlanet_lib.data import arrays
from mlanet_lib.data.sample import Sample
from mlanet_lib.errors import UserError
from mlanet_lib.face_model.points import LABEL_SETS
from mlanet_lib.geometry.crops import crop_image, to_crop

_AHEAD = 256  # photos that are decoded before the first of them is written
_SHOWN = 5


def pack(
    samples: Sequence[Sample],
    folder: str | Path,
    size: int = 112,
    workers: int = 2,
    progress: bool = True,
    points: str = "3ddfa",
    person: Callable[[str], str] = str,
) -> Path:
    """Cut every sample's `crop()` out of its photo, `size` px a side, and write the arrays; returns the folder.

    images.npy: black where a crop leaves the photo. labels.npz: `names` (N,) and the fields of `arrays` but for those
    of `FaceParameters`, which no data set knows. `points`: whose definition the landmarks follow, one of `LABEL_SETS`.
    `visible` and `confidence` are 1 if the data set does not have them. Rows without landmarks have NaN there and 0 in
    these two. `person`: a function of a sample's name, which tells whose pictures are whose (`person` (N,)).

    workers: threads (Pillow decodes without Python's lock). A sample that cannot be read or cropped is left out, and
    the first few such are named on stderr; UserError if none is left. Rows keep the order of the samples. A failure
    leaves older arrays as they were, both of them.
    """
    folder = Path(folder)
    broken: list[UserError] = []
    rows: list[dict] = []
    with (
        arrays.writing(folder, size) as writer,
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(samples), desc="packing", unit="photo", disable=not progress) as bar,
    ):
        for start in range(0, len(samples), _AHEAD):
            for result in pool.map(lambda sample: _crop(sample, size), samples[start : start + _AHEAD]):
                bar.update()
                if isinstance(result, UserError):
                    broken.append(result)
                    continue
                image, labels = result
                writer.put(len(rows), image)
                rows.append(labels)
        if not rows:
            why = f"; the first of {len(broken)}: {broken[0]}" if broken else ""
            raise UserError(f"{folder}: no sample to pack{why}")
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        columns["points_set"] = np.full(len(rows), LABEL_SETS.index(points), np.int64)
        columns["person"] = np.unique([person(name) for name in columns["names"].tolist()], return_inverse=True)[1]
        writer.finish(columns)
    if broken:
        shown = "".join(f"\n  {error}" for error in broken[:_SHOWN])
        print(f"packing left out {len(broken)} of {len(samples)} samples:{shown}", file=sys.stderr)
    return folder


def _crop(sample: Sample, size: int) -> tuple[np.ndarray, dict] | UserError:
    """The crop and its row of labels, or what is wrong with the sample."""
    try:
        box = sample.crop()
        image = crop_image(sample.image(), box, size)
    except UserError as error:
        return error if sample.name in str(error) else UserError(f"{sample.name}: {error}")
    known = sample.landmarks is not None
    ones = np.full(68, float(known))
    landmarks = np.full((68, 2), np.nan) if sample.landmarks is None else to_crop(sample.landmarks, box)
    unknown = np.full((3, 3), np.nan)
    return image, {
        "rotation_bfm": np.float32(unknown if sample.rotation is None else sample.rotation),
        "names": sample.name,
        "kind": arrays.LANDMARKED if known else arrays.UNLABELLED,
        "landmarks": np.float32(landmarks),
        "visible": np.float32(ones if sample.visible is None else ones * sample.visible),
        "confidence": np.float32(ones if sample.confidence is None else ones * sample.confidence),
    }
