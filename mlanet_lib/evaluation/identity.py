"""Identity that stays the same: over a person's expressions, and over the turns of one head. This project's protocols.

Judged is only whether the predicted identity comes back, and is another one for another person; not whether it is
right. A system that answers every photo with one face has an AUC of 0.5 and no spread between people.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mlanet_lib import metrics
from mlanet_lib.data.sets import photos, scans
from mlanet_lib.data.synthetic import faces
from mlanet_lib.data.synthetic.scenes import light
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.scans import CROP
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.geometry.crops import crop_image
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


@dataclass(frozen=True, eq=False)
class IdentityResult:
    """`summary`: JSON-able (see `evaluate_identity`); `pairs`: a dict for every two photos: first, second, same, and
    the `DISTANCES`; `turns`: a dict for every head and yaw: head, yaw, and the `DISTANCES` to its frontal picture."""

    summary: dict
    pairs: list[dict]
    turns: list[dict]


def evaluate_identity(
    folder: str | Path,
    system,
    scan: scans.Scan | None = None,
    scan_name: str = "",
    yaw: Sequence[float] = YAW,
    heads: int = 20,
    seed: int = 0,
) -> IdentityResult:
    """Does the predicted identity change with a smile, or with a turn of the head?

    folder: photos, see `person_of` for their names; of each the largest face that `system.detector` finds is taken.
    system: has `predict_crops`, `model` and `image_size`, see `mlanet_lib.evaluation.systems`. scan: a head to be
    drawn at the yaws, under a lamp, as in `evaluate_scan`. yaw: degrees, 0 among them. heads: synthetic people, see
    `draw_heads`.

    The summary holds `photos` (`distances`: by the names of `DISTANCES`, see `recognition`; `people` and their number
    of photos, `rank_1_chance`, `sd_between`, `crop`, `protocol`, `definitions`), `turns` (`synthetic`, and `scan` where
    there is one, see `turn_figures`; `protocol`), `weights`, `folder`. One person only, nobody with two photos, a scan
    of no head's size (`scans.check_size`), or a system without identity coefficients is a UserError.
    """
    if not hasattr(system, "predict_crops"):
        raise UserError("the system under test predicts no identity coefficients")
    if 0 not in yaw or len(yaw) < 2 or heads < 2:
        raise UserError("turns need two heads or more, and two yaws or more with 0 (the frontal picture) among them")
    if scan is not None:
        scans.check_size(scan, system.model)
    over_photos, pairs = _over_photos(folder, system, seed)
    model, size = system.model, system.image_size
    pictures = draw_heads(model, yaw, heads, size, seed)
    predicted = predict_identity(system, pictures.reshape(-1, size, size, 3)).reshape(heads, len(yaw), -1)
    names = [f"synthetic {number}" for number in range(heads)]
    figures, turns = turn_figures(model, predicted, yaw, names, sd_between(predicted.mean(1)))
    fuller = np.sqrt(heads / (heads - 1))  # a head drawn twice adds no spread: resampling shrinks variances by 1 - 1/H
    interval = metrics.bootstrap_interval(
        predicted, lambda x: _ratio(sd_over_yaw(x), fuller * sd_between(x.mean(1))), seed
    )
    over_turns = {"synthetic": figures | {"ratio_interval": interval, "people": "these heads"}}
    if scan is not None:
        views = scans.draw_views(scan, model, yaw, lit=True)
        predicted = predict_identity(system, [crop_image(view.image, view.box, size) for view in views])[None]
        figures, more = turn_figures(model, predicted, yaw, [scan_name], over_photos["sd_between"])
        look = f"{scan.look}, lit by a lamp"
        over_turns["scan"] = figures | {"scan": scan_name, "look": look, "crop": CROP, "people": "those of the photos"}
        turns += more
    over_turns["protocol"] = PROTOCOL_TURNS
    weights = str(getattr(system, "weights", "unnamed"))
    summary = {"photos": over_photos, "turns": over_turns, "weights": weights, "folder": Path(folder).name}
    return IdentityResult(summary, pairs, turns)


def person_of(name: str) -> str:
    """The person on a photo: its path below the folder, up to the file name's first underscore ("001_smiling.jpg": 001;
    "anna/anna_0001.jpg": anna/anna). Without an underscore it is the whole name."""
    path = Path(name)
    return (path.parent / path.stem.partition("_")[0]).as_posix()


def _over_photos(folder: str | Path, system, seed: int) -> tuple[dict, list[dict]]:
    found = photos.read_folder(folder, system.detector)
    found = [sample for sample in found if Path(sample.name).suffix.lower() in photos.PICTURES]  # no second faces
    names = [sample.name for sample in found]
    people, person, counts = np.unique([person_of(name) for name in names], return_inverse=True, return_counts=True)
    rule = "photos are named PERSON_anything.jpg"
    if len(people) < 2:
        raise UserError(f"{folder}: faces of one person only ({people[0]}), two are needed; {rule}")
    if counts.max() < 2:
        raise UserError(f"{folder}: a single photo of each person, somebody is needed twice; {rule}")
    identity = predict_identity(system, [crop_image(s.image(), s.crop(), system.image_size) for s in found])
    table = pair_distances(system.model, identity)
    pairs = [
        {"first": names[i], "second": names[j], "same": bool(person[i] == person[j])}
        | {name: float(values[k]) for name, values in table.items()}
        for k, (i, j) in enumerate(zip(*np.triu_indices(len(names), 1), strict=True))
    ]
    means = np.stack([identity[person == k].mean(0) for k in range(len(people))])
    summary = {
        "distances": {name: recognition(values, person, seed) for name, values in table.items()},
        "people": dict(zip(people.tolist(), counts.tolist(), strict=True)),
        "rank_1_chance": float((counts[counts > 1] - 1).mean() / (len(names) - 1)),
        "sd_between": sd_between(means),
        "crop": f"face detector ({getattr(system.detector, 'kind', 'unnamed')}), the photo's largest face",
        "protocol": PROTOCOL,
        "definitions": DISTANCES,
    }
    return summary, pairs


def predict_identity(system, crops: Sequence[np.ndarray]) -> np.ndarray:
    """Crops (S, S, 3) uint8 -> identity coefficients (N, Ki), standard deviations, float64."""
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    parts = [system.predict_crops(batch.float() / 255).identity for batch in images.split(64)]
    return torch.cat(parts).detach().cpu().double().numpy()


def pair_distances(model, identity: np.ndarray) -> dict[str, np.ndarray]:
    """The `DISTANCES` between all pairs of (N, Ki) identities, each (N (N - 1) / 2,) in the order of `triu_indices`."""
    shapes = _neutral(model, identity)
    rows = [_distances(identity[k + 1 :], identity[k], shapes[k + 1 :], shapes[k]) for k in range(len(identity) - 1)]
    return {name: np.concatenate([row[name] for row in rows]) for name in DISTANCES}


def _distances(many: np.ndarray, one: np.ndarray, shapes: np.ndarray, shape: np.ndarray) -> dict[str, np.ndarray]:
    lengths = np.maximum(np.linalg.norm(many, axis=1) * np.linalg.norm(one), np.finfo(float).tiny)
    found = {
        "sd": np.linalg.norm(many - one, axis=1),
        "cosine": 1 - many @ one / lengths,
        "mm": metrics.vertex_error(shapes, np.broadcast_to(shape, shapes.shape), scale=False),
    }
    return {name: values.round(6) for name, values in found.items()}  # so that equal predictions tie


def _neutral(model, identity: np.ndarray) -> np.ndarray:
    """(N, V, 3) mm: the faces without expression."""
    coefficients = torch.from_numpy(identity).to(model.mean)
    with torch.no_grad():
        shapes = model.vertices(coefficients, coefficients.new_zeros(len(identity), model.n_expression))
    return shapes.cpu().double().numpy()


def recognition(distance: np.ndarray, person: np.ndarray, seed: int = 0) -> dict:
    """How well a distance tells people apart: `FIGURES` (see `PROTOCOL`) and their `intervals`, 95 %.

    distance: of all pairs of N photos, in the order of `triu_indices`; person: (N,) numbers 0 to P - 1, P >= 2, one of
    them twice. The bootstrap weighs people by Dirichlet(1, ..., 1): no draw is without two people or without a pair of
    one, as Efron's is for few people. For rank_1 it weighs whose photos are looked up, not among which.
    """
    people, (first, second) = person.max() + 1, np.triu_indices(len(person), 1)
    full = np.full((len(person), len(person)), np.inf)
    full[first, second] = full[second, first] = distance
    nearest = full == full.min(1, keepdims=True)
    hits = (nearest & (person[:, None] == person)).sum(1) / nearest.sum(1)
    photos_of = np.bincount(person)
    hits = np.where(photos_of > 1, np.bincount(person, hits) / photos_of, np.nan)
    a, b = person[first], person[second]
    _, cell, count = np.unique(np.minimum(a, b) * people + np.maximum(a, b), return_inverse=True, return_counts=True)
    share = 1 / count[cell]
    same = np.flatnonzero(a == b)
    other = np.flatnonzero(a != b)
    other = other[np.argsort(distance[other])]
    left, right = (np.searchsorted(distance[other], distance[same], side) for side in ("left", "right"))

    def figures(weight: np.ndarray) -> list[float]:
        near, far = share[same] * weight[a[same]], share[other] * weight[a[other]] * weight[b[other]]
        near, far = near / near.sum(), far / far.sum()
        below = np.concatenate([[0.0], np.cumsum(far)])
        within, between = near @ distance[same], far @ distance[other]
        rank = np.nansum(weight * hits) / weight[photos_of > 1].sum()
        return [within, between, _ratio(within, between), near @ (1 - (below[left] + below[right]) / 2), rank]

    draws = np.random.default_rng(seed).dirichlet(np.ones(people), 2000)
    bounds = np.quantile([figures(weight) for weight in draws], [0.025, 0.975], axis=0).T.tolist()
    values = map(float, figures(np.ones(people)))
    return {**dict(zip(FIGURES, values, strict=True)), "intervals": dict(zip(FIGURES, bounds, strict=True))}


def _ratio(over: float, under: float) -> float:
    return float(over / under) if under > 0 else float("nan")


def sd_between(identity: np.ndarray) -> float:
    """Standard deviation over people of (P, Ki) coefficients, root mean square over coefficients."""
    return float(np.sqrt(identity.var(0, ddof=1).mean()))


def sd_over_yaw(identity: np.ndarray) -> float:
    """Standard deviation over yaws of (H, Y, Ki) coefficients, root mean square over heads and coefficients."""
    return float(np.sqrt(identity.var(1, ddof=1).mean()))


@torch.no_grad()
def draw_heads(model, yaw: Sequence[float], heads: int, size: int, seed: int = 0) -> np.ndarray:
    """(heads, yaws, S, S, 3) uint8: people sampled from the face model's prior, neutral, turned to each yaw, framed as
    training crops are; a person's light, background and sensor noise stay."""
    rng = faces.stream(seed, "identity over turns")
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
            scene = faces.stream(seed, "identity over turns", str(number))
            pictures[number, view] = faces.draw(model, one[view], scene, size, np.zeros(1, bool)).images[0]
    return pictures


