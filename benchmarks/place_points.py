"""Where the rows `3ddfa` and `ibug` of mlanet_lib/face_sources/ict/points.csv come from:

    python benchmarks/place_points.py CROPS_FOLDER ICT FACE_MODEL

The 68 points that ICT-FaceKit names are moved, over the mean face of FACE_MODEL (built of the same head), to where two
label sets of AFLW's crops have them (`calibrated`): 3DDFA's by themselves, which know heads from all sides, then iBUG's
with the heads held as 3DDFA's points of the same photos turn them. Nearly frontal points alone do not tell how far all
heads are pitched: if all of them move along the surface, it looks like a turn. (Placed with free poses, iBUG's had the
same photos look up by 7 degrees more than 3DDFA's, and a network that learned both learned neither.) CROPS_FOLDER:
`images.zip`, `labels.npz` (3DDFA's definition) and `labels_ibug68.npz` (iBUG's), as `mlanet_lib.data.sets.crops` reads
them; crops that `leave_out` in profiles/open.yaml lists are left out, photos of the benchmark that AFLW holds twice.
ICT: the folder or archive FaceXModel. The rows `london` stay as they are: benchmarks/place_london_points.py makes them.
Prints what the points' move leaves of the fits' NME on other crops. About four minutes.
"""

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mlanet_lib.data.sample import Sample
from mlanet_lib.data.sets.crops import read_archive
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.fitting import FitSettings, LandmarkFit, fit_landmarks, landmark_basis
from mlanet_lib.face_model.points import JAW, landmark_twins
from mlanet_lib.face_sources.ict import facekit
from mlanet_lib.files.atomic import atomic_path
from mlanet_lib.files.project import find_root, read_yaml
from mlanet_lib.geometry.camera import DEFAULT_FOCAL, project, to_camera
from mlanet_lib.geometry.crops import to_crop
from mlanet_lib.geometry.surface import Surface
from mlanet_lib.metrics import YAW_BINS, by_yaw, sparse_nme, yaw_bin

TABLE = Path("mlanet_lib/face_sources/ict/points.csv")
COLUMNS = ("set", "point", "a", "b", "c", "weight_a", "weight_b", "weight_c", "counts")
SEED, HELD_OUT = 0, 500
ROUNDS, SETTINGS = 6, FitSettings(1e-2, 8, DEFAULT_FOCAL, variance=1.0, turn=0.2)
"""Of `calibrated`, and of its fits, which may leave a pose at which they are held by 0.2 degrees."""
STAY = 0.05
"""What keeps points where they are, see `calibrated`."""
REACH = 12.0
"""Farthest that a point may lie from the one it replaces, mm."""
PER_BIN, AGREEMENT = 400, 6.0
"""Of 3DDFA's labels: crops taken in each yaw bin; largest mean distance, %, of estimated from hand-annotated points."""
IBUG_COUNTS = {12.0: 350, 25.0: 200, 40.0: 150}
"""Of iBUG's: crops taken of those turned by at most so many degrees, and by more than the row before."""
DISAGREEMENT, SURE = 4.0, 0.7
"""Of iBUG's: largest mean distance from 3DDFA's points, %, and the least mean weight that their spread gives them."""
TURNED, CONTOUR_JAW = 12.0, 0.02
"""Degrees beyond which iBUG's jaw follows the contour in the picture, and what it counts there."""
JAWLINE = {0: 1278, 1: 1272, 2: 12, 3: 1834, 4: 243, 5: 781, 6: 2199, 7: 1447}
JAWLINE |= {9: 3661, 10: 4390, 11: 3022, 12: 2484, 13: 4036, 14: 2253, 15: 3490, 16: 3496}
"""ICT's README: vertices for the jaw of labels like 3DDFA's, which stays on the head, in place of Multi-PIE's."""
INNER_LIPS = {60: 5702, 61: 5711, 62: 5533, 63: 6216, 64: 6207, 65: 6470, 66: 5517, 67: 5966}
"""iBUG's inner lips, at vertices of the lips' edges, where closed lips meet: people's points say so, dlib's do not."""
CORNERS = {48: 87, 54: 93}
"""iBUG's corners of the mouth, which dlib's points have too far inside, and the same points of the London Set."""


class Labelled(NamedTuple):
    """points (N, 68, 2) in crop sides, y down, of faces turned by yaw (N,) degrees, what each counts in a fit (N, 68),
    and the rotations (N, 3, 3) at which they are held, or None."""

    points: np.ndarray
    yaw: np.ndarray
    weights: np.ndarray
    rotations: np.ndarray | None


