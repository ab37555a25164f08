"""Does the predicted identity stay the same over a person's expressions and over turns of a head? Our own protocols.

The protocols judge whether photos of one person get the same identity and other people another one, not whether the
identity is right. A system that gives every photo the same face has an AUC of 0.5 and no spread between people.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mlanet_lib.data.sets import photos, scans
from mlanet_lib.data.synthetic import faces
from mlanet_lib.data.synthetic.scenes import light
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.scans import CROP
from mlanet_lib.evaluation.summary import BLOCK, RESAMPLES, bootstrap_interval, text_table
from mlanet_lib.evaluation.systems import System, face_parameters
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.geometry.crops import crop_image
from mlanet_lib.metrics import vertex_error
from mlanet_lib.parameters import FaceParameters

YAW = tuple(range(-60, 61, 15))
DISTANCES = {
    "sd": "Euclidean distance of the identity coefficients, standard deviations (Mahalanobis under the model's prior)",
    "cosine": "1 - cosine of the identity coefficients; a vector of zeros is at right angles to all",
    "mm": "mean vertex distance of the neutral meshes after rigid alignment over all vertices, no scale, mm",
}
FIGURES = ("within", "between", "ratio", "auc", "rank_1")
PROTOCOL = (
    "identity over expressions (this project's): all pairs of a folder's photos; within, between: mean distance of one "
    "person's photos, of two people's, every person (every two) weighing alike; ratio: within / between; auc: "
    "probability that one person's photos are nearer than two people's, ties half; rank_1: share of photos whose "
    "nearest other photo shows the same person; 95 %: Bayesian bootstrap over people (Rubin 1981)"
)
PROTOCOL_TURNS = (
    "identity over turns (this project's): sd_over_yaw: standard deviation of the identity coefficients over the yaws; "
    "sd_between: of people's mean predictions; both root mean square over coefficients (and heads); ratio: the first "
    "over the second; sd, cosine, mm: distance to the frontal picture's prediction, as over expressions"
)


def evaluate_identity(
    folder: str | Path,
    system: System,
    scan: scans.Scan | None = None,
    scan_name: str = "",
    yaw: Sequence[float] = YAW,
    heads: int = 20,
) -> dict:
    """Does the predicted identity change with a smile, or with a turn of the head?

    folder: photos, see `person_of` for their names; of each the largest face that `system.detector` finds is taken.
    scan: a head to be drawn at the yaws, under a lamp, as in `evaluate_scan`. yaw: degrees, 0 among them. heads:
    synthetic people, see `draw_heads`.

    Returns the summary: `photos` (`distances`: by the names of `DISTANCES`, see `recognition`; `people` and their
    number of photos, `rank_1_chance`, `sd_between`, `crop`, `protocol`, `definitions`), `turns` (`synthetic`, and
    `scan` where there is one, see `turn_figures`; `protocol`), `weights`, `folder`. UserErrors: only one person, no
    person with two photos, or a scan that has not the size of a head (`scans.check_size`).
    """
    if 0 not in yaw or len(yaw) < 2 or heads < 2:
        raise UserError("turns need two heads or more, and two yaws or more with 0 (the frontal picture) among them")
    if scan is not None:
        scans.check_size(scan, system.model)
    over_photos = _over_photos(folder, system)
    over_turns: dict = {"synthetic": _over_turns(system, yaw, heads)}
    if scan is not None:
        views = scans.draw_views(scan, system.model, yaw, lit=True)
        found = predict_identity(system, [crop_image(view.image, view.box, system.image_size) for view in views])
        figures = turn_figures(system.model, found[None], yaw, over_photos["sd_between"])
        about = {
            "scan": scan_name,
            "look": f"{scan.look}, lit by a lamp",
            "crop": CROP,
            "people": "those of the photos",
        }
        over_turns["scan"] = figures | about
    over_turns["protocol"] = PROTOCOL_TURNS
    return {"photos": over_photos, "turns": over_turns, "weights": system.weights, "folder": Path(folder).name}


def person_of(name: str) -> str:
    """The person on a photo: its path below the folder, up to the file name's first underscore ("001_smiling.jpg": 001;
    "anna/anna_0001.jpg": anna/anna). Without an underscore it is the whole name."""
    path = Path(name)
    return (path.parent / path.stem.partition("_")[0]).as_posix()


def _over_photos(folder: str | Path, system: System) -> dict:
    if system.detector is None:
        raise UserError("the system under test has no face detector")
    found = photos.read_folder(folder, system.detector)
    found = [sample for sample in found if Path(sample.name).suffix.lower() in photos.PICTURES]  # no second faces
    names = [person_of(sample.name) for sample in found]
    people, person, counts = np.unique(names, return_inverse=True, return_counts=True)
    rule = "photos are named PERSON_anything.jpg"
    if len(people) < 2:
        raise UserError(f"{folder}: faces of one person only ({people[0]}), two are needed; {rule}")
    if counts.max() < 2:
        raise UserError(f"{folder}: a single photo of each person, somebody is needed twice; {rule}")
    identity = predict_identity(system, [crop_image(s.image(), s.crop(), system.image_size) for s in found])
    distances = pair_distances(system.model, identity)
    return {
        "distances": {name: recognition(values, person) for name, values in distances.items()},
        "people": dict(zip(people.tolist(), counts.tolist(), strict=True)),
        "rank_1_chance": float((counts[counts > 1] - 1).mean() / (len(names) - 1)),
        "sd_between": float(sd_between(np.stack([identity[person == k].mean(0) for k in range(len(people))]))),
        "crop": f"face detector ({system.detector.kind}), the photo's largest face",
        "protocol": PROTOCOL,
        "definitions": DISTANCES,
    }


def _over_turns(system: System, yaw: Sequence[float], heads: int) -> dict:
    crops = draw_heads(system.model, yaw, heads, system.image_size)
    identity = predict_identity(system, [crop for head in crops for crop in head]).reshape(heads, len(yaw), -1)
    figures = turn_figures(system.model, identity, yaw, float(sd_between(identity.mean(1))))
    fuller = np.sqrt(heads / (heads - 1))  # a head drawn twice adds no spread: resampling shrinks variances by 1 - 1/H
    interval = bootstrap_interval(identity, lambda x: _ratio(sd_over_yaw(x), fuller * sd_between(x.mean(-2))))
    return figures | {"ratio_interval": interval, "people": "these heads"}


def predict_identity(system: System, crops: Sequence[np.ndarray]) -> np.ndarray:
    """Crops (S, S, 3) uint8 -> identity coefficients (N, Ki), standard deviations, float64."""
    return face_parameters(system, crops).identity.double().numpy()


def pair_distances(model: MorphableModel, identity: np.ndarray) -> dict[str, np.ndarray]:
    """The `DISTANCES` between all pairs of (N, Ki) identities, each (N (N - 1) / 2,) in the order of `triu_indices`."""
    shapes = _neutral(model, identity)
    rows = [_distances(identity[k + 1 :], identity[k], shapes[k + 1 :], shapes[k]) for k in range(len(identity) - 1)]
    return {name: np.concatenate([row[name] for row in rows]) for name in DISTANCES}


def _distances(many: np.ndarray, one: np.ndarray, shapes: np.ndarray, shape: np.ndarray) -> dict[str, np.ndarray]:
    """The `DISTANCES` (N,) of identities (N, Ki) and shapes (N, V, 3) from one."""
    found = {name: values[:, 0] for name, values in coefficient_distances(many, one[None]).items()}
    return found | {"mm": vertex_error(shapes, np.broadcast_to(shape, shapes.shape), scale=False).round(6)}


def coefficient_distances(probes: np.ndarray, gallery: np.ndarray) -> dict[str, np.ndarray]:
    """Distances (P, G) of identities (P, Ki) and (G, Ki), `sd` and `cosine` of `DISTANCES`, rounded so that equal faces
    tie."""
    lengths = np.linalg.norm(probes, axis=1)[:, None] * np.linalg.norm(gallery, axis=1)
    cosine = probes @ gallery.T / np.maximum(lengths, np.finfo(float).tiny)
    return {"sd": np.linalg.norm(probes[:, None] - gallery, axis=2).round(6), "cosine": (1 - cosine).round(6)}


def _neutral(model: MorphableModel, identity: np.ndarray) -> np.ndarray:
    """(N, V, 3) mm: the faces without expression."""
    coefficients = torch.from_numpy(identity).to(model.mean)
    with torch.no_grad():
        shapes = model.vertices(coefficients, coefficients.new_zeros(len(identity), model.n_expression))
    return shapes.cpu().double().numpy()


def recognition(distance: np.ndarray, person: np.ndarray) -> dict:
    """How well a distance tells people apart: `FIGURES` (see `PROTOCOL`) and their `intervals`, 95 %.

    distance: of all pairs of N photos, in the order of `triu_indices`; person: (N,) numbers 0 to P - 1, P >= 2, one of
    them twice. The bootstrap weights people by Dirichlet(1, ..., 1), so that every draw holds at least two people and a
    pair of one person; with few people, Efron's often does not. For rank_1 only the probes are weighted, not the
    gallery.
    """
    people, (first, second) = person.max() + 1, np.triu_indices(len(person), 1)
    a, b = person[first], person[second]
    same, other = a == b, a != b
    counts = np.bincount(person)
    pairs = np.where(same, counts[a] * (counts[a] - 1) / 2, counts[a] * counts[b])  # of this person, of these two
    near, far = distance[same], distance[other]
    lost = (near[:, None] > far) + 0.5 * (near[:, None] == far)
    hits = _hits(distance, person)

    def figures(weight: np.ndarray) -> np.ndarray:
        """(D, 5) under weights (D, P) of the people."""
        own, mixed = (weight[:, a] / pairs)[:, same], (weight[:, a] * weight[:, b] / pairs)[:, other]
        own, mixed = own / own.sum(1, keepdims=True), mixed / mixed.sum(1, keepdims=True)
        within, between = own @ near, mixed @ far
        auc = 1 - (own @ lost * mixed).sum(1)
        rank = weight @ np.nan_to_num(hits) / weight[:, np.isfinite(hits)].sum(1)
        return np.stack([within, between, _ratio(within, between), auc, rank], 1)

    draws = np.random.default_rng(0).dirichlet(np.ones(people), RESAMPLES)
    drawn = [figures(block) for block in np.array_split(draws, 1 + RESAMPLES * len(distance) // BLOCK)]
    bounds = np.quantile(np.concatenate(drawn), [0.025, 0.975], axis=0).T.tolist()
    values = figures(np.ones((1, people)))[0].tolist()
    return {**dict(zip(FIGURES, values, strict=True)), "intervals": dict(zip(FIGURES, bounds, strict=True))}


def _hits(distance: np.ndarray, person: np.ndarray) -> np.ndarray:
    """(P,) the share of a person's photos whose nearest other photo shows the person; NaN for a single photo."""
    full = np.full((len(person), len(person)), np.inf)
    full[np.triu_indices(len(person), 1)] = distance
    full = np.minimum(full, full.T)
    nearest = full == full.min(1, keepdims=True)
    found, counts = (nearest & (person[:, None] == person)).sum(1) / nearest.sum(1), np.bincount(person)
    return np.where(counts > 1, np.bincount(person, found) / counts, np.nan)