def turn_figures(
    model, identity: np.ndarray, yaw: Sequence[float], names: Sequence[str], between: float
) -> tuple[dict, list[dict]]:
    """What turning does to predictions (H, Y, Ki) of heads at yaws (Y,), 0 among them: the figures, and the rows.

    between: see `sd_between`. The figures are `heads`, `sd_over_yaw`, `sd_between`, their `ratio`, and `by_yaw`: mean
    over heads of each of `DISTANCES` to the frontal prediction, with `mm_interval` over heads where there are several.
    """
    rows, frontal = [], list(yaw).index(0)
    for name, many in zip(names, identity, strict=True):
        shapes = _neutral(model, many)
        found = _distances(many, many[frontal], shapes, shapes[frontal])
        rows += [
            {"head": name, "yaw": float(side)} | {key: float(values[k]) for key, values in found.items()}
            for k, side in enumerate(yaw)
        ]
    by_yaw = []
    for k, side in enumerate(yaw):
        at = {key: np.array([row[key] for row in rows[k :: len(yaw)]]) for key in DISTANCES}
        entry = {"yaw": float(side)} | {key: float(values.mean()) for key, values in at.items()}
        by_yaw.append(entry | ({"mm_interval": metrics.bootstrap_interval(at["mm"])} if len(names) > 1 else {}))
    spread = sd_over_yaw(identity)
    figures = {"heads": len(names), "sd_over_yaw": spread, "sd_between": between, "ratio": _ratio(spread, between)}
    return figures | {"by_yaw": by_yaw}, rows


