"""Where the 68 points sit on the project's face models: places in mm on the mean face, calibrated on labelled photos.

`mlanet_lib.face_models.calibrate` made the table beside this file.
"""

import csv
from pathlib import Path

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.surface import Surface

TABLE = Path(__file__).with_name("landmarks.csv")
REACH = 12.0
"""Farthest that a calibrated point may lie from the one it replaces, mm."""


def load(name: str, path: Path = TABLE) -> np.ndarray:
    """(68, 3) mm: the calibrated points of face model `name` on its mean face. None of that name: UserError."""
    with path.open(encoding="utf-8") as file:
        rows = [row[2:] for row in csv.reader(line for line in file if line[0] != "#") if row[0] == name]
    if len(rows) != 68:
        raise UserError(f"{path.name} has no points for the face model '{name}'")
    return np.array(rows, np.float64)


def patch(model: MorphableModel, point: int, reach: float = REACH) -> np.ndarray:
    """(F', 3) the triangles around landmark `point` that are connected with it within `reach` mm: no eyeball behind a
    lid, no teeth behind a lip."""
    mean, faces = model.mean.detach().cpu().double().numpy(), model.faces.cpu().numpy()
    start = int(model.landmark_index[point, model.landmark_weights[point].argmax()])
    near = faces[(np.linalg.norm(mean[faces] - mean[start], axis=2) <= reach).all(1)]
    reached = np.zeros(len(mean), bool)
    reached[start] = True
    while True:
        touched = near[reached[near].any(1)]
        if not len(touched):
            return faces[(faces == start).any(1)]
        if reached[touched].all():
            return touched
        reached[touched] = True


def placed(model: MorphableModel, places: np.ndarray, reach: float = REACH) -> MorphableModel:
    """The model with its points at the places of its own mean surface nearest to `places`, (68, 3) mm, each within
    `patch` of the point it replaces."""
    mean = model.mean.detach().cpu().double().numpy()
    index, weights = np.empty((68, 3), np.int64), np.empty((68, 3))
    for k, place in enumerate(places):
        triangles = patch(model, k, reach)
        near = Surface(mean, triangles).closest(place[None])
        index[k], weights[k] = triangles[near.face_index[0]], near.barycentric[0]
    return model.replace(landmark_index=index, landmark_weights=weights)
