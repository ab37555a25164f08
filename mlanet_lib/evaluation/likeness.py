"""Does the reconstruction look like the person? This project's Likeness protocol over a folder of portraits.

The protocol judges proportions, closed mouths, the skin's colour, whether a smiling and a neutral face get the same
identity, and whether a face recogniser recognises the person in the drawing. The measures are in
`mlanet_lib.evaluation.likeness_metrics`, the folder's layout in `mlanet_lib.face_sources.london`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from mlanet_lib.drawing.views import textured
from mlanet_lib.evaluation import likeness_metrics as figures
from mlanet_lib.evaluation.identity import coefficient_distances
from mlanet_lib.evaluation.recognizer import INSTALL, Recognizer
from mlanet_lib.evaluation.summary import MEAN_FACE, text_table
from mlanet_lib.evaluation.systems import System, detect_boxes, face_parameters
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.sparse_shape import in_crop
from mlanet_lib.face_sources import london
from mlanet_lib.geometry.crops import Box, crop_image, from_crop, second_look, to_crop
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render_face

SIZE = 256
"""Side of the crops and drawings that are compared, px."""
SECOND = "then around the 68 points found there (a second look)"


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
    """A system's predictions for P photos, all neutral or all smiling. boxes: the crops, pixels; parameters: of P
    faces, in their crops; crops: (P, SIZE, SIZE, 3) uint8; landmarks: (P, 68, 2) of the drawing, crop sides;
    undetected: photos taken whole."""

    boxes: list[Box]
    parameters: FaceParameters
    crops: np.ndarray
    landmarks: np.ndarray
    undetected: int


def evaluate_likeness(folder: str | Path, system: System, seed: int = 0) -> LikenessResult:
    """The Likeness protocol over a folder of neutral and smiling portraits, see `london.read_folder`.

    `system.detector` is needed where the folder's labels hold no crops; a photo without a detected face is taken whole,
    and counted. Either crop is looked at twice, as a user's photo is. The 68 landmarks are iBUG's where the face model
    knows them.

    The summary holds `proportions`, `closed_mouths`, `skin` and `identity` (by `sd`, `cosine`) as the functions of
    `likeness_metrics` give them, `recognisable` (the same, or `run`: False and `why`), `baselines` (the mean face in
    the predicted poses: `proportions`, `closed_mouths`), `pose` (the mean over the neutral photos, degrees of the face
    model's frame: all look straight into the camera, so that 0 is expected), `people`, `undetected`, `points`, `crop`,
    `protocol` (by figure), `weights`, `folder`."""
    portraits = london.read_folder(folder)
    model, hand = system.model, portraits.points189
    neutral, smiling = (look(portraits, mood, system) for mood in london.MOODS)
    drawn = _in_photo(neutral.landmarks, neutral.boxes)
    mean = _in_photo(drawn_landmarks(model, mean_face(neutral.parameters)), neutral.boxes)
    photo_skin, albedo_skin = skin_colours(portraits, model, neutral)
    identities = (faces.parameters.identity.double().numpy() for faces in (smiling, neutral))
    distances = coefficient_distances(*identities)
    ibug = "ibug_index" in model.contents()
    summary = {
        "proportions": figures.proportions(hand, drawn, mean, seed),
        "closed_mouths": figures.closed_mouths(hand, drawn, seed),
        "skin": figures.skin(photo_skin, albedo_skin, portraits.ethnicity, seed),
        "identity": {name: figures.rank_1(distance, seed) for name, distance in distances.items()},
        "recognisable": recognisable(model, smiling, neutral, seed),
        "baselines": {
            MEAN_FACE: {
                "proportions": figures.proportions(hand, mean, seed=seed),
                "closed_mouths": figures.closed_mouths(hand, mean, seed),
            }
        },
        "pose": dict(zip(("pitch", "yaw", "roll"), neutral.parameters.pose_degrees().mean(0).tolist(), strict=True)),
        "people": len(portraits.people),
        "undetected": neutral.undetected + smiling.undetected,
        "points": "iBUG's" if ibug else "the face model's only ones, not placed as iBUG's",
        "crop": _crop(portraits, system),
        "protocol": dict(figures.PROTOCOLS),
        "weights": system.weights,
        "folder": Path(folder).name,
    }
    drawings = np.stack([textured(model, neutral.parameters[k], SIZE) for k in range(len(hand))])
    return LikenessResult(summary, _rows(portraits, drawn, photo_skin, albedo_skin), neutral.crops, drawings)


def look(portraits: london.Portraits, mood: str, system: System) -> Look:
    """Crops and the system's predictions: first around the detected face, then around the landmarks found there."""

    def photos() -> Iterator[np.ndarray]:  # a hundred of them are not held in memory at once
        people = tqdm(portraits.people, desc=f"looking at {mood} faces", unit="photo", leave=False)
        return (portraits.photo(person, mood) for person in people)

    def cut(size: int) -> list[np.ndarray]:
        return [crop_image(photo, box, size) for photo, box in zip(photos(), boxes, strict=True)]

    boxes, undetected = (portraits.crops[mood], 0) if portraits.crops else detect_boxes(system.detector, photos())

    first = face_parameters(system, cut(system.image_size))
    boxes = second_look(in_crop(system.model, first).double().numpy(), boxes)
    found = face_parameters(system, cut(system.image_size))
    return Look(boxes, found, np.stack(cut(SIZE)), drawn_landmarks(system.model, found), undetected)


def drawn_landmarks(model: MorphableModel, parameters: FaceParameters) -> np.ndarray:
    """The landmarks (P, 68, 2) of the drawn faces, in crop sides, where iBUG's labels have them if the model knows."""
    return in_crop(model, parameters, "ibug").double().numpy()


def mean_face(parameters: FaceParameters) -> FaceParameters:
    """The mean face for everybody, in the predicted poses: shows what the pose alone contributes."""
    nothing = {name: torch.zeros_like(getattr(parameters, name)) for name in ("identity", "expression", "albedo")}
    return parameters.replace(**nothing)


def _in_photo(marks: np.ndarray, boxes: list[Box]) -> np.ndarray:
    return np.stack([from_crop(row, box) for row, box in zip(marks, boxes, strict=True)])


@torch.no_grad()
def skin_colours(portraits: london.Portraits, model: MorphableModel, neutral: Look) -> tuple[np.ndarray, np.ndarray]:
    """Colour of the cheeks in the neutral photos and in the unlit drawing of them, each (P, 3) RGB in [0, 1]."""
    photo_colours, albedo_colours = [], []
    sides = figures.PATCH * figures.outer_eyes(portraits.points189)
    for k, person in enumerate(tqdm(portraits.people, desc="comparing skin", unit="face", leave=False)):
        cheeks, box = portraits.points189[k, list(figures.CHEEKS)], neutral.boxes[k]
        photo_colours.append(figures.patch_colour(portraits.photo(person, "neutral") / 255, cheeks, sides[k]))
        drawing = render_face(model, neutral.parameters[k], SIZE, shading=False)
        image, mask = drawing.image[0].permute(1, 2, 0).clamp(0, 1).numpy(), drawing.mask[0, 0].numpy() > 0
        centres = to_crop(cheeks, box, SIZE)
        albedo_colours.append(figures.patch_colour(image, centres, sides[k] * SIZE / box.w, mask))
    return np.stack(photo_colours), np.stack(albedo_colours)


def recognisable(model: MorphableModel, smiling: Look, neutral: Look, seed: int = 0) -> dict:
    """Rank-1 of the recogniser, the drawings of the smiling photos among the neutral photos; `run` says whether."""
    recognizer = Recognizer.load()
    if recognizer is None:
        return {"run": False, "why": f"not run: needs {INSTALL}"}
    drawings = np.stack([textured(model, smiling.parameters[k], SIZE) for k in range(len(smiling.crops))])
    gallery = recognizer.describe(neutral.crops, SIZE * neutral.landmarks)
    probes = {"drawing": drawings, "photo": smiling.crops}
    found = {}
    for name, pictures in probes.items():
        described = recognizer.describe(pictures, SIZE * smiling.landmarks)
        found[name] = figures.rank_1(np.linalg.norm(described[:, None] - gallery[None], axis=2), seed)
    return {"run": True} | found["drawing"] | {"of_the_photos": found["photo"]["rank_1"]}


def _crop(portraits: london.Portraits, system: System) -> str:
    if portraits.crops:
        return f"stored with the photos (as a face detector found them), {SECOND}"
    return f"face detector ({system.detector.kind if system.detector else 'none'}), {SECOND}"


def _rows(
    portraits: london.Portraits, drawn: np.ndarray, photo_skin: np.ndarray, albedo_skin: np.ndarray
) -> list[dict]:
    columns = {
        "person": portraits.people,
        "gender": portraits.gender.tolist(),
        "ethnicity": portraits.ethnicity.tolist(),
        "lips_mm": figures.lip_gaps(portraits.points189).tolist(),
        "lips_drawn_mm": figures.lip_gaps(drawn).tolist(),
        "lightness": figures.skin_values(photo_skin)["lightness"].tolist(),
        "lightness_drawn": figures.skin_values(albedo_skin)["lightness"].tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def summary_text(data: dict) -> str:
    """The summary as plain-text tables, with its protocols."""
    table = [["likeness", "", "95 % over people", "   best"]]
    for name, value, bounds, best in figures.headline(data):
        interval = "" if bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"
        table.append([name, "-" if value is None else f"{value:.2f}", interval, f"   {best}"])
    lines = text_table(table, (-28, 7, 20, 1))
    floor = data["baselines"][MEAN_FACE]
    change = data["proportions"]["difference"]["slope"]
    lines += [
        f"mean face in the same poses: r {floor['proportions']['r']:.2f}, slope {floor['proportions']['slope']:.2f}, "
        f"{floor['closed_mouths']['drawn_open']} of {floor['closed_mouths']['closed']} closed mouths open; slope minus "
        f"this: {change['difference']:+.2f} ({change['low']:+.2f} to {change['high']:+.2f})",
        "",
    ]
    table = [["distance", "r", "slope", "true", "drawn", "   over the outer eye corners'"]]
    for name, row in data["proportions"]["by_distance"].items():
        table.append([name, *(f"{row[key]:.2f}" for key in ("r", "slope", "truth", "drawn"))])
    lines += text_table(table, (-28, 7, 7, 7, 7, 1))
    straight = ", ".join(f"{axis} {value:+.1f}" for axis, value in data["pose"].items())
    lines += ["", f"mean pose of the neutral photos (looking straight: 0 is expected): {straight} degrees", ""]
    table = [["skin by group", "people", "L*", "drawn", "ITA", "drawn"]]
    keys = ("photo_lightness", "albedo_lightness", "photo_ita", "albedo_ita")
    for name, row in data["skin"].get("by_group", {}).items():
        table.append([name, str(row["people"]), *(f"{row[key]:.1f}" for key in keys)])
    lines += text_table(table, (-28, 7, 7, 7, 7, 7))
    missed = f"; no face was detected in {data['undetected']} photos, which were taken whole" * bool(data["undetected"])
    lines += [
        "",
        f"{data['people']} people, a neutral and a smiling photo each; points of the drawing: {data['points']}",
        f"weights: {data['weights']}",
        f"crop: {data['crop']}{missed}",
        *(f"protocol, {name}: {text}" for name, text in data["protocol"].items()),
    ]
    return "\n".join(lines)
