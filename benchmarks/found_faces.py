"""How many faces the detector finds, how exactly, and how many that are none; today and before.

    python benchmarks/found_faces.py [--aflw2000 FOLDER] [--crops FOLDER] [--london FOLDER] [--seed N]
                                     [--save F] [--against F]

A table with one row for each set of photos:

- photos of AFLW2000-3D as they are, their face labelled;
- every fourth London portrait at 1350 px, one face each: the detector's own face at 675 px is the label;
- collages of small faces: 24 faces of 12 to 60 px (the square root of the detector's box, about) in noise of 2,000 to
  4,000 px, and the same with one portrait in front of it that takes half the height. Of AFLW2000-3D and of AFLW crops.

Found: labels whose crop a detection's crop overlaps by more than 0.4 (IoU; its mean is beside it). Others: detections
that are at no label. --save keeps the boxes in a file, with which --against compares: to see what a change does, run
the script with PYTHONPATH at the older version and --save first. Same boxes: mean IoU of the boxes at the same label.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from detector import labelled, overlap

from mlanet_lib.data.sets.aflw2000 import read_sample
from mlanet_lib.files.folders import listed
from mlanet_lib.files.pictures import read_photo
from mlanet_lib.predictor.detector import Detector

ENOUGH, COLLAGES, SMALL_FACES, SIZES = 0.4, 8, 24, (12, 18, 27, 40, 60)
LOOSE = 1.5  # crops around the label's, in its sides, that are pasted


class Scene(NamedTuple):
    """A photo (H, W, 3), and the training crops (N, 4) x, y, width, height of the faces in it."""

    photo: np.ndarray
    crops: np.ndarray


def aflw2000(folder: Path) -> Iterator[Scene]:
    for path in listed(folder):
        sample = read_sample(path)
        yield Scene(sample.image(), np.array([sample.crop()]))


def london(folder: Path, finder: Detector) -> Iterator[Scene]:
    for path in sorted(folder.glob("*.jpg"))[::4]:
        photo = read_photo(path)
        crops = np.array([face.crop() for face in finder.detect(photo)[:1]])
        yield Scene(cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), 2 * crops)


def noise(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) uint8 of noise with all scales, as pictures have it."""
    picture = np.zeros((height, width, 3), np.float32)
    for cells in (4, 16, 64, 256):
        layer = rng.normal(0, 60 / cells**0.4, (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + 127 + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def pasted(photo: np.ndarray, scene: Scene, crop_side: float, x: int, y: int) -> np.ndarray:
    """Paste the face of a scene, its crop so many pixels wide, its surroundings' corner at x, y; its crop there."""
    left, top, side, _ = scene.crops[0]
    low = np.maximum(np.array([left, top]) - (LOOSE - 1) / 2 * side, 0).astype(int)
    high = np.array([left, top]) + (LOOSE + 1) / 2 * side
    piece = scene.photo[low[1] : int(high[1]), low[0] : int(high[0])]
    scale = crop_side / side
    small = cv2.resize(piece, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    small = small[: photo.shape[0] - y, : photo.shape[1] - x]
    photo[y : y + small.shape[0], x : x + small.shape[1]] = small
    return np.array([x + (left - low[0]) * scale, y + (top - low[1]) * scale, crop_side, crop_side])


def collages(faces: list[Scene], big: bool, seed: int) -> Iterator[Scene]:
    rng = np.random.default_rng(seed)
    ground = noise(3000, 4000, rng)
    for number in range(COLLAGES):
        width = int(rng.integers(2000, 4001))
        photo, crops = np.roll(ground, number * 500, 1)[: width * 3 // 4, :width].copy(), []
        cells = rng.permutation(48)[:SMALL_FACES]  # of 8 x 6
        for k, cell in enumerate(cells):
            side = 1.29 * SIZES[k % len(SIZES)] * rng.uniform(0.9, 1.1)
            x, y = (int(width / 8 * (place + 0.2)) for place in (cell % 8, cell // 8))
            if not (big and cell % 8 in (3, 4, 5) and cell // 8 > 1):
                crops.append(pasted(photo, faces[int(rng.integers(len(faces)))], side, x, y))
        if big:
            side = width * 3 / 8
            crops.append(pasted(photo, faces[number], side, int(width * 0.38), int(width * 0.25)))
        yield Scene(photo, np.array(crops))


def found_in(scenes: Iterator[Scene], finder: Detector) -> dict[str, np.ndarray]:
    """For each label its crop, the box found at it (NaN: none) and the overlap of their crops; others; seconds."""
    labels, boxes, overlaps, others, seconds = [], [], [], [], []
    for photo, crops in scenes:
        start = time.perf_counter()
        faces = finder.detect(photo)
        seconds.append(time.perf_counter() - start)
        shared = np.array([[overlap(face.crop(), crop) for face in faces] for crop in crops]).reshape(len(crops), -1)
        for crop, row in zip(crops, shared, strict=True):
            hit = len(row) > 0 and row.max() > ENOUGH
            labels.append(crop)
            boxes.append(faces[row.argmax()].box_in_photo(*photo.shape[:2]) if hit else np.full(4, np.nan))
            overlaps.append(row.max() if hit else np.nan)
        others.append(sum(shared[:, k].max(initial=0) <= ENOUGH for k in range(len(faces))))
    columns = {"labels": labels, "boxes": boxes, "overlaps": overlaps, "others": others, "seconds": seconds}
    return {name: np.array(column) for name, column in columns.items()}


def described(name: str, found: dict[str, np.ndarray], before: dict[str, np.ndarray] | None) -> str:
    there = ~np.isnan(found["overlaps"])
    cells = [f"{there.sum()} of {len(there)}", f"{np.nanmean(found['overlaps']):.3f}", f"{found['others'].sum()}"]
    same = ""
    if before is not None:
        both = there & ~np.isnan(before["overlaps"])
        same = (
            f"{np.mean([overlap(*pair) for pair in zip(found['boxes'][both], before['boxes'][both], strict=True)]):.3f}"
        )
    cells += [same, f"{1e3 * np.median(found['seconds']):.0f}"]
    return " | ".join([name, *cells])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--aflw2000", "--crops", "--london", "--save", "--against"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the collages")
    options = parser.parse_args()
    finder, seed, sets = Detector.load(), options.seed, {}
    if options.aflw2000:
        photos = list(aflw2000(options.aflw2000))
        sets["AFLW2000-3D"] = iter(photos)
        sets |= {
            "AFLW2000-3D, small": collages(photos, False, seed),
            "AFLW2000-3D, small and one large": collages(photos, True, seed),
        }
    if options.crops:
        crops = [Scene(photo, crop[None]) for photo, crop in itertools.islice(labelled(options.crops), 1000)]
        sets |= {
            "AFLW crops, small": collages(crops, False, seed),
            "AFLW crops, small and one large": collages(crops, True, seed),
        }
    if options.london:
        sets["London at 1350 px"] = london(options.london, finder)
    found = {name: found_in(scenes, finder) for name, scenes in sets.items()}
    kept = {}
    if options.against:
        with np.load(options.against) as file:
            kept = {name: {key: file[f"{name}/{key}"] for key in rows} for name, rows in found.items()}
    print("photos | found | mean overlap with the label | others | same boxes | ms a photo (median)")
    for name, rows in found.items():
        if kept:
            print(described(f"{name}, before", kept[name], None))
        print(described(name, rows, kept.get(name)), flush=True)
        if "small" in name:
            sizes = rows["labels"][:, 2] / 1.29
            bins = np.searchsorted(np.sqrt(np.multiply(SIZES[1:], SIZES[:-1])), sizes)
            for when, some in (("before", kept.get(name)), ("now", rows)):
                if some:
                    hit = ~np.isnan(some["overlaps"])
                    of = [f"{size} px {hit[bins == k].mean():.2f}" for k, size in enumerate(SIZES)]
                    print(f"    {when}: {', '.join(of)}")
    if options.save:
        np.savez(
            options.save, **{f"{name}/{key}": value for name, rows in found.items() for key, value in rows.items()}
        )


if __name__ == "__main__":
    main()
