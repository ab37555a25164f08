"""How good are the labels that `mlanet data annotate` makes? Beside AFLW's hand-annotated points, on crops of AFLW.

    python benchmarks/annotate.py FOLDER [--count 600]

FOLDER: images.zip and labels.npz with `landmarks21`, as `mlanet_lib.data.sets.crops` reads them. For dlib's predictor
(the extra `annotate`) and for the network, by |yaw|: how many faces got labels; how far those lie from the points that
people annotated, % of the face (the points of AFLW's 21 that are one of the 68); the correlation of a point's spread
with that distance. Before that, where the boxes of dlib's own detector lie, which is where its predictor expects faces:
their centre from the mean of points 17-67, and their side, in larger sides of the points' box
(`predictor.annotator.DLIB_SIDE`, `STARTS`).
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mlanet_lib.data.annotate import labelled
from mlanet_lib.data.sample import AFLW21, Sample
from mlanet_lib.data.sets.crops import read_archive
from mlanet_lib.predictor.annotator import DlibPoints, FaceAnnotator
from mlanet_lib.predictor.predictor import Predictor

ALIKE = {k: few[0] for k, few in enumerate(AFLW21) if len(few) == 1}
"""Of AFLW's 21 points those that are one of the 68, and which."""
BINS = ((0, 15), (15, 30), (30, 50), (50, 90))


def boxes(samples: list[Sample], predictor: Predictor) -> None:
    """Print where dlib's detector puts its boxes."""
    import dlib

    detector, rows = dlib.get_frontal_face_detector(), []
    for sample in tqdm(samples, "boxes"):
        picture = sample.image()
        large = np.asarray(Image.fromarray(picture).resize((3 * picture.shape[1], 3 * picture.shape[0])))
        found, faces = detector(large, 0), predictor.faces(picture)
        if len(found) == 1 and faces and not faces[0].turns:
            points, box = faces[0].landmarks68, found[0]
            centre = np.array([box.left() + box.right() + 1, box.top() + box.bottom() + 1]) / 6
            side = np.ptp(points, axis=0).max()
            rows.append([*(centre - points[17:].mean(0)) / side, (box.width() + box.height()) / 6 / side])
    said = [f"{mean:.3f} +- {sd:.3f}" for mean, sd in zip(np.mean(rows, 0), np.std(rows, 0), strict=True)]
    print(f"{len(rows)} boxes of dlib's detector: right {said[0]}, down {said[1]}, side {said[2]} sides of the points")


def judge(samples: list[Sample], annotator: FaceAnnotator) -> None:
    """Print a row for each bin of yaw."""
    errors, spreads, yaws, counts = [], [], [], np.zeros((len(BINS), 2), int)
    for sample in tqdm(samples, annotator.definition):
        yaw = abs(sample.pose_degrees[1])
        inside = [k for k, (low, high) in enumerate(BINS) if low <= yaw < high]
        if not inside:
            continue
        counts[inside[0], 0] += 1
        faces = annotator.faces(sample.image())  # the largest is the one that the crop was made of
        row = labelled(faces[0], annotator.definition) if faces else "no face"
        if isinstance(row, str):
            continue
        counts[inside[0], 1] += 1
        chosen = np.array(list(ALIKE.values()))
        face, points = faces[0], faces[0].origin + row["landmarks68"] * faces[0].zoom
        size = np.sqrt(np.ptp(sample.landmarks, axis=0).prod())
        errors.append(100 * np.linalg.norm(points[chosen] - sample.points21[list(ALIKE)], axis=1) / size)
        spreads.append(100 * row["spread"][chosen] * face.zoom / size)
        yaws.append(yaw)
    errors, spreads, yaws = map(np.array, (errors, spreads, yaws))
    print(f"\n{annotator.source}\n{'|yaw|':>8}{'faces':>8}{'labels':>8}{'median NME':>12}{'90 %':>8}{'r spread':>10}")
    for (low, high), (faces, kept) in zip(BINS, counts, strict=True):
        here = (low <= yaws) & (yaws < high)
        if not here.any():
            print(f"{low:>4}-{high:<3}{faces:8}{kept:8}")
            continue
        nme, known = np.nanmean(errors[here], 1), np.isfinite(errors[here])
        r = np.corrcoef(np.log(spreads[here][known] + 0.01), np.log(errors[here][known] + 0.01))[0, 1]
        print(f"{low:>4}-{high:<3}{faces:8}{kept:8}{np.median(nme):12.2f}{np.quantile(nme, 0.9):8.2f}{r:10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=600, help="crops, drawn at random")
    options = parser.parse_args()
    samples = read_archive(options.folder)
    chosen = np.random.default_rng(0).permutation(len(samples))[: options.count]
    samples = [samples[k] for k in chosen if np.isfinite(samples[k].pose_degrees[1])]
    predictor, points = Predictor.load(), DlibPoints.load()
    if points is not None:
        boxes(samples, predictor)
        judge(samples, FaceAnnotator(predictor, points))
    judge(samples, FaceAnnotator(predictor, None))


if __name__ == "__main__":
    main()
