"""Where the London Set's 189 points sit on ICT-FaceKit's head, and how much real faces vary beside the model's.

    python benchmarks/place_london_points.py ICT LONDON

ICT: FaceXModel's folder or archive; LONDON: the set's folder. Only people whose use in london.csv is "skin" are read.
Starting from ICT-FaceKit's own 68 vertices and the ears, which are placed by hand (they are what tells pitch from the
shape of a frontal face), the head is fitted to each person's points, each point goes to the median place of the
surface that lies under it, and so on, by turns. The rows of points.csv are printed for the set "london"; on stderr
what the fits leave, and the standard deviation over people of 14 proportions against that over random faces of the
model, which says what the unit of the identity coefficients is."""

import sys
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from mlanet_lib.evaluation import likeness_metrics
from mlanet_lib.face_model.fitting import fit_points
from mlanet_lib.face_sources import london
from mlanet_lib.face_sources.ict import build, closing, facekit, head
from mlanet_lib.geometry.alignment import ScaledOrthographic
from mlanet_lib.geometry.mesh import vertex_normals
from mlanet_lib.geometry.surface import Surface

ROUNDS, NEAR = 5, 3.0
"""Of fitting and placing; px around a point within which the surface is looked for."""
COUNTS = {1.0: (*range(18, 109), *range(158, 183)), 0.6: range(125, 134), 0.3: (*range(109, 125), *range(185, 189))}
"""What points count: features; the jaw; ears and the sides of the face, where hair and the outline make them
uncertain."""
# Of the 68 points those that are points of the set, or the middle of two.
START = {36: (18,), 37: (19, 20), 38: (20, 21), 39: (22,), 42: (23,), 43: (24, 25), 44: (25, 26), 45: (27,), 41: (28,)}
START |= {40: (30,), 47: (31,), 46: (33,), 48: (87,), 54: (93,), 51: (90,), 57: (106,), 62: (96,), 66: (101,)}
START |= {33: (55,), 8: (129,)}
# Placed by hand on the published head, mm, right side: the ear from its top to the lobe; inner lips where they meet.
EAR = {115: (-86, 36.5, -2), 116: (-92, 24, -14), 117: (-89, 6, -13.5), 118: (-85, -6.5, -7), 119: (-75, -20, 6)}
UPPER = {96: (0, -33.24, 112.81), 95: (-8.2, -33.1, 111.9), 94: (-16, -33.3, 107.5)}
LOWER = {101: (0, -34.0, 112.53), 100: (-8.4, -33.8, 111.6), 99: (-16, -34.1, 107.2)}
TWINS = {115: 120, 116: 121, 117: 122, 118: 123, 119: 124, 95: 97, 94: 98, 100: 102, 99: 103}


def by_hand(mean: np.ndarray, jaw_open: np.ndarray) -> dict[int, int]:
    """Point number -> vertex, for the points whose place is given; mean and jaw_open: (V, 3) mm."""
    drop = -jaw_open[: head.SKIN, 1]
    lower = drop > 0.5 * drop.max()
    everywhere = np.ones(head.SKIN, bool)
    found = {}
    for places, allowed in ((EAR, everywhere), (UPPER, ~lower), (LOWER, lower)):
        for number, place in places.items():
            for point, side in ((number, 1), (TWINS.get(number), -1)):
                if point is not None:
                    own = np.flatnonzero(allowed)
                    distance = np.linalg.norm(mean[own] - np.multiply(place, (side, 1, 1)), axis=1)
                    found[point] = int(own[distance.argmin()])
    return found


def under(shape: np.ndarray, faces: np.ndarray, pose: ScaledOrthographic, marks: np.ndarray) -> np.ndarray:
    """(N,) the vertex of a posed head's skin that lies under each of marks (N, 2) px, y down: of those that face the
    camera and are near, one in front; if none is near, the nearest."""
    turned = shape @ pose.rotation[0].T * pose.scale[0]
    flat = (turned[:, :2] + pose.offset[0]) * [1, -1]
    facing = vertex_normals(turned, faces)[:, 2] > 0
    seen = np.flatnonzero(facing & (np.arange(len(shape)) < head.SKIN))
    tree = cKDTree(flat[seen])
    found = np.empty(len(marks), int)
    for k, mark in enumerate(marks):
        near = seen[tree.query_ball_point(mark, NEAR)]
        if not len(near):
            near = seen[[tree.query(mark)[1]]]
        near = near[turned[near, 2] > turned[near, 2].max() - 15 * pose.scale[0]]
        found[k] = near[np.linalg.norm(flat[near] - mark, axis=1).argmin()]
    return found