def _ratio(over: np.ndarray | float, under: np.ndarray | float) -> np.ndarray:
    """over / under, NaN where that is 0."""
    return np.where(under > 0, over / np.where(under > 0, under, 1), np.nan)


def sd_between(identity: np.ndarray) -> np.ndarray:
    """Standard deviation over people of (..., P, Ki) coefficients, root mean square over coefficients."""
    return np.sqrt(identity.var(-2, ddof=1).mean(-1))


def sd_over_yaw(identity: np.ndarray) -> np.ndarray:
    """Standard deviation over yaws of (..., H, Y, Ki) coefficients, root mean square over heads and coefficients."""
    return np.sqrt(identity.var(-2, ddof=1).mean((-2, -1)))


@torch.no_grad()
def draw_heads(model: MorphableModel, yaw: Sequence[float], heads: int, size: int) -> np.ndarray:
    """(heads, yaws, S, S, 3) uint8: people sampled from the face model's prior, neutral, turned to each yaw, framed as
    training crops are; a person's light, background and sensor noise stay."""
    rng = faces.stream(0, "identity over turns")
    identity, albedo = (torch.as_tensor(x, dtype=torch.float32) for x in faces.sample_people(model, rng, heads))
    lamps, count = light(rng, heads), len(yaw)
    degrees = torch.tensor([[0.0, side, 0.0] for side in yaw])
    pictures = np.empty((heads, count, size, size, 3), np.uint8)
    for number in range(heads):
        one = FaceParameters.neutral(model, count).replace(
            identity=identity[number].repeat(count, 1),
            albedo=albedo[number].repeat(count, 1),
            lighting=lamps[number].repeat(count, 1, 1),
            rotation=euler_to_matrix(degrees),
        )
        points = model.landmarks(model.vertices(one.identity, one.expression))
        place = faces.frame(points, one.rotation, one.focal, torch.zeros(count, 2), torch.ones(count))
        one = one.replace(translation=place)
        for view in range(count):
            scene = faces.stream(0, "identity over turns", str(number))
            pictures[number, view] = faces.draw(model, one[view], scene, size, np.zeros(1, bool)).images[0]
    return pictures


