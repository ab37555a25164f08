"""The floor under the face model: python benchmarks/fit_floor.py AFLW2000_FOLDER [FACE_MODEL.npz]

Pose, identity and expression are fitted to the 68 points of every photo by optimisation, no network: what is left is
how far the model, and its definition of the points, is from the labels. `ridge` is the variance of a point's noise, in
squared NME, that the prior is weighed against; `variance` that of the expressions' activations (0.1: as training labels
are made; 1: the prior of the figures before face model `ict`).
"""

import sys

import numpy as np

from mlanet_lib.data.sets import aflw2000
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.fitting import EXPRESSION_VARIANCE, FitSettings, fit_landmarks
from mlanet_lib.geometry.camera import DEFAULT_FOCAL
from mlanet_lib.geometry.crops import to_crop
from mlanet_lib.metrics import YAW_BINS, by_yaw, sparse_nme


def main(folder: str, face_model: str = "data/face_models/ict.npz") -> None:
    """Print the table."""
    samples, model = aflw2000.read_folder(folder), MorphableModel.load(face_model)
    yaw = np.array([sample.pose_degrees[1] for sample in samples])
    points = np.stack([to_crop(sample.landmarks, sample.crop()) for sample in samples])
    print(f"{model.name}, {len(samples)} photos; NME % 0-30 / 30-60 / 60-90, balanced, over images; coefficients (rms)")
    for focal in (None, DEFAULT_FOCAL):
        for variance in (1.0, EXPRESSION_VARIANCE):
            for ridge in (1e-4, 1e-3, 1e-2):
                fit = fit_landmarks(model, points, settings=FitSettings(ridge, focal=focal, variance=variance))
                nme = by_yaw(sparse_nme(fit.points, points), yaw)
                spread = (np.sqrt((c**2).mean()) for c in (fit.identity, fit.expression))
                print(
                    f"{'perspective' if focal else 'orthographic':14}ridge {ridge:<8g}variance {variance:<5g}"
                    + " / ".join(f"{nme[key]:.2f}" for key in YAW_BINS)
                    + f"   {nme['balanced_mean']:.2f}   {nme['image_mean']:.2f}   "
                    + "identity {:.2f} sd, expression {:.2f}".format(*spread),
                    flush=True,
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
