"""Does the reconstruction look like the person? This project's Likeness protocol over a folder of portraits.

Judged are proportions, closed mouths, the skin's colour, whether the identity of a smiling face is that of the neutral
one, and whether a face recogniser finds the person again in the drawing. The figures are in
`mlanet_lib.evaluation.likeness_metrics`, the folder's layout in `mlanet_lib.face_sources.london`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from mlanet_lib.drawing.views import textured
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation import likeness_metrics as metrics
from mlanet_lib.evaluation.recognizer import INSTALL, Recognizer
from mlanet_lib.evaluation.systems import detect_box
from mlanet_lib.face_sources import london
from mlanet_lib.geometry.camera import project, to_camera
from mlanet_lib.geometry.crops import Box, crop_image, from_crop, second_look, to_crop
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render_face

SIZE = 256
"""Side of the crops and drawings that are compared, px."""
SECOND = "then around the 68 points found there (a second look)"
MEAN_FACE = "mean face"


@dataclass(frozen=True, eq=False)
class LikenessResult:
    """`summary`: JSON-able (see `evaluate_likeness`); `people`: a dict a person: person, gender, ethnicity, the gap of
    the lips by hand and drawn (mm), L* of the cheeks in the photo and of the albedo (NaN: none is drawn there);
    `photos`, `drawings`: (P, S, S, 3) uint8, the neutral photos' crops and what is drawn of them (albedo under the
    predicted light)."""

    summary: dict
    people: list[dict]
    photos: np.ndarray
    drawings: np.ndarray


@dataclass(frozen=True, eq=False)
class Look:
    """What a system saw in P photos of one mood. boxes: the crops, pixels; parameters: of P faces, in their crops;
    crops: (P, SIZE, SIZE, 3) uint8; points: (P, 68, 2) of the drawing, crop sides; undetected: photos taken whole."""

    boxes: list[Box]
    parameters: FaceParameters
    crops: np.ndarray
    points: np.ndarray
    undetected: int


def evaluate_likeness(folder: str | Path, system, seed: int = 0) -> LikenessResult:
    """The Likeness protocol over a folder of neutral and smiling portraits, see `datasets.london.read_folder`.

    system: has `predict_crops`, `model` and `image_size`, see `mlanet_lib.evaluation.systems`, and a `detector` where
    the folder's labels hold no crops; a photo without a detected face is taken whole, and counted. Either crop is
    looked at twice, as a user's photo is. The 68 points are iBUG's where the face model knows them.

    The summary holds `proportions`, `closed_mouths`, `skin` and `identity` (by `sd`, `cosine`) as the functions of
    `likeness_metrics` give them, `recognisable` (the same, or `run`: False and `why`), `baselines` (the mean face in
    the predicted poses: `proportions`, `closed_mouths`), `pose` (the mean over the neutral photos, degrees of the face
    model's frame: all look straight into the camera, so that 0 is expected), `people`, `undetected`, `points`, `crop`,
    `protocol` (by figure), `weights`, `folder`. A system without identity coefficients is a UserError."""
    if not hasattr(system, "predict_crops"):
        raise UserError("the system under test predicts no parameters of faces")
    portraits = london.read_folder(folder)
    model, hand = system.model, portraits.points189
    neutral, smiling = (look(portraits, mood, system) for mood in london.MOODS)
    drawn = _in_photo(neutral.points, neutral.boxes)
    mean = _in_photo(points(model, mean_face(neutral.parameters)), neutral.boxes)
    photo_skin, albedo_skin = skin_colours(portraits, model, neutral)
    summary = {
        "proportions": metrics.proportions(hand, drawn, mean, seed),
        "closed_mouths": metrics.closed_mouths(hand, drawn, seed),
        "skin": metrics.skin(photo_skin, albedo_skin, portraits.ethnicity, seed),
        "identity": {
            name: metrics.rank_1(distance, seed)
            for name, distance in identity_distances(smiling.parameters, neutral.parameters).items()
        },
        "recognisable": recognisable(model, smiling, neutral, seed),
        "baselines": {
            MEAN_FACE: {
                "proportions": metrics.proportions(hand, mean, seed=seed),
                "closed_mouths": metrics.closed_mouths(hand, mean, seed),
            }
        },
        "pose": dict(zip(("pitch", "yaw", "roll"), neutral.parameters.pose_degrees().mean(0).tolist(), strict=True)),
        "people": len(portraits.people),
        "undetected": neutral.undetected + smiling.undetected,
        "points": "iBUG's" if "ibug_index" in model.contents() else "the face model's only ones, not placed as iBUG's",
        "crop": _crop(portraits, system),
        "protocol": dict(metrics.PROTOCOLS),
        "weights": str(getattr(system, "weights", "unnamed")),
        "folder": Path(folder).name,
    }
    drawings = np.stack([textured(model, neutral.parameters[k], SIZE) for k in range(len(hand))])
    return LikenessResult(summary, _rows(portraits, drawn, photo_skin, albedo_skin), neutral.crops, drawings)


def look(portraits: london.Portraits, mood: str, system) -> Look:
    """Crops, and what the system says of them: around the detected face, then around the points found there."""
    photos = [_reader(portraits, person, mood) for person in portraits.people]
    boxes, undetected = [], 0
    for k, photo in enumerate(tqdm(photos, desc=f"looking at {mood} faces", unit="photo", leave=False)):
        box = portraits.crops[mood][k] if portraits.crops else detect_box(system.detector, photo())
        undetected += box is None
        height, width = photo().shape[:2] if box is None else (0, 0)
        boxes.append(box or Box(0.0, 0.0, width, height))
    first = _predict(system, [crop_image(p(), b, system.image_size) for p, b in zip(photos, boxes, strict=True)])
    boxes = second_look(points(system.model, first, "3ddfa"), boxes)
    found = _predict(system, [crop_image(p(), b, system.image_size) for p, b in zip(photos, boxes, strict=True)])
    crops = np.stack([crop_image(p(), b, SIZE) for p, b in zip(photos, boxes, strict=True)])
    return Look(boxes, found, crops, points(system.model, found), undetected)


def _reader(portraits: london.Portraits, person: str, mood: str):
    """A function that reads the photo: a hundred of them are not held in memory at once."""
    return lambda: portraits.photo(person, mood)


def _predict(system, crops: list[np.ndarray]) -> FaceParameters:
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return FaceParameters.cat(system.predict_crops(part.float() / 255).to("cpu") for part in images.split(64))


@torch.no_grad()
def points(model, parameters: FaceParameters, labels: str = "ibug") -> np.ndarray:
    """The 68 points (P, 68, 2) of the drawn faces, in crop sides, where the label set has them."""
    found = []
    for k in range(len(parameters)):  # a mesh at a time
        one = parameters[k]
        marks = model.landmarks(model.vertices(one.identity, one.expression), labels)
        found.append(project(to_camera(marks, one.rotation, one.translation), one.focal, 1, 1)[0, :, :2])
    return torch.stack(found).double().numpy()


def mean_face(parameters: FaceParameters) -> FaceParameters:
    """Everybody's face is the mean one, in the same poses: what a pose alone tells."""
    nothing = {name: torch.zeros_like(getattr(parameters, name)) for name in ("identity", "expression", "albedo")}
    return parameters.replace(**nothing)


def _in_photo(marks: np.ndarray, boxes: list[Box]) -> np.ndarray:
    return np.stack([from_crop(row, box) for row, box in zip(marks, boxes, strict=True)])


def identity_distances(probes: FaceParameters, gallery: FaceParameters) -> dict[str, np.ndarray]:
    """Distances (P, P) of identity coefficients, `sd` (Euclidean) and `cosine`, rounded so that equal faces tie."""
    a, b = (faces.identity.double().numpy() for faces in (probes, gallery))
    lengths = np.maximum(np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1), np.finfo(float).tiny)
    found = {"sd": np.linalg.norm(a[:, None] - b[None], axis=2), "cosine": 1 - a @ b.T / lengths}
    return {name: values.round(6) for name, values in found.items()}


