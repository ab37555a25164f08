"""The default face model: ICT-FaceKit's head (Li et al. 2020; MIT) with a skin learned from photographs (CC BY 4.0).

`build` makes it from its two sources. Identity modes are ICT-FaceKit's. Their unit is a standard deviation of people:
14 proportions of 42 people's faces, measured by hand, vary 1.07 times as much as those of random faces of the model
(benchmarks/place_london_points.py). The mean face is that of these people, since the published neutral head is not a
mean of people. Mouths are closed (`closing`). The frame is turned so that people who look straight into the camera have
a mean pitch of 0."""

import csv
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.fitting import fit_points
from mlanet_lib.face_sources import london
from mlanet_lib.face_sources.ict import closing, eyes, facekit, head, skin
from mlanet_lib.geometry.alignment import ScaledOrthographic, mean_rotation
from mlanet_lib.geometry.camera import euler_to_matrix, matrix_to_euler

NAME = "ict"
NOISE = 5.6e-5
"""Variance of a hand-placed point about the head, in squared face sizes: (0.75 %)^2, what the fits to people leave."""
EXPRESSIONS = 0.03
"""Variance of the activations in photos that are meant to be neutral, from the same fits."""
ROUNDS = 4
"""Of fitting the people; between two of them the mean face moves to theirs."""
BFM_ROTATION = np.array(
    [[0.999997, 0.002115, -0.001441], [-0.001999, 0.997074, 0.076415], [0.001599, -0.076412, 0.997075]]
)
"""R0 of the published frame, R_BFM = R R0; benchmarks/bfm_rotation.py measures it on training photos."""


@dataclass(frozen=True, eq=False)
class Points:
    """K points on the head: index (K, 3), the vertices that each lies between, weights (K, 3), number (K,) in its label
    set, counts (K,): what it counts in a fit."""

    index: np.ndarray
    weights: np.ndarray
    number: np.ndarray
    counts: np.ndarray

    def of(self, field: np.ndarray) -> np.ndarray:
        """(V, ...) at the vertices -> (K, ...) at the points."""
        return np.einsum("kc,kc...->k...", self.weights, field[self.index])


class People(NamedTuple):
    """Fits of P people: pose, identity (P, Ki) about their mean face `mean` (V, 3) mm, and expression (P, Ke)."""

    pose: ScaledOrthographic
    identity: np.ndarray
    expression: np.ndarray
    mean: np.ndarray


def build(ict: str | Path, london_set: str | Path) -> MorphableModel:
    """The face model from ICT-FaceKit's FaceXModel (folder or archive) and the London Set's folder.

    A file that is missing or not as published is a UserError. The same sources give the same model, bit for bit on one
    machine.
    """
    published, photos = facekit.whole(ict), london.read_skin(london_set)
    cut = head.cut(published.mean, published.triangles, published.uv)
    jaw = published.expression[..., published.expression_names.index("jawOpen")]
    mean, identity = closing.closed(published.mean, published.identity, jaw, head.SKIN)
    mean, identity, expression = (field[cut.source] for field in (mean, identity, published.expression))
    sets = {name: points(name) for name in ("3ddfa", "ibug", "london")}
    people = fit_people(photos.points, sets["london"], mean, identity, expression)
    mean = people.mean
    blinks = [published.expression_names.index(f"eyeBlink{side}") for side in ("Left", "Right")]
    eyeballs = np.isin(cut.part, list(london.IRIS))
    expression[..., blinks] *= closing.shut(mean, expression[..., blinks].sum(2), cut.faces, eyeballs)
    learned = _learned(photos, people, sets["london"], cut, mean, np.concatenate([identity, expression], 2))
    albedo = _coloured(learned, photos, cut, published.mean[cut.source])
    degrees = matrix_to_euler(torch.from_numpy(mean_rotation(people.pose.rotation)))
    upright = euler_to_matrix(degrees * torch.tensor([1, 0, 0])).numpy()  # pitch alone: sides stay mirror images
    return MorphableModel(
        mean=mean @ upright.T,
        identity_basis=np.einsum("ij,vjk->vik", upright, identity),
        expression_basis=np.einsum("ij,vjk->vik", upright, expression),
        albedo_mean=albedo[0],
        albedo_basis=albedo[1],
        faces=cut.faces,
        uv=cut.uv,
        landmark_index=sets["3ddfa"].index,
        landmark_weights=sets["3ddfa"].weights,
        ibug_index=sets["ibug"].index,
        ibug_weights=sets["ibug"].weights,
        bfm_rotation=upright @ mean_rotation(BFM_ROTATION[None]),  # the nearest rotation to the rounded numbers
        expression_names=published.expression_names,
        name=NAME,
    )


