"""The constants of `detector.YUNET_CROP`: where the training crop lies relative to YuNet's box.

    python benchmarks/detector.py AFLW_CROPS [YOUTUBE_FACES]

Each folder holds images.zip and labels.npz (names, landmarks68 in pixels). In units of s = sqrt(box width * height)
from the box's centre: how far the crop's centre lies below (median), how far to the side in the nose's offset (least
absolute deviations through zero), and how long the crop's side is (median); then the overlap (IoU) of the crops that
these constants say with the labels'. Of AFLW, photos whose two labels disagree by more than 9 % are left out; every
fourth photo is looked at. The second folder is only looked at, with the constants as they stand.
"""

import argparse
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mlanet_lib.predictor import detector
from mlanet_lib.predictor.detector import Detection, Detector

EVERY, DISAGREEMENT = 4, 9.0


def labelled(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each fourth photo (H, W, 3), and its training crop (4,) x, y, width, height."""
    labels = np.load(folder / "labels.npz")
    good = np.arange(len(labels["names"]))
    if "agreement" in labels:
        good = np.flatnonzero(labels["agreement"] <= DISAGREEMENT)
    with zipfile.ZipFile(folder / "images.zip") as archive:
        for k in good[::EVERY]:
            low, high = (limit(labels["landmarks68"][k, :, :2], 0) for limit in (np.min, np.max))
            side = (high - low).max() * np.sqrt(2)
            photo = Image.open(io.BytesIO(archive.read(str(labels["names"][k])))).convert("RGB")
            yield np.asarray(photo), np.array([*((low + high) / 2 - side / 2), side, side])


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    sides = np.minimum(one[:2] + one[2:], other[:2] + other[2:]) - np.maximum(one[:2], other[:2])
    shared = np.prod(np.maximum(sides, 0))
    return float(shared / (np.prod(one[2:]) + np.prod(other[2:]) - shared))


def found_in(folder: Path, finder: Detector) -> list[tuple[Detection, np.ndarray]]:
    """The upright face that YuNet found nearest to each label, if one is there, and the label's crop."""
    pairs, count = [], 0
    for photo, crop in labelled(folder):
        count += 1
        faces = finder.detect(photo, thorough=False)
        if faces:
            best = max(faces, key=lambda face: overlap(face.box, crop))
            if overlap(best.box, crop) > 0.1:
                pairs.append((best, crop))
    print(f"{folder.name}: a face found in {len(pairs)} of {count} photos")
    return pairs


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """The a of y = a x with the least absolute deviations: the median of y / x weighted by |x|."""
    ratio, order = y / x, np.argsort(y / x)
    weight = np.abs(x)[order].cumsum()
    return float(ratio[order][np.searchsorted(weight, weight[-1] / 2)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    options = parser.parse_args()
    finder = Detector.load()
    for number, folder in enumerate(options.folders):
        pairs = found_in(folder, finder)
        boxes, crops = (np.array(part) for part in zip(*((face.box, crop) for face, crop in pairs), strict=True))
        noses = np.array([face.points[2, 0] for face, _ in pairs])
        size = np.sqrt(boxes[:, 2] * boxes[:, 3])
        offset = (crops[:, :2] + crops[:, 2:] / 2 - boxes[:, :2] - boxes[:, 2:] / 2) / size[:, None]
        nose = (noses - boxes[:, 0] - boxes[:, 2] / 2) / size
        measured = {
            "down": float(np.median(offset[:, 1])),
            "nose": slope(nose, offset[:, 0]),
            "side": float(np.median(crops[:, 2] / size)),
        }
        print({name: round(value, 4) for name, value in measured.items()})
        for constants in [detector.YUNET_CROP] + [measured] * (number == 0):
            detector.YUNET_CROP.update(constants)
            said = [overlap(face.crop(), crop) for face, crop in pairs]
            print(f"{constants}: mean overlap {np.mean(said):.4f}, median {np.median(said):.4f}")


if __name__ == "__main__":
    main()
