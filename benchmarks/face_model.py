"""Is the face model a person's? Looked at, and measured on people and on a scan that it learned nothing from.

    python benchmarks/face_model.py people OUT.jpg
    python benchmarks/face_model.py portraits FOLDER OUT.jpg
    python benchmarks/face_model.py scan HEAD.obj LANDMARKS.json [--unit m]

people: twelve people drawn from the prior, from three sides, in two lights. portraits: the face model fitted to
portraits (layout of `mlanet_lib.face_sources.london`): pose, identity and expression to the points placed by hand, then
one light for all (one studio) and albedo to the colours; printed are the Likeness protocol's figures of these fits,
and six are drawn. scan: the identity nearest to a head scan, pose and scale free: root mean square distance of the
scan's points within 95 mm of the nose tip from the surface. The face model is data/face_models/ict.npz, or
`--face-model FILE`."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mlanet_lib.data.sets.scans import read_scan, seen_from_outside
from mlanet_lib.data.synthetic.faces import sample_people
from mlanet_lib.drawing import views
from mlanet_lib.evaluation import likeness_metrics
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.fitting import LandmarkFit, fit_points
from mlanet_lib.face_sources import london
from mlanet_lib.face_sources.ict import build, head, skin
from mlanet_lib.geometry.alignment import similarity
from mlanet_lib.geometry.camera import DEFAULT_FOCAL
from mlanet_lib.geometry.crops import Box, crop_image
from mlanet_lib.geometry.lighting import ambient, directional, irradiance
from mlanet_lib.geometry.surface import Surface
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import decode

SIZE, SHOWN = 260, 6
HAND = 1.5e-5
"""Variance of a point placed by hand, in squared face sizes: (0.4 %)^2. The builder's larger one holds what the model
misses, too; with this one the fits' identities vary as much as people do (printed below)."""
NEUTRAL = 0.003
"""Variance of the activations in these neutral photos: what identity can explain is no expression."""
COLOUR_NOISE = 0.05
"""Standard deviation of a vertex's colour about the fitted one, and how many vertices say the same: for the prior."""
ALIKE = 50.0


def lamp(direction: tuple[float, float, float], ambience: float, strength: float) -> torch.Tensor:
    """(1, 9, 3): light from all sides and a lamp."""
    towards = torch.nn.functional.normalize(torch.tensor([direction]), dim=-1)
    return ambient(1, ambience) + directional(towards, torch.full((1, 3), strength))


LIGHTS = (lamp((0.2, 0.4, 1.0), 0.5, 0.55), lamp((0.9, 0.3, 0.5), 0.35, 0.7))


def save(rows: list, path: Path) -> None:
    """Rows of pictures as one picture."""
    Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows])).save(path, quality=90)
    print(path)