@torch.no_grad()
def skin_colours(portraits: london.Portraits, model, neutral: Look) -> tuple[np.ndarray, np.ndarray]:
    """Colour of the cheeks in the neutral photos and in the unlit drawing of them, each (P, 3) RGB in [0, 1]."""
    photo_colours, albedo_colours = [], []
    sides = metrics.PATCH * metrics.outer_eyes(portraits.points189)
    for k, person in enumerate(tqdm(portraits.people, desc="comparing skin", unit="face", leave=False)):
        cheeks, box = portraits.points189[k, list(metrics.CHEEKS)], neutral.boxes[k]
        photo_colours.append(metrics.patch_colour(portraits.photo(person, "neutral") / 255, cheeks, sides[k]))
        drawing = render_face(model, neutral.parameters[k], SIZE, shading=False)
        image, mask = drawing.image[0].permute(1, 2, 0).clamp(0, 1).numpy(), drawing.mask[0, 0].numpy() > 0
        centres = to_crop(cheeks, box, SIZE)
        albedo_colours.append(metrics.patch_colour(image, centres, sides[k] * SIZE / box.w, mask))
    return np.stack(photo_colours), np.stack(albedo_colours)


def recognisable(model, smiling: Look, neutral: Look, seed: int = 0) -> dict:
    """Rank-1 of the recogniser, the drawings of the smiling photos among the neutral photos; `run` says whether."""
    recognizer = Recognizer.load()
    if recognizer is None:
        return {"run": False, "why": f"not run: needs {INSTALL}"}
    drawings = np.stack([textured(model, smiling.parameters[k], SIZE) for k in range(len(smiling.crops))])
    gallery = recognizer.describe(neutral.crops, SIZE * neutral.points)
    probes = {"drawing": drawings, "photo": smiling.crops}
    found = {}
    for name, pictures in probes.items():
        described = recognizer.describe(pictures, SIZE * smiling.points)
        found[name] = metrics.rank_1(np.linalg.norm(described[:, None] - gallery[None], axis=2), seed)
    return {"run": True} | found["drawing"] | {"of_the_photos": found["photo"]["rank_1"]}