def labelled(samples: list[Sample], weights: np.ndarray, rotations: np.ndarray | None = None) -> Labelled:
    """Samples as `Labelled`; weights: (N, 68)."""
    points = np.stack([to_crop(sample.landmarks, sample.crop()) for sample in samples])
    return Labelled(points, np.array([sample.pose_degrees[1] for sample in samples]), weights, rotations)


def of_3ddfa(folder: Path, left_out: list[str]) -> tuple[Labelled, Labelled]:
    """Crops with 3DDFA's points, as many of each yaw bin; and others."""
    samples = [s for s in read_archive(folder) if s.agreement <= AGREEMENT and s.name not in left_out]
    yaw = np.array([sample.pose_degrees[1] for sample in samples])
    order = np.random.default_rng(SEED).permutation(len(samples))
    groups = [order[yaw_bin(yaw[order]) == b] for b in range(len(YAW_BINS))]
    parts = [np.concatenate([group[part] for group in groups]) for part in (slice(PER_BIN), slice(-HELD_OUT, None))]
    return tuple(labelled([samples[k] for k in rows], np.ones((len(rows), 68))) for rows in parts)


def of_ibug(folder: Path, left_out: list[str], model: MorphableModel) -> tuple[Labelled, Labelled]:
    """Crops with iBUG's points, most of them nearly frontal; and others. model: with 3DDFA's points where they are."""
    samples = [s for s in read_archive(folder, "ibug", DISAGREEMENT) if s.name not in left_out]
    sure = np.array([sample.confidence[JAW:].mean() for sample in samples]) > SURE
    aside = np.array([abs(float(sample.pose_degrees[1])) for sample in samples])
    order = np.flatnonzero(sure & (aside < max(IBUG_COUNTS)))
    np.random.default_rng(SEED).shuffle(order)
    used, least = [], -1.0
    for most, count in IBUG_COUNTS.items():
        used.append(order[(aside[order] > least) & (aside[order] <= most)][:count])
        least = most
    used = np.concatenate(used)
    parts = (used, order[~np.isin(order, used)][:HELD_OUT])
    jaw, others = np.arange(68) < JAW, {sample.name: sample for sample in read_archive(folder)}
    found = []
    for rows in parts:
        chosen = [samples[k] for k in rows]
        weights = np.where(jaw & (aside[rows] > TURNED)[:, None], CONTOUR_JAW, 1.0)
        theirs = np.stack([to_crop(others[sample.name].landmarks, sample.crop()) for sample in chosen])
        poses = fit_landmarks(model, theirs, settings=SETTINGS).pose.rotation
        found.append(labelled(chosen, weights, poses))
    return found[0], found[1]


def patch(model: MorphableModel, point: int) -> np.ndarray:
    """(F', 3) the triangles around landmark `point` that are connected with it within `REACH` mm: no eyeball behind a
    lid, no teeth behind a lip."""
    mean, faces = model.mean.detach().cpu().double().numpy(), model.faces.cpu().numpy()
    start = int(model.landmark_index[point, model.landmark_weights[point].argmax()])
    near = faces[(np.linalg.norm(mean - mean[start], axis=1) <= REACH)[faces].all(1)]
    reached = np.zeros(len(mean), bool)
    reached[start] = True
    while True:
        touched = near[reached[near].any(1)]
        if not len(touched):
            return faces[(faces == start).any(1)]
        if reached[touched].all():
            return touched
        reached[touched] = True


def placed(model: MorphableModel, places: np.ndarray, patches: list[np.ndarray] | None = None) -> MorphableModel:
    """The model with its points at the places of its own mean surface nearest to `places`, (68, 3) mm, each within
    `patch` of the point it replaces; patches: those of all 68, where they are known."""
    mean = model.mean.detach().cpu().double().numpy()
    index, weights = np.empty((68, 3), np.int64), np.empty((68, 3))
    for k, place in enumerate(places):
        triangles = patch(model, k) if patches is None else patches[k]
        near = Surface(mean, triangles).closest(place[None])
        index[k], weights[k] = triangles[near.face_index[0]], near.barycentric[0]
    return model.replace(landmark_index=index, landmark_weights=weights)