def people(model: MorphableModel, out: Path, seed: int = 0) -> None:
    """Twelve random people: front and profile in the first light, three quarters in the second."""
    identity, albedo = (torch.tensor(x).float() for x in sample_people(model, np.random.default_rng(seed), 12))
    rows: list[list] = [[] for _ in range(4)]
    for number in range(12):
        face = FaceParameters.neutral(model, 1).replace(identity=identity[number, None], albedo=albedo[number, None])
        for yaw, light in ((0, LIGHTS[0]), (40, LIGHTS[1]), (85, LIGHTS[0])):
            seen = views.framed(model, face.replace(lighting=light), yaw, whole=yaw > 60)
            rows[number // 3].append(views.textured(model, seen, SIZE))
    save(rows, out)


def fit_shapes(model: MorphableModel, portraits: london.Portraits) -> FaceParameters:
    """The model fitted to the points placed by hand, in the photos as pictures (square ones)."""
    at, field = build.points("london"), model.contents()
    basis = np.concatenate([field["identity_basis"], field["expression_basis"]], 2).astype(np.float64)
    count = model.n_identity
    ridge = np.full(basis.shape[2], HAND)
    ridge[count:] /= NEUTRAL
    width = portraits.photo(portraits.people[0], "neutral").shape[1]
    goal = portraits.points189[:, at.number] / width * [1, -1]
    counts = np.tile(at.counts, (len(goal), 1))
    mean = at.of(field["mean"].astype(np.float64))
    pose, found, fitted, known = fit_points(mean, at.of(basis), goal, counts, ridge, 25, DEFAULT_FOCAL)
    return LandmarkFit(pose, found[:, :count], found[:, count:], fitted * [1, -1], known, DEFAULT_FOCAL).parameters(
        model
    )


def seen_in(model: MorphableModel, portraits: london.Portraits, faces: FaceParameters, photos: list) -> skin.Observed:
    """What the photos show of the skin of the faces that were fitted to them."""
    at = build.points("london")
    decoded, width = decode(model, faces), photos[0].shape[1]
    camera = decoded.vertices_camera.double().numpy()
    focal = faces.focal.double().numpy()[:, None, None]
    pixels = (0.5 + camera[..., :2] / camera[..., 2:] * focal) * width
    depth = -camera[..., 2:] * (focal / camera[..., 2:].mean(1, keepdims=True)) * width
    placed = np.concatenate([pixels * [1, -1], depth], 2)
    mean = model.mean.double().numpy()
    places = np.full((portraits.points189.shape[1], 3), np.nan)
    places[at.number] = at.of(mean)
    read = london.Photos(portraits.people, portraits.ethnicity, portraits.points189, photos)
    marks = np.stack([at.of(one)[:, :2] * [1, -1] for one in placed])
    return skin.observe(skin.Fitted(read, placed, marks, at.number, places, mean, model.faces.numpy()), head.SKIN)


def weighted(rows: np.ndarray, goal: np.ndarray, weight: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """(K,) the least squares solution of rows (N, K) times it = goal (N,), weights (N,)."""
    heavy = rows * weight[:, None]
    return np.linalg.solve(heavy.T @ rows + ridge * np.eye(rows.shape[1]), heavy.T @ goal)


def fit_colours(model: MorphableModel, portraits: london.Portraits, faces: FaceParameters) -> FaceParameters:
    """Albedo of each person and one grey light of all, by turns, to what the photos show of the skin."""
    photos = [portraits.photo(person, "neutral") for person in portraits.people]
    seen = seen_in(model, portraits, faces, photos)
    base, modes = (field.double().numpy()[: head.SKIN] for field in (model.albedo_mean, model.albedo_basis))
    coefficients, light = np.zeros((len(photos), model.n_albedo)), ambient(1, 1.0).double()[0, :, 0].numpy()
    lamps = torch.eye(9).double()[:, None, :, None].expand(9, len(photos), 9, 3)
    basis = np.stack([irradiance(torch.from_numpy(seen.normal), lamp)[..., 0].numpy() for lamp in lamps], -1)
    weight = np.repeat(seen.weight[..., None], 3, 2).reshape(len(photos), -1)
    for _ in range(8):
        shade = basis @ light
        for k in range(len(photos)):
            rows = (modes * shade[k, :, None, None]).reshape(-1, model.n_albedo)
            off = (seen.colour[k] - base * shade[k, :, None]).reshape(-1)
            coefficients[k] = weighted(rows, off, weight[k] / (ALIKE * COLOUR_NOISE**2), 1.0)
        albedo = base + np.einsum("vcm,km->kvc", modes, coefficients)
        drawn = (basis[:, :, None] * albedo[..., None]).reshape(-1, 9)
        light = weighted(drawn, seen.colour.reshape(-1), weight.reshape(-1))
    grey = torch.from_numpy(light).float()[None, :, None].repeat(len(photos), 1, 3)
    return faces.replace(albedo=torch.from_numpy(coefficients).float(), lighting=grey)


def portraits(model: MorphableModel, folder: Path, out: Path) -> None:
    """Fit, measure and draw."""
    found = london.read_folder(folder)
    faces = fit_colours(model, found, fit_shapes(model, found))
    photos = [found.photo(person, "neutral") for person in found.people]
    width = photos[0].shape[1]
    decoded = decode(model, faces)
    drawn = model.landmarks(decoded.vertices_camera, "ibug")
    marks = (0.5 + drawn[..., :2] / drawn[..., 2:] * faces.focal[:, None, None]).double().numpy() * width
    shape = likeness_metrics.proportions(found.points189, marks)
    print("proportions: r {r:.2f}, slope {slope:.2f}".format(**shape))
    for name, row in shape["by_distance"].items():
        print(
            f"  {name:18} r {row['r']:.2f} slope {row['slope']:.2f} by hand {row['truth']:.3f} drawn {row['drawn']:.3f}"
        )
    mouths = likeness_metrics.closed_mouths(found.points189, marks)
    print("closed mouths: {drawn_open} of {closed} drawn open, error {error_mm:.2f} mm".format(**mouths))
    print(f"identity: standard deviation over people {faces.identity.std(0).mean():.2f}")
    cheeks = cheek_colours(model, faces, found, photos)
    colour = likeness_metrics.skin(*cheeks, found.ethnicity)
    for name in ("lightness", "ita"):
        print(f"{name}: " + "r {r:.2f}, slope {slope:.2f}, difference {mean_difference:+.1f}".format(**colour[name]))
    print(f"ITA error {colour['ita_error']:.1f} degrees")
    for group, row in colour["by_group"].items():
        print(
            f"  {group:12} {row['people']:2} people, L* {row['photo_lightness']:.0f} -> {row['albedo_lightness']:.0f}, "
            f"ITA {row['photo_ita']:.0f} -> {row['albedo_ita']:.0f}"
        )
    furthest = faces.albedo[:, :2].abs().max(0).values.tolist()
    print("largest coefficients of the first two modes: " + ", ".join(f"{value:.2f}" for value in furthest))
    rows = []
    for k in np.linspace(0, len(photos) - 1, SHOWN).round().astype(int):
        low, high = found.points189[k].min(0), found.points189[k].max(0)
        side = 1.05 * (high - low).max()
        box = Box(*((low + high) / 2 - side / 2), side, side)
        face, flat = faces[int(k)], faces[int(k)].replace(lighting=ambient(1, 1.0))
        whole = [photos[k], views.textured(model, face, width), clay(model, face, width)]
        pictures = [crop_image(picture, box, SIZE) for picture in whole]
        pictures.append(views.textured(model, views.framed(model, face, 40), SIZE))
        rows.append([*pictures, views.textured(model, views.framed(model, flat), SIZE)])
    save(rows, out)


def clay(model: MorphableModel, face: FaceParameters, size: int) -> np.ndarray:
    """The shape alone, as the photo shows it."""
    grey = model.replace(albedo_mean=np.tile(views.CLAY, (model.n_vertices, 1)), albedo_basis=model.albedo_basis * 0)
    return views.textured(grey, face.replace(lighting=LIGHTS[1]), size)


def cheek_colours(
    model: MorphableModel, faces: FaceParameters, found: london.Portraits, photos: list
) -> tuple[np.ndarray, np.ndarray]:
    """(P, 3) RGB in [0, 1] each: the photos' cheeks, and the albedo's at the points placed there."""
    at = build.points("london")
    own = [list(at.number).index(point) for point in likeness_metrics.CHEEKS]
    albedo = np.stack([at.of(one)[own].mean(0) for one in model.albedo(faces.albedo).double().numpy()])
    sides = likeness_metrics.outer_eyes(found.points189) * likeness_metrics.PATCH
    return np.stack(
        [
            likeness_metrics.patch_colour(photo / 255, points[list(likeness_metrics.CHEEKS)], side)
            for photo, points, side in zip(photos, found.points189, sides, strict=True)
        ]
    ), albedo


def scan(model: MorphableModel, head_scan: Path, marks: Path, unit: str, ridge: float = 1.0, rounds: int = 30) -> float:
    """Distance of the scan's face from the nearest identity of the model, root mean square, mm."""
    found = read_scan(head_scan, marks, unit)
    near = np.linalg.norm(found.vertices - found.landmarks[30], axis=1) <= 95
    goal = found.vertices[near & seen_from_outside(found, model)]
    keys = sorted(found.landmarks)
    field, faces = model.contents(), model.faces.numpy()
    mean, modes = (field[name].astype(np.float64) for name in ("mean", "identity_basis"))
    identity, shape = np.zeros(model.n_identity), mean
    points = model.landmarks(torch.from_numpy(mean)[None])[0, keys].numpy()
    move = similarity(np.stack([found.landmarks[key] for key in keys]), points)  # the scan, brought to the model
    for _ in range(rounds):
        placed = move.apply(goal)
        closest = Surface(shape, faces).closest(placed)
        corners, weights = faces[closest.face_index], closest.barycentric
        basis = np.einsum("nk,nkcm->ncm", weights, modes[corners]).reshape(-1, model.n_identity)
        off = (placed - np.einsum("nk,nkc->nc", weights, mean[corners])).reshape(-1)
        identity = np.linalg.solve(basis.T @ basis + ridge * np.eye(len(identity)), basis.T @ off)
        shape = mean + modes @ identity
        move = similarity(goal, np.einsum("nk,nkc->nc", weights, shape[corners]))
    distance = np.linalg.norm(move.apply(goal) - Surface(shape, faces).closest(move.apply(goal)).points, axis=1)
    error = float(np.sqrt((distance**2).mean()) / move.scale)
    print(
        f"{model.name}: {len(goal):,} points, RMSE {error:.2f} mm, "
        f"coefficients {np.sqrt((identity**2).mean()):.2f} (root mean square)"
    )
    return error


def main(arguments: list[str] | None = None) -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--face-model", type=Path, default=Path("data/face_models/ict.npz"), metavar="FILE")
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("people").add_argument("out", type=Path)
    one = what.add_parser("portraits")
    one.add_argument("folder", type=Path)
    one.add_argument("out", type=Path)
    one = what.add_parser("scan")
    one.add_argument("head_scan", type=Path)
    one.add_argument("marks", type=Path)
    one.add_argument("--unit", default="m")
    options = vars(parser.parse_args(arguments))
    model = MorphableModel.load(options.pop("face_model"))
    {"people": people, "portraits": portraits, "scan": scan}[options.pop("what")](model, **options)


if __name__ == "__main__":
    main()
