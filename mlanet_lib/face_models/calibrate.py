"""Where landmarks.csv comes from: python -m mlanet_lib.face_models.calibrate CROPS_FOLDER ICT_FACEXMODEL [NAME ...]

The 68 points of the anthropometric model and of ICT-FaceKit are moved by `mlanet_lib.fitting.calibrated` to where the
labels of AFLW's photos have them. NAME: crops left out, those that `leave_out` in profiles/open.yaml lists: photos of
the benchmark that AFLW holds twice.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from mlanet_lib.datasets.crops import read_archive
from mlanet_lib.face_models import anthropometric, ict_facekit
from mlanet_lib.face_models.landmarks import TABLE
from mlanet_lib.fitting import calibrated, fit_landmarks
from mlanet_lib.metrics import YAW_BINS, by_yaw, sparse_nme, yaw_bin

CALIBRATION = {"per_bin": 1000, "agreement": 6.0, "seed": 0}
"""Crops taken in each yaw bin; largest mean distance, %, of their estimated from their hand-annotated points; seed."""


def main(crops: Path, ict: Path, *left_out: str) -> None:
    """Calibrate and write the table; prints what the points' move leaves of the fits' NME on other crops."""
    samples = [s for s in read_archive(crops) if s.agreement <= CALIBRATION["agreement"] and s.name not in left_out]
    order = np.random.default_rng(CALIBRATION["seed"]).permutation(len(samples))
    bins = yaw_bin([samples[i].pose_degrees[1] for i in order])
    groups = [order[bins == b] for b in range(len(YAW_BINS))]
    used, others = (
        np.concatenate([g[part] for g in groups]) for part in (slice(CALIBRATION["per_bin"]), slice(-500, None))
    )
    points = np.stack([sample.landmarks for sample in samples])
    yaw = np.array([sample.pose_degrees[1] for sample in samples])
    rows = []
    for model in (anthropometric.build(calibrated=False), ict_facekit.convert(ict, calibrated=False)):
        moved = calibrated(model, points[used])
        for text, one in (("before", model), ("after", moved)):
            nme = by_yaw(sparse_nme(fit_landmarks(one, points[others], ridge=1e-3).points, points[others]), yaw[others])
            print(
                f"{model.name}, {text}: " + " / ".join(f"{nme[name]:.2f}" for name in YAW_BINS) + " %", file=sys.stderr
            )
        places = moved.landmarks(moved.mean[None])[0].tolist()
        rows += [[model.name, k, *(f"{x:.2f}" for x in place)] for k, place in enumerate(places)]
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        file.write("# the 68 points on the mean face of each model, mm; calibrated on AFLW photos (calibrate.py)\n")
        csv.writer(file, lineterminator="\n").writerows([["model", "point", "x", "y", "z"], *rows])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]), *sys.argv[3:])