def calibrated(model: MorphableModel, used: Labelled) -> MorphableModel:
    """The model with its 68 points moved, over its own surface, to where the labels of many faces have them.

    used: faces turned every way. In each round all faces are fitted, held at their rotations if they have some, and
    each point goes to the place of the surface, within `REACH` of where it was at first, that lies nearest to its
    labels under all the fits (Charbonnier-weighted squared distance). The fits stay near the mean face (`SETTINGS`,
    identity and expression alike): what all faces have in common is for the points to explain. Left and right are moved
    alike: mirror images are averaged on the mean face. `STAY`: what a move over the size of a face costs, beside the
    mean squared NME.
    """
    points, weights = used.points, used.weights
    size = np.sqrt(np.ptp(points, axis=1).prod(1))
    start, twins = model, landmark_twins()
    mean, first = model.mean.detach().cpu().double().numpy(), landmark_basis(model)[0]
    rest = STAY * len(points) / np.ptp(first, axis=0)[:2].prod()
    patches = [patch(model, k) for k in range(68)]
    for _ in range(ROUNDS):
        fit = fit_landmarks(model, points, weights, SETTINGS, rotations=used.rotations)
        residual = np.linalg.norm(fit.points - points, axis=2) / size[:, None]
        trust = weights / np.sqrt(1 + (residual / 0.02) ** 2) / size[:, None] ** 2
        places = np.empty((68, 3))
        for k in range(68):
            vertices, corners = np.unique(patches[k], return_inverse=True)
            drawn, corners = _drawn(model, vertices, fit), corners.reshape(-1, 3)
            places[k] = _best_place(mean[vertices], drawn, corners, points[:, k], trust[:, k], rest, first[k])
        model = placed(start, (places + places[twins] * [-1, 1, 1]) / 2, patches)
    return model


def _drawn(model: MorphableModel, vertices: np.ndarray, fit: LandmarkFit) -> np.ndarray:
    """(N, M, 2): where vertices of the model lie in the crops of fits, y down."""
    mean, *bases = (
        field[vertices].detach().cpu().double().numpy()
        for field in (model.mean, model.identity_basis, model.expression_basis)
    )
    coefficients = torch.from_numpy(np.concatenate([fit.identity, fit.expression], 1))
    shape = torch.from_numpy(mean) + torch.einsum(
        "vcm,nm->nvc", torch.from_numpy(np.concatenate(bases, 2)), coefficients
    )
    face = fit.parameters(model)
    turned = to_camera(shape, face.rotation.double(), face.translation.double())
    return project(turned, face.focal.double(), 1, 1)[..., :2].numpy()


def _best_place(
    mean: np.ndarray,
    drawn: np.ndarray,
    corners: np.ndarray,
    labels: np.ndarray,
    trust: np.ndarray,
    rest: float,
    home: np.ndarray,
) -> np.ndarray:
    """(3,) mm on the mean face: the point of the triangles `corners` with the least cost.

    mean: (M, 3) mm; drawn: (N, M, 2) their pictures; labels: (N, 2); trust: (N,); home: (3,) mm.

    sum_n trust_n |q_n - label_n|^2 + rest |x - home|^2 is quadratic in the barycentrics: solved in each triangle, and
    on its edges where the solution lies outside.
    """
    scale = np.sqrt(trust)[:, None, None]
    rows = np.concatenate([(drawn * scale).transpose(0, 2, 1).reshape(-1, len(mean)), np.sqrt(rest) * mean.T])
    goal = np.concatenate([(labels * scale[:, 0]).ravel(), np.sqrt(rest) * home])
    gram, moment = rows.T @ rows, rows.T @ goal
    costs, weights = np.full((len(corners), 4), np.inf), np.zeros((len(corners), 4, 3))
    for number, free in enumerate(([0, 1, 2], [0, 1], [1, 2], [2, 0])):
        at = corners[:, free]
        inner, outer = gram[at[:, :, None], at[:, None]], moment[at]
        edges = np.eye(len(free))[:, 1:] - np.eye(len(free))[:, :1]  # barycentrics = e_0 + edges t
        t = np.linalg.pinv(edges.T @ inner @ edges, hermitian=True) @ ((outer - inner[:, :, 0]) @ edges)[..., None]
        found = np.eye(len(free))[0] + t[..., 0] @ edges.T
        found = found if len(free) == 3 else np.clip(found, 0, 1)
        cost = np.einsum("tk,tkl,tl->t", found, inner, found) - 2 * (outer * found).sum(1)
        costs[:, number], weights[:, number, free] = np.where(found.min(1) < 0, np.inf, cost), found
    triangle, free = np.unravel_index(costs.argmin(), costs.shape)
    return weights[triangle, free] @ mean[corners[triangle]]


