"""A sheet of faces to look at: one row a photo, with everything that was predicted of it.

    python benchmarks/sheet.py OUT.jpg PHOTO... [--weights W] [--fit] [--boxes aflw2000]
    python benchmarks/sheet.py OUT.jpg --aflw2000 FOLDER [--count 20]

PHOTO: pictures, or folders of them; of each the largest face that the detector finds, or with `--boxes aflw2000` the
crop from the `.mat` file beside it, as the benchmark takes it. --aflw2000: photos of a folder in AFLW2000-3D's layout
with those crops, spread evenly over |yaw|. The photo, its overlay and the relit face have the crop's framing; mesh and
albedo are seen from the front, the side view from the subject's left.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlanet_lib.data.sample import Sample
from mlanet_lib.data.sets import aflw2000
from mlanet_lib.data.sets.photos import PICTURES
from mlanet_lib.drawing import views
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.atomic import atomic_path
from mlanet_lib.files.pictures import read_photo
from mlanet_lib.geometry.crops import Box
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor import Predictor

CELL, STRIP, GAP = 180, 18, 2  # px: side of a picture, height of a line of text, space between rows and columns
SIDE_YAW = 90.0  # turns the nose to the picture's left


class Row(NamedTuple):
    """crop: (S, S, 3) uint8, what the parameters (a batch of one) were predicted from; label: one line of text."""

    crop: np.ndarray
    parameters: FaceParameters
    label: str


def spread(samples: list[Sample], count: int) -> list[Sample]:
    """`count` samples whose |yaw| is nearest to evenly spaced ones between 0 and the largest, by |yaw|, each once."""
    left = sorted(samples, key=lambda sample: (abs(sample.pose_degrees[1]), sample.name))
    chosen = []
    for target in np.linspace(0, abs(left[-1].pose_degrees[1]), min(count, len(left))):
        chosen.append(left.pop(int(np.argmin([abs(abs(s.pose_degrees[1]) - target) for s in left]))))
    return sorted(chosen, key=lambda sample: (abs(sample.pose_degrees[1]), sample.name))


def pictures(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, folders as the pictures directly in them, by name; a folder without one is a UserError."""
    found = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path}: no pictures ({', '.join(PICTURES)})")
        found += inside
    return found


def row(
    predictor: Predictor, photo: np.ndarray, name: str, box: Box | None = None, yaw: float | None = None
) -> Row | None:
    """The row of the largest face of a photo (H, W, 3) uint8, or of that in `box`; None where there is no face.

    yaw: the true one, degrees, where it is known.
    """
    faces = predictor.faces(photo, None if box is None else [box])
    if not faces:
        return None
    truth = "" if yaw is None else f" (label {round(yaw):+d}°)"
    label = f"{name}   yaw {round(faces[0].pose_degrees['yaw']):+d}°{truth}"
    return Row(predictor.sharp_crop(photo, faces[0], 2 * CELL), faces[0].parameters, label)


def cells(model: MorphableModel, crop: np.ndarray, parameters: FaceParameters) -> dict[str, np.ndarray]:
    """The pictures of a row by title, (CELL, CELL, 3) uint8 each."""
    photo = np.asarray(Image.fromarray(crop).resize((CELL, CELL), Image.Resampling.LANCZOS))
    points = views.landmarks(model, parameters, CELL)[0]
    white = parameters.replace(lighting=FaceParameters.neutral(model).lighting)
    return {
        "photo": photo,
        "overlay": views.overlay_in_photo(model, parameters, photo, Box(0, 0, CELL, CELL), points, opacity=0.6),
        "mesh": views.coloured(model, views.framed(model, parameters), CELL),
        "side view": views.coloured(model, views.framed(model, parameters, yaw=SIDE_YAW, whole=True), CELL),
        "albedo": views.textured(model, views.framed(model, white), CELL),
        "predicted light": views.textured(model, parameters, CELL),
    }


def sheet(model: MorphableModel, rows: list[Row]) -> Image.Image:
    """The rows below each other, each under its label, and the columns' titles on top."""
    found = [cells(model, row.crop, row.parameters) for row in rows]
    step, height = CELL + GAP, STRIP + CELL + GAP
    canvas = Image.new("RGB", (step * len(found[0]), STRIP + height * len(rows)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for column, title in enumerate(found[0]):
        pen.text((column * step + CELL / 2, STRIP / 2), title, "black", font, anchor="mm")
    for number, (row, drawn) in enumerate(zip(rows, found, strict=True)):
        top = STRIP + number * height
        pen.text((3, top + STRIP / 2), row.label, "black", font, anchor="lm")
        for column, picture in enumerate(drawn.values()):
            canvas.paste(Image.fromarray(picture), (column * step, top + STRIP))
    return canvas


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the picture that is written, .jpg or .png")
    parser.add_argument("photos", type=Path, nargs="*", metavar="PHOTO", help="pictures, or folders of them")
    parser.add_argument("--fit", action="store_true", help="faces fitted to their photos")
    parser.add_argument("--weights", default="auto", metavar="W", help="a checkpoint (default: the shipped one)")
    parser.add_argument("--boxes", choices=("detector", "aflw2000"), default="detector", help="where crops come from")
    parser.add_argument("--aflw2000", type=Path, metavar="FOLDER", help="photos beside .mat files, over all yaws")
    parser.add_argument("--count", type=int, default=20, metavar="N", help="photos of that folder (default: 20)")
    options = parser.parse_args(arguments)
    try:
        if options.out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            raise UserError(f"{options.out}: the sheet is written as .jpg or .png")
        if options.count < 1 or not (options.photos or options.aflw2000):
            raise UserError("nothing to draw: name photos, or --aflw2000 FOLDER with --count 1 or more")
        predictor, photos = Predictor.load(options.weights, fitted=options.fit), pictures(options.photos)
        samples = spread(aflw2000.read_folder(options.aflw2000), options.count) if options.aflw2000 else []
        if options.boxes == "aflw2000":
            photos, samples = [], [aflw2000.read_sample(photo) for photo in photos] + samples
        rows = {photo: row(predictor, read_photo(photo), photo.name) for photo in photos}
        for photo in (photo for photo, found in rows.items() if found is None):
            print(f"{photo}: no face found", file=sys.stderr)
        drawn = [found for found in rows.values() if found]
        drawn += [row(predictor, s.image(), s.name, s.crop(), s.pose_degrees[1]) for s in samples]
        if not drawn:
            raise UserError("no face found in any photo")
        with atomic_path(options.out) as temporary:
            sheet(predictor.model, drawn).save(temporary, quality=90)
    except UserError as error:
        print(f"sheet: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
