"""Where the tables beside this file come from: python -m mlanet_lib.face_models.measure ICT_FACEXMODEL_FOLDER

Reads ICT-FaceKit (Li et al. 2020, MIT licence) and writes statistics of it, no mesh and no topology: the mean place of
some hundred semi-landmarks of one half of the head, their mean displacement at each named expression, and
means, standard deviations and correlations of named anthropometric measures. Building the model needs only the tables.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from mlanet_lib.face_models.chart import MIRROR, ChartInterpolator, mirrored
from mlanet_lib.face_models.measures import MEASURES, POINTS, measure_matrix

SKIN = 11248  # ICT's vertices of face, head and neck
LEFT_OUT = ("eyeLook", "cheekRaiser")
ROUNDS, PER_ROUND = 20, 30


def read_obj(path: Path) -> tuple[np.ndarray, list[list[int]]]:
    """Vertices (N,3) in mm and polygons of the skin."""
    vertices, polygons = [], []
    for line in path.read_text().splitlines():
        if line.startswith("v "):
            vertices.append([float(word) for word in line.split()[1:4]])
        elif line.startswith("f "):
            polygons.append([int(word.split("/")[0]) - 1 for word in line.split()[1:]])
    triangles = [[p[0], p[k], p[k + 1]] for p in polygons for k in range(1, len(p) - 1) if max(p) < SKIN]
    return 10 * np.array(vertices), np.array(triangles)


def boundary_loops(triangles: np.ndarray) -> list[np.ndarray]:
    """Closed chains of the edges that belong to one triangle only."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    _, inverse, count = np.unique(np.sort(edges, 1), axis=0, return_inverse=True, return_counts=True)
    following = dict(edges[count[inverse] == 1].tolist())
    loops = []
    while following:
        loop = [next(iter(following))]
        while loop[-1] in following:
            loop.append(following.pop(loop[-1]))
        loops.append(np.array(loop[:-1]))
    return loops


def sphere_chart(shape: np.ndarray, triangles: np.ndarray, loops: list[np.ndarray]) -> np.ndarray:
    """Conformal map of the closed-up skin onto the unit sphere (mean curvature flow; Kazhdan et al. 2012)."""
    size = len(shape)
    shape = np.concatenate([shape, [shape[loop].mean(0) for loop in loops]])
    fans = [np.stack([np.roll(loop, -1), loop, np.full(len(loop), size + k)], 1) for k, loop in enumerate(loops)]
    closed = np.concatenate([triangles, *fans])
    rows, columns, weights = [], [], []
    for k in range(3):
        i, j, o = closed[:, k], closed[:, (k + 1) % 3], closed[:, (k + 2) % 3]
        p, q = shape[i] - shape[o], shape[j] - shape[o]
        cotangent = 0.5 * (p * q).sum(1) / np.maximum(np.linalg.norm(np.cross(p, q), axis=1), 1e-6)
        rows += [i, j]
        columns += [j, i]
        weights += [cotangent.clip(0.02, 20)] * 2
    place = (np.concatenate(rows), np.concatenate(columns))
    adjacency = sparse.coo_matrix((np.concatenate(weights), place), shape=(len(shape),) * 2).tocsr()
    stiffness = sparse.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency

    def mass(points):
        a, b, c = points[closed].transpose(1, 0, 2)
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
        return np.bincount(closed.ravel(), np.repeat(area / 3, 3), len(points))

    points = shape
    for _ in range(80):
        weight = mass(points)
        points = points - (weight[:, None] * points).sum(0) / weight.sum()
        points = points / np.sqrt(weight.sum() / (4 * np.pi))
        weight = sparse.diags(mass(points))
        points = splu((weight + 0.05 * stiffness).tocsc()).solve(weight @ points)
    points = points / np.linalg.norm(points, axis=1, keepdims=True)
    a, b, c = points[closed].transpose(1, 0, 2)
    if ((np.cross(b - a, c - a) * (a + b + c)).sum(1) <= 0).any():
        raise RuntimeError("the chart folds over itself")
    return points[:size]


def choose(chart, values, weight, fixed, midline):
    """Greedy semi-landmarks: where the spline through those chosen so far misses the values (N,3,C) most."""
    chosen = np.array(sorted(fixed))
    half = np.flatnonzero(chart[:, 0] >= 0)
    for _ in range(ROUNDS):
        points, known = mirrored(chart[chosen], values[0][chosen], values[1][chosen], midline[chosen])
        guess = ChartInterpolator(points, known.reshape(len(points), -1))(chart[half]).reshape(len(half), 3, -1)
        error = np.linalg.norm(guess - values[0][half], axis=1)
        error = (error[:, 0] + 0.5 * error[:, 1:].max(1)) * weight[half]
        print(len(chosen), "points; error of the mean:", np.percentile(error, [50, 95, 100]).round(2), file=sys.stderr)
        added = []
        for i in np.argsort(-error):
            if not added or cdist(chart[[half[i]]], chart[added]).min() > 0.02:
                added.append(half[i])
            if len(added) == PER_ROUND:
                break
        chosen = np.unique(np.concatenate([chosen, added]))
    return chosen