def row(name: str, point: int, vertices: Sequence[int], weights: Sequence[float], counts: float = 1) -> list[str]:
    """A row of the table: a point between three vertices of ICT-FaceKit's head."""
    numbers = (f"{weight:.5f}".rstrip("0").rstrip(".") for weight in weights)
    return [name, str(point), *(str(int(vertex)) for vertex in vertices), *numbers, f"{counts:g}"]


def at_vertices(model: MorphableModel, vertices: np.ndarray) -> MorphableModel:
    """The model with its points at 68 of its vertices."""
    return model.replace(
        landmark_index=np.repeat(vertices[:, None], 3, 1), landmark_weights=np.tile([1.0, 0.0, 0.0], (68, 1))
    )


def rows_of(
    name: str, model: MorphableModel, used: Labelled, others: Labelled
) -> tuple[list[list[str]], MorphableModel]:
    """The rows of a label set, and the model with its points there. Says how near the fits to other faces come before
    the move and after it."""
    moved = calibrated(model, used)
    for text, one in (("before", model), ("after", moved)):
        settings = FitSettings(1e-3, 8, DEFAULT_FOCAL)
        fitted = fit_landmarks(one, others.points, others.weights, settings, rotations=others.rotations).points
        nme = by_yaw(sparse_nme(fitted, others.points), others.yaw)
        print(f"{name}, {text}: " + " / ".join(f"{nme[key]:.2f}" for key in YAW_BINS) + " %", flush=True)
    places = zip(moved.landmark_index.tolist(), moved.landmark_weights.tolist(), strict=True)
    return [row(name, k, *place) for k, place in enumerate(places)], moved


def with_lips(rows: list[list[str]], london: list[list[str]]) -> list[list[str]]:
    """iBUG's rows with the inner lips and the corners of the mouth where people have them (`INNER_LIPS`, `CORNERS`)."""
    found = {int(one[1]): one for one in rows}
    found |= {point: row("ibug", point, [vertex] * 3, [1, 0, 0]) for point, vertex in INNER_LIPS.items()}
    by_hand = {int(one[1]): one for one in london}
    found |= {point: ["ibug", str(point), *by_hand[other][2:]] for point, other in CORNERS.items()}
    return [found[point] for point in sorted(found)]


def read(path: Path) -> tuple[list[str], dict[str, list[list[str]]]]:
    """The table's remarks, and its rows by label set."""
    lines = path.read_text(encoding="utf-8").splitlines()
    sets: dict[str, list[list[str]]] = {}
    for one in list(csv.reader(line for line in lines if not line.startswith("#")))[1:]:
        sets.setdefault(one[0], []).append(one)
    return [line for line in lines if line.startswith("#")], sets


def write(path: Path, remarks: list[str], sets: dict[str, list[list[str]]]) -> None:
    """Write the table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for rows in sets.values():
        writer.writerows(rows)
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([*remarks, text.getvalue()]), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("crops", type=Path, metavar="CROPS_FOLDER")
    parser.add_argument("ict", type=Path, metavar="ICT")
    parser.add_argument("face_model", type=Path, metavar="FACE_MODEL")
    parser.add_argument("--out", type=Path, help=f"a copy of {TABLE} to write instead of it")
    options = parser.parse_args(arguments)
    root = find_root(__file__)
    left_out = read_yaml(root / "profiles" / "open.yaml")["data"]["sources"]["aflw_crops"]["leave_out"]
    remarks, sets = read(root / TABLE)
    named = np.array(facekit.read(options.ict).indices["idx_to_landmark_verts"])
    outline = named.copy()
    outline[list(JAWLINE)] = list(JAWLINE.values())
    model = MorphableModel.load(options.face_model)
    sets["3ddfa"], turned = rows_of("3ddfa", at_vertices(model, outline), *of_3ddfa(options.crops, left_out))
    sets["ibug"], _ = rows_of("ibug", at_vertices(model, named), *of_ibug(options.crops, left_out, turned))
    sets["ibug"] = with_lips(sets["ibug"], sets["london"])
    write(options.out or root / TABLE, remarks, sets)


if __name__ == "__main__":
    main()