def twins(marks: np.ndarray, used: np.ndarray) -> np.ndarray:
    """(K,) for each of the used points the place of the one on the other side: marks (P, 189, 2)."""
    middle = np.median(marks, axis=0)
    flipped = middle * [-1, 1] + [2 * np.median(marks[:, [54, 55, 129], 0]), 0]
    cost = np.linalg.norm(middle[used][:, None] - flipped[used][None], axis=2)
    return linear_sum_assignment(cost + cost.T)[1]


def main(source: Path, folder: Path) -> None:
    """Place the points, print their rows, and compare how much people and the model vary."""
    whole, photos = facekit.whole(source), london.read_skin(folder)
    jaw = whole.expression[..., whole.expression_names.index("jawOpen")]
    mean, identity = closing.closed(whole.mean, whole.identity, jaw, head.SKIN)
    faces = whole.triangles[(whole.triangles < head.SKIN).all(1)]
    counts = np.zeros(photos.points.shape[1])
    for weight, numbers in COUNTS.items():
        counts[list(numbers)] = weight
    used, basis = np.flatnonzero(counts), np.concatenate([identity, whole.expression], 2)
    ridge = np.full(basis.shape[2], build.NOISE)
    ridge[identity.shape[2] :] /= build.EXPRESSIONS
    fixed, mirror = by_hand(whole.mean, jaw), twins(photos.points, used)
    ears = [number for number in fixed if 115 <= number < 125]
    vertices = np.array(facekit.read(source).indices["idx_to_landmark_verts"])[list(START)]
    vertices = np.concatenate([vertices, [fixed[number] for number in ears]])
    goal = np.stack([photos.points[:, list(numbers)].mean(1) for numbers in START.values()], 1)
    goal = np.concatenate([goal, photos.points[:, ears]], 1) * [1, -1]
    worth = np.tile(np.repeat([1.0, 0.5], [len(START), len(ears)]), (len(goal), 1))
    pose, found, *_ = fit_points(mean[vertices], basis[vertices], goal, worth, 1e-3 * ridge / build.NOISE, 25)
    for _ in range(ROUNDS):
        placed = np.stack(
            [
                whole.mean[
                    under(mean + basis @ found[k], faces, ScaledOrthographic(*(x[k, None] for x in pose)), marks)
                ]
                for k, marks in enumerate(photos.points[:, used])
            ]
        )
        places = np.median(placed, axis=0)
        near = Surface(whole.mean, faces).closest((places + places[mirror] * [-1, 1, 1]) / 2)
        index, weights = faces[near.face_index], near.barycentric.copy()
        for number, vertex in fixed.items():
            index[used == number], weights[used == number] = vertex, (1, 0, 0)
        at = build.Points(index, weights, used, counts[used])
        marks, worth = photos.points[:, used] * [1, -1], np.tile(at.counts, (len(photos.points), 1))
        pose, found, fitted, _ = fit_points(at.of(mean), at.of(basis), marks, worth, ridge, 25)
    for number, corners, weight in zip(used, index, weights, strict=True):
        print(
            ",".join(["london", str(number), *map(str, corners), *(f"{w:.5f}" for w in weight), f"{counts[number]:g}"])
        )
    report(at, mean, identity, photos, marks, fitted)


def report(
    at: build.Points,
    mean: np.ndarray,
    identity: np.ndarray,
    photos: london.Photos,
    marks: np.ndarray,
    fitted: np.ndarray,
) -> None:
    """What the fits leave, and the model's spread beside people's, on stderr."""
    size = np.sqrt(np.ptp(marks, axis=1).prod(1))
    left = (((fitted - marks) ** 2).sum(2) * at.counts).sum(1) / (2 * at.counts.sum()) / size**2
    print(f"variance of a coordinate about the fit, squared face sizes: {left.mean():.1e}", file=sys.stderr)
    people = np.random.default_rng(0).standard_normal((2000, identity.shape[2]))
    shapes = np.full((len(people), photos.points.shape[1], 2), np.nan)
    shapes[:, at.number] = (at.of(mean) + np.einsum("kcm,nm->nkc", at.of(identity), people))[..., :2]
    ratio = likeness_metrics.distances(photos.points).std(0) / likeness_metrics.distances(shapes).std(0)
    for name, value in zip(likeness_metrics.DISTANCES, ratio, strict=True):
        print(f"{name:18} people vary {value:.2f} times as much as the model", file=sys.stderr)
    print(f"geometric mean {np.exp(np.log(ratio).mean()):.2f}", file=sys.stderr)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