def summary_text(result: IdentityResult) -> str:
    """The result as plain-text tables, with their protocols."""
    data, turns = result.summary["photos"], result.summary["turns"]
    lines = [f"{'distance':<10}" + "".join(f"{name:>22}" for name in FIGURES)]
    for name, entry in data["distances"].items():
        cells = (f"{entry[f]:.2f} ({entry['intervals'][f][0]:.2f} to {entry['intervals'][f][1]:.2f})" for f in FIGURES)
        lines.append(f"{name:<10}" + "".join(f"{cell:>22}" for cell in cells))
    lines += [
        f"{sum(data['people'].values())} photos of {len(data['people'])} people; by chance ratio 1, auc 0.50, "
        f"rank_1 {data['rank_1_chance']:.2f}; in brackets 95 % over people",
        "",
        f"{'turns':<14}{'over yaw':>9}{'between':>9}{'ratio':>22}   mm to the frontal picture at yaw",
    ]
    for name in ("synthetic", "scan"):
        if (entry := turns.get(name)) is not None:
            sides = "  ".join(f"{at['yaw']:+.0f}: {at['mm']:.2f}" for at in entry["by_yaw"] if at["yaw"])
            title = f"{name} ({entry['heads']})"
            bounds = entry.get("ratio_interval")
            ratio = f"{entry['ratio']:.2f}" + (f" ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else "")
            lines.append(f"{title:<14}{entry['sd_over_yaw']:9.3f}{entry['sd_between']:9.3f}{ratio:>22}   {sides}")
    lines += [f"weights: {result.summary['weights']}", f"crop: {data['crop']}"]
    return "\n".join([*lines, f"protocol: {data['protocol']}", f"protocol: {turns['protocol']}"])