# ICT-FaceKit's README gives two jawlines. These substitutes for the Multi-PIE points 0-7 and 9-16 lie on the face's own
# outline, as the points of 300W-LP and AFLW do: on 3,000 AFLW crops (not AFLW2000-3D) the mean shape under the best
# pose comes as near as 2.89 / 3.32 / 4.00 % (yaw bins), with the Multi-PIE ones 2.97 / 4.33 / 5.81 %.
JAWLINE = dict(zip(range(8), (1278, 1272, 12, 1834, 243, 781, 2199, 1447), strict=True))
JAWLINE |= dict(zip(range(9, 17), (3661, 4390, 3022, 2484, 4036, 2253, 3490, 3496), strict=True))


def main(folder: Path, out: Path) -> None:
    """Write semilandmarks.csv, expressions.csv and measures.csv into `out`."""
    vertices, triangles = read_obj(folder / "generic_neutral_mesh.obj")
    mean = vertices[:SKIN]
    twin = cKDTree(mean).query(mean * MIRROR)[1]
    indices = json.loads((folder / "vertex_indices.json").read_text())
    expressions: dict[str, np.ndarray] = {}
    for name in indices["expressions"]:
        if not name.startswith(LEFT_OUT):
            merged = name.startswith(("browInnerUp", "cheekPuff"))
            arkit = name[:-2] if merged else name.replace("_L", "Left").replace("_R", "Right")
            expressions.setdefault(arkit, np.zeros_like(mean))
            expressions[arkit] += read_obj(folder / f"{name}.obj")[0][:SKIN] - mean
    mean = (mean + mean[twin] * MIRROR) / 2
    opened = mean + 0.8 * expressions["jawOpen"] + 0.5 * (expressions["eyeWideLeft"] + expressions["eyeWideRight"])
    opened = (opened + opened[twin] * MIRROR) / 2
    loops = boundary_loops(triangles)
    chart = sphere_chart(opened, triangles, loops)
    chart = chart + chart[twin] * MIRROR
    chart /= np.linalg.norm(chart, axis=1, keepdims=True)
    midline = twin == np.arange(SKIN)
    chart[midline, 0] = 0

    landmarks = np.array(indices["idx_to_landmark_verts"])
    landmarks[list(JAWLINE)] = list(JAWLINE.values())
    left = {k: int(vertex) for k, vertex in enumerate(landmarks) if mean[vertex, 0] > -0.5}
    named = {name: int(np.argmin(((mean - place) ** 2).sum(1))) for name, place in POINTS.items()}
    labels: dict[int, list[str]] = {}
    for number, vertex in left.items():
        labels.setdefault(vertex, []).append(f"lm{number}")
    for name, vertex in named.items():
        labels.setdefault(vertex, []).append(name)
    for loop in loops:
        centre = mean[loop].mean(0)
        kind = "mouth" if abs(centre[0]) < 5 and centre[1] > -100 else "lid" if centre[0] > 5 else None
        ring = [v for v in loop if kind and mean[v, 0] >= -0.01]
        for number, vertex in enumerate(ring):
            labels.setdefault(int(vertex), []).append(f"{kind}{number}")
    stack = np.stack([mean, *expressions.values()], -1)
    weight = np.where(mean[:, 2] > 45, 1.0, 0.35) * np.where(mean[:, 1] < -120, 0.1, 1.0)
    values = (stack, stack[twin] * MIRROR[:, None])
    chosen = choose(chart, values, weight, labels, midline)

    licence = (folder.parent / "LICENSE").read_text().split("\n\n", 1)
    head = ["Statistics of ICT-FaceKit's morphable model (Li et al. 2020, Learning Formation of Physically-Based Face"]
    head += ["Attributes), computed by mlanet_lib/face_models/measure.py. ICT-FaceKit is under this licence:"]
    head += [line for part in licence for line in part.splitlines() if line]

    def write(name, header, rows):
        with (out / name).open("w", newline="") as file:
            file.writelines(f"# {line}\n" for line in head)
            csv.writer(file, lineterminator="\n").writerows([header, *rows])

    rows = [[" ".join(labels.get(v, [])), *np.round(chart[v], 5), *np.round(mean[v], 2)] for v in chosen.tolist()]
    write("semilandmarks.csv", ["label", "chart_x", "chart_y", "chart_z", "x_mm", "y_mm", "z_mm"], rows)
    rows = [
        [name, number, *np.round(field[v], 2)]
        for name, field in expressions.items()
        for number, v in enumerate(chosen.tolist())
        if np.abs(field[v]).max() > 0.15
    ]
    write("expressions.csv", ["expression", "row", "dx_mm", "dy_mm", "dz_mm"], rows)

    identities = [read_obj(folder / f"identity{k:03d}.obj")[0][:SKIN] - vertices[:SKIN] for k in range(100)]
    modes = np.stack(identities, -1)
    modes = (modes + modes[twin] * MIRROR[:, None]) / 2
    point_index = {**{f"lm{k}": v for k, v in left.items()}, **named}
    matrix = measure_matrix(point_index, twin, SKIN)
    effect = np.einsum("mvc,vck->mk", matrix, modes)
    covariance = effect @ effect.T
    sd = np.sqrt(np.diag(covariance))
    means = np.einsum("mvc,vc->m", matrix, mean)
    correlation = covariance / np.outer(sd, sd)
    rows = [[m, *np.round([means[i], sd[i]], 2), *np.round(correlation[i], 3)] for i, m in enumerate(MEASURES)]
    write("measures.csv", ["measure", "mean_mm", "sd_mm", *MEASURES], rows)
    rms = {k: np.sqrt((modes[mean[:, 2] > k] ** 2).sum(2).mean() * 3).round(2) for k in (-200, 40)}
    print("identity RMS in mm (head, face):", rms, file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent)
