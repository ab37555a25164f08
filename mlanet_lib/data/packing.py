"""Samples of any data set -> the arrays that training reads: `images.npy` and `labels.npz`.

Decoding and cropping are done once; a training then takes its batches from memory (`mlanet_lib.training.data`).
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from mlanet_lib.data.sample import Sample
from mlanet_lib.data.synthetic.faces import LANDMARKED, UNLABELLED
from mlanet_lib.errors import UserError
from mlanet_lib.face_model.points import LABEL_SETS
from mlanet_lib.files.atomic import together
from mlanet_lib.geometry.crops import crop_image, to_crop

_AHEAD = 256  # pictures that are decoded before the first of them is written
_SHOWN = 5


def pack(
    samples: Sequence[Sample],
    folder: str | Path,
    size: int = 112,
    workers: int = 2,
    progress: bool = True,
    points: str = "3ddfa",
) -> Path:
    """Cut every sample's `crop()` out of its picture, `size` px a side, and write the arrays; returns the folder.

    images.npy: (N, S, S, 3) uint8, black where a crop leaves the picture. labels.npz: `kind` (N,) int64, 1 with
    landmarks, 2 without; `names` (N,); float32: `landmarks` (N, 68, 2) in crop sides, `visible` and `confidence`
    (N, 68) in [0, 1], 1 where the data set does not say. Rows without landmarks have NaN there and 0 in the other two.
    `points_set` (N,) int64 says for every row by whose definition the points are, `points`, as an index into
    `LABEL_SETS`. The fields of `FaceParameters` are not written: no data set knows them.

    workers: threads (Pillow decodes without Python's lock). A sample that cannot be read or cropped is left out, and
    the first few such are named on stderr; UserError where none is left. Rows keep the order of the samples. A failure
    leaves older arrays as they were, both of them.
    """
    folder, broken, rows = Path(folder), [], []
    with (
        together(folder) as scratch,
        (scratch / "images.npy").open("wb") as file,
        tqdm(total=len(samples), desc="packing", unit="picture", disable=not progress) as bar,
    ):
        _write_header(file, len(samples), size)
        for result in _cropped(samples, size, workers):
            bar.update()
            if isinstance(result, UserError):
                broken.append(result)
                continue
            image, labels = result
            file.write(image.tobytes())
            rows.append(labels)
        if not rows:
            why = f"; the first of {len(broken)}: {broken[0]}" if broken else ""
            raise UserError(f"{folder}: no sample to pack{why}")
        file.seek(0)
        _write_header(file, len(rows), size)
        labels = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        labels["points_set"] = np.full(len(rows), LABEL_SETS.index(points), np.int64)
        np.savez(scratch / "labels.npz", **labels)
    if broken:
        shown = "".join(f"\n  {' '.join(str(error).split())}" for error in broken[:_SHOWN])
        print(f"packing left out {len(broken)} of {len(samples)} samples:{shown}", file=sys.stderr)
    return folder


def _write_header(file, count: int, size: int) -> None:
    """NumPy leaves room for a first axis of any length, so that a later count fits into the same bytes."""
    description = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, description)


def _cropped(samples: Sequence[Sample], size: int, workers: int) -> Iterator[tuple | UserError]:
    """Every sample's picture and labels, or what is wrong with it, in order, decoded in threads."""
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(samples), _AHEAD):
            yield from pool.map(lambda sample: _crop(sample, size), samples[start : start + _AHEAD])


def _crop(sample: Sample, size: int) -> tuple[np.ndarray, dict] | UserError:
    try:
        box = sample.crop()
        image = crop_image(sample.image(), box, size)
    except UserError as error:
        return error if sample.name in str(error) else UserError(f"{sample.name}: {error}")
    known = sample.landmarks is not None
    ones = np.full(68, float(known))
    return image, {
        "names": sample.name,
        "kind": LANDMARKED if known else UNLABELLED,
        "landmarks": np.float32(to_crop(sample.landmarks, box) if known else np.full((68, 2), np.nan)),
        "visible": np.float32(ones if sample.visible is None else ones * sample.visible),
        "confidence": np.float32(ones if sample.confidence is None else ones * sample.confidence),
    }
