"""The portraits that the study is judged on, data/portraits, made again from the London Set.

    python benchmarks/portraits.py FOLDER [--out data/portraits]

FOLDER: photos and points by hand in the layout of `mlanet_lib.face_sources.london`. Taken are the people whom
`mlanet_lib/face_sources/ict/london.csv` has down as `portrait`, and nobody else: from them no part of the project
learns. Each photo is cut to the head, squarely around what the face detector finds, and scaled; the points move along,
and the crops go into the labels, so that judging the portraits needs no detector and gives the same numbers everywhere.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.systems import detect_box
from mlanet_lib.face_sources import london
from mlanet_lib.files.atomic import together
from mlanet_lib.geometry.crops import Box, crop_image, to_crop
from mlanet_lib.predictor.detector import Detector

SIDE, QUALITY = 400, 88  # px, of JPEG
HEAD, UP = 1.6, 0.08  # side of the square in those of the face's crop, and how far its centre lies above that one's
LICENSE = """Portraits of 20 people, neutral and smiling, with 189 points placed by hand on the neutral photos

From the Face Research Lab London Set: Lisa DeBruine and Benedict Jones (2017), https://doi.org/10.6084/m9.figshare.5047666
Licence: Creative Commons Attribution 4.0 International (CC BY 4.0), https://creativecommons.org/licenses/by/4.0/

Changed: cut to the head, scaled to 400 x 400 pixels, compressed again as JPEG; the points moved into the new pixels;
the faces' crops, which a detector found, added to labels.npz.
"""


def portrait_people() -> list[str]:
    """The people that london.csv has down as portraits, in its order."""
    return [row["person"] for row in london.people() if row["use"] == "portrait"]


def head_box(crop: Box, width: int, height: int) -> Box:
    """The square around the head of a face's crop, moved into the photo; at most as large as that."""
    side = float(round(min(HEAD * crop.w, width, height)))
    x, y = crop.x + crop.w / 2 - side / 2, crop.y + (0.5 - UP) * crop.h - side / 2
    return Box(float(round(min(max(0, x), width - side))), float(round(min(max(0, y), height - side))), side, side)


def make(source: london.Portraits, detector: Detector, people: list[str], out: Path) -> None:
    """Write the photos, the labels and the licence of `people` into the folder `out`, all or nothing."""
    if absent := [person for person in people if person not in source.people]:
        raise UserError(f"{source.folder}: no photos of {', '.join(absent)}")
    rows = [source.people.index(person) for person in people]
    points, crops = source.points189[rows].astype(np.float32), np.zeros((len(people), len(london.MOODS), 4), np.float32)
    with together(out) as folder:
        for k, person in enumerate(people):
            for m, mood in enumerate(london.MOODS):
                photo = source.photo(person, mood)
                if (face := detect_box(detector, photo)) is None:
                    raise UserError(f"{source.path(person, mood)}: no face found")
                box = head_box(face, *photo.shape[1::-1])
                picture = Image.fromarray(crop_image(photo, box, SIDE))
                picture.save(folder / source.path(person, mood).name, quality=QUALITY)
                crops[k, m] = (*to_crop(np.array(face[:2]), box, SIDE), *(SIDE / box.w * np.array(face[2:])))
                if mood == "neutral":
                    points[k] = to_crop(points[k], box, SIDE)
        labels = {"people": np.array(people), "points189": points, "crops": crops, "age": source.age[rows]}
        labels |= {"gender": source.gender[rows], "ethnicity": source.ethnicity[rows]}
        np.savez_compressed(folder / "labels.npz", **labels)
        (folder / "LICENSE.txt").write_text(LICENSE, encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("data/portraits"))
    options = parser.parse_args(arguments)
    people = portrait_people()
    try:
        make(london.read_folder(options.folder), Detector.load(), people, options.out)
    except UserError as error:
        sys.exit(f"portraits: {error}")
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"written: {options.out}: {len(people)} people, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