def turn_figures(model: MorphableModel, identity: np.ndarray, yaw: Sequence[float], between: float) -> dict:
    """What turning does to predictions (H, Y, Ki) of heads at yaws (Y,), 0 among them.

    between: see `sd_between`. Returns `heads`, `sd_over_yaw`, `sd_between`, their `ratio`, and `by_yaw`: mean over
    heads of each of `DISTANCES` to the frontal prediction, with `mm_interval` over heads where there are several.
    """
    frontal, rows = list(yaw).index(0), []
    for many in identity:
        shapes = _neutral(model, many)
        rows.append(_distances(many, many[frontal], shapes, shapes[frontal]))
    distances = {name: np.stack([row[name] for row in rows]) for name in DISTANCES}  # (H, Y) each
    by_yaw = []
    for k, side in enumerate(yaw):
        entry: dict = {"yaw": float(side)} | {name: float(values[:, k].mean()) for name, values in distances.items()}
        by_yaw.append(entry | ({"mm_interval": bootstrap_interval(distances["mm"][:, k])} if len(rows) > 1 else {}))
    spread = float(sd_over_yaw(identity))
    ratio = float(_ratio(spread, between))
    return {"heads": len(rows), "sd_over_yaw": spread, "sd_between": between, "ratio": ratio, "by_yaw": by_yaw}