def _crop(portraits: london.Portraits, system) -> str:
    if portraits.crops:
        return f"stored with the photos (as a face detector found them), {SECOND}"
    return f"face detector ({getattr(system.detector, 'kind', 'unnamed')}), {SECOND}"


def _rows(portraits, drawn: np.ndarray, photo_skin: np.ndarray, albedo_skin: np.ndarray) -> list[dict]:
    columns = {
        "person": portraits.people,
        "gender": portraits.gender.tolist(),
        "ethnicity": portraits.ethnicity.tolist(),
        "lips_mm": metrics.lip_gaps(portraits.points189).tolist(),
        "lips_drawn_mm": metrics.lip_gaps(drawn).tolist(),
        "lightness": metrics.skin_values(photo_skin)["lightness"].tolist(),
        "lightness_drawn": metrics.skin_values(albedo_skin)["lightness"].tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def summary_text(result: LikenessResult) -> str:
    """The result as plain-text tables, with its protocols."""
    data = result.summary
    lines = [f"{'likeness':<28}{'':>7}{'95 % over people':>20}   best"]
    for name, value, bounds, best in metrics.headline(data):
        number = "-" if value is None else f"{value:.2f}"
        interval = "" if bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"
        lines.append(f"{name:<28}{number:>7}{interval:>20}   {best}")
    floor = data["baselines"][MEAN_FACE]
    change = data["proportions"]["difference"]["slope"]
    lines += [
        f"mean face in the same poses: r {floor['proportions']['r']:.2f}, slope {floor['proportions']['slope']:.2f}, "
        f"{floor['closed_mouths']['drawn_open']} of {floor['closed_mouths']['closed']} closed mouths open; slope minus "
        f"this: {change['difference']:+.2f} ({change['low']:+.2f} to {change['high']:+.2f})",
        "",
        f"{'distance':<28}{'r':>7}{'slope':>7}{'true':>7}{'drawn':>7}   over the outer eye corners'",
    ]
    for name, row in data["proportions"]["by_distance"].items():
        lines.append(f"{name:<28}" + "".join(f"{row[key]:7.2f}" for key in ("r", "slope", "truth", "drawn")))
    straight = ", ".join(f"{axis} {value:+.1f}" for axis, value in data["pose"].items())
    lines += ["", f"mean pose of the neutral photos (looking straight: 0 is expected): {straight} degrees"]
    lines += ["", f"{'skin by group':<28}{'people':>7}{'L*':>7}{'drawn':>7}{'ITA':>7}{'drawn':>7}"]
    for name, row in data["skin"].get("by_group", {}).items():
        keys = ("photo_lightness", "albedo_lightness", "photo_ita", "albedo_ita")
        lines.append(f"{name:<28}{row['people']:>7}" + "".join(f"{row[key]:7.1f}" for key in keys))
    missed = f"; no face was detected in {data['undetected']} photos, which were taken whole" * bool(data["undetected"])
    lines += [
        "",
        f"{data['people']} people, a neutral and a smiling photo each; points of the drawing: {data['points']}",
    ]
    lines += [f"weights: {data['weights']}", f"crop: {data['crop']}{missed}"]
    return "\n".join([*lines, *(f"protocol, {name}: {text}" for name, text in data["protocol"].items())])