def points(name: str) -> Points:
    """The points of a label set ("3ddfa", "ibug" or "london") in points.csv. They lie on the skin, whose vertices have
    the same numbers in the published head and in the built one. A set that is not there is a ValueError."""
    lines = (files(__package__) / "points.csv").read_text(encoding="utf-8").splitlines()
    rows = [row for row in csv.DictReader(line for line in lines if not line.startswith("#")) if row["set"] == name]
    if not rows:
        raise ValueError(f"points.csv has no set {name!r}")
    weights = np.array([[float(row[f"weight_{corner}"]) for corner in "abc"] for row in rows])
    index = np.array([[int(row[corner]) for corner in "abc"] for row in rows])
    numbers = np.array([int(row["point"]) for row in rows])
    return Points(index, weights, numbers, np.array([float(row["counts"]) for row in rows]))


def fit_people(marks: np.ndarray, at: Points, mean: np.ndarray, identity: np.ndarray, expression: np.ndarray) -> People:
    """Pose, identity and expression of people from their points, `marks` (P, N, 2) pixels, y down; mean (V, 3) mm, its
    own mirror image, and modes (V, 3, K). The prior is `NOISE` against one standard deviation of identity.

    The mean face moves to the people's mean, but keeps its size, which photos do not show, and stays symmetric.
    """
    basis = np.concatenate([at.of(identity), at.of(expression)], 2)
    count, ridge = identity.shape[2], np.full(basis.shape[2], NOISE)
    ridge[count:] /= EXPRESSIONS
    goal, counts = marks[:, at.number] * [1, -1], np.tile(at.counts, (len(marks), 1))
    twin, size = cKDTree(mean).query(mean * [-1, 1, 1])[1], at.of(mean).std(0).mean()
    for number in range(ROUNDS):
        pose, found, *_ = fit_points(at.of(mean), basis, goal, counts, ridge, iterations=20)
        if number < ROUNDS - 1:
            moved = mean + identity @ found[:, :count].mean(0)
            moved = 0.5 * (moved + moved[twin] * [-1, 1, 1])
            mean = moved * size / at.of(moved).std(0).mean()
    return People(pose, found[:, :count], found[:, count:], mean)


def _learned(
    photos: london.Photos, people: People, at: Points, cut: head.Head, mean: np.ndarray, shape: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, modes and scores of the skin (`skin.learn`); mean (V, 3) mm, shape (V, 3, Ki + Ke) its modes."""
    camera, marks = [], []
    for number in range(len(photos.names)):
        coefficients = np.concatenate([people.identity[number], people.expression[number]])
        scale, rotation, offset = (field[number] for field in people.pose)
        camera.append(scale * (mean + shape @ coefficients) @ rotation.T + [*offset, 0])
        marks.append(at.of(camera[-1])[:, :2] * [1, -1])
    places = np.full((len(photos.points[0]), 3), np.nan)
    places[at.number] = at.of(mean)
    fitted = skin.Fitted(photos, np.stack(camera), np.stack(marks), at.number, places, mean, cut.faces)
    return skin.learn(fitted, head.SKIN)


def _coloured(
    learned: tuple[np.ndarray, np.ndarray, np.ndarray], photos: london.Photos, cut: head.Head, published: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Albedo's mean (V, 3) and modes (V, 3, Ka) of all parts: the skin's modes, then two of the iris's colour."""
    colour, modes, scores = learned
    iris, sclera = eyes.photographed(photos)
    known = np.column_stack([np.ones(len(scores)), scores[:, :2]])  # dark eyes go with dark skin
    slope = np.linalg.lstsq(known, iris, rcond=None)[0]
    _, values, axes = np.linalg.svd(iris - known @ slope, full_matrices=False)
    own = axes[:2] * values[:2, None] / np.sqrt(len(iris) - 1)
    basis = np.zeros((len(cut.source), 3, modes.shape[2] + len(own)))
    albedo, copies = np.zeros((len(cut.source), 3)), cut.source < head.SKIN
    albedo[copies], basis[copies, :, : modes.shape[2]] = colour[cut.source[copies]], modes[cut.source[copies]]
    for name, inside in eyes.INSIDE.items():
        albedo[(cut.part == name) & ~copies] = inside
    for name in london.IRIS:
        ball = np.flatnonzero(cut.part == name)
        albedo[ball], share = eyes.painted(published[ball], name, slope[0], sclera)
        for mode, change in [*enumerate(slope[1:]), *enumerate(own, modes.shape[2])]:
            basis[ball, :, mode] = np.outer(share, change)
    return albedo.clip(0.01, 0.99), basis