def summary_text(data: dict) -> str:
    """The summary as plain-text tables, with their protocols."""
    photographed, turns = data["photos"], data["turns"]

    def within(value: float, bounds: Sequence[float] | None) -> str:
        return f"{value:.2f}" + (f" ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else "")

    table = [["distance", *FIGURES]]
    for name, entry in photographed["distances"].items():
        table.append([name, *(within(entry[figure], entry["intervals"][figure]) for figure in FIGURES)])
    lines = text_table(table, (-10, *[22] * len(FIGURES)))
    lines += [
        f"{sum(photographed['people'].values())} photos of {len(photographed['people'])} people; by chance ratio 1, "
        f"auc 0.50, rank_1 {photographed['rank_1_chance']:.2f}; in brackets 95 % over people",
        "",
    ]
    table = [["turns", "over yaw", "between", "ratio", "   mm to the frontal picture at yaw"]]
    for name in ("synthetic", "scan"):
        if entry := turns.get(name):
            sides = "  ".join(f"{at['yaw']:+.0f}: {at['mm']:.2f}" for at in entry["by_yaw"] if at["yaw"])
            spreads = f"{entry['sd_over_yaw']:.3f}", f"{entry['sd_between']:.3f}"
            ratio = within(entry["ratio"], entry.get("ratio_interval"))
            table.append([f"{name} ({entry['heads']})", *spreads, ratio, f"   {sides}"])
    lines += text_table(table, (-14, 9, 9, 22, 1))
    lines += [f"weights: {data['weights']}", f"crop: {photographed['crop']}"]
    return "\n".join([*lines, f"protocol: {photographed['protocol']}", f"protocol: {turns['protocol']}"])
