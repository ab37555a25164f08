"""300W-LP (Zhu et al. 2016): photos of 300-W, turned to ever larger yaw by "face profiling", and their mirror images.

The published layout: folders AFW, HELEN, IBUG, LFPW and AFW_Flip, ... of 450 x 450 photos with a `.mat` beside each,
fields as in `mlanet_lib.data.sets.aflw2000`; beside them `Code` (no photos) and `landmarks`. AFW_134212_1_0 is the
photo itself and AFW_134212_1_1, ... are turned further, 5 degrees at a time. Three traps, the first two pinned by a
test on real files:

- `pt2d` of a turned picture is the **original's**: equal to the bit, while the features have moved (by 8 px after the
  first 5 degrees). It shows only roughly where the face is.
- `pt2d` of a mirrored photo is mirrored, x' = 451 - x, but **not reordered**: its first point is the last of the jaw.
- its jaw follows the contour of the face in the picture, as 300-W annotates it, not a line on the surface.

`landmarks/AFW/AFW_134212_1_0_pts.mat` holds `pts_2d` (jaw on the contour) and `pts_3d` (68, 2), the projected points of
the fitted model, for every picture but the mirrored ones (theirs follow from it). They are assumed to be counted from
1, as `pt2d` is: no such file was at hand.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mlanet_lib.data.sample import Sample
from mlanet_lib.data.sets.aflw2000 import read_mat
from mlanet_lib.errors import UserError
from mlanet_lib.face_model.points import landmark_twins
from mlanet_lib.files.folders import pictures
from mlanet_lib.files.mat import load_mat, numbers
from mlanet_lib.files.pictures import read_image
from mlanet_lib.geometry.crops import ONE_BASED, crop_box_from_landmarks, from_index

SUBSETS = ("AFW", "HELEN", "IBUG", "LFPW")
FLIP = "_Flip"
PARTS = tuple(subset + flip for subset in SUBSETS for flip in ("", FLIP))


def read_folder(folder: str | Path) -> list[Sample]:
    """The pictures of the subsets that are there, by subset and name, the mirrored ones after each subset.

    A folder that is not there or holds no such picture, two pictures of one name, and whatever `read_sample` refuses,
    are UserErrors that name the path.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    parts = [folder / part for part in PARTS if (folder / part).is_dir()]
    photos = [photo for part in parts for photo in pictures(part)]
    if not photos:
        raise UserError(f"{folder}: no photos (AFW/*.jpg beside .mat files, HELEN/, IBUG/, LFPW/, as 300W-LP comes)")
    return [read_sample(photo) for photo in tqdm(photos, "reading 300W-LP", unit="photo")]  # the whole takes minutes


def read_sample(photo: str | Path) -> Sample:
    """One picture's labels, named like "AFW/AFW_134212_1_0.jpg"; `bfm` and `pose_degrees` are always there.

    landmarks: `pts_3d` where the set's `landmarks` folder has them. Without, those of an original are `pt2d` with
    `confidence` 0 on the jaw, and a turned picture has none, but a `box` around the original's points. A missing or
    damaged `.mat` is a UserError that names it (see `aflw2000.read_mat`).
    """
    photo = Path(photo)
    subset, flipped = photo.parent.name.removesuffix(FLIP), photo.parent.name.endswith(FLIP)
    labels = read_mat(photo.with_suffix(".mat"))
    annotated = labels.pop("landmarks")
    points = photo.parent.parent / "landmarks" / subset / f"{photo.stem}_pts.mat"
    if points.is_file():
        landmarks = from_index(numbers(points, load_mat(points), "pts_3d", (68, 2)), ONE_BASED)
        if flipped:
            landmarks = np.stack([_width(photo) - landmarks[:, 0], landmarks[:, 1]], -1)
        labels["landmarks"] = landmarks[landmark_twins()] if flipped else landmarks
    elif photo.stem.endswith("_0"):
        labels["landmarks"] = annotated[landmark_twins()] if flipped else annotated
        labels["confidence"] = np.where(np.arange(68) < 17, 0.0, 1.0)
    else:
        labels["box"] = crop_box_from_landmarks(annotated)
    return Sample(f"{photo.parent.name}/{photo.name}", partial(read_image, photo, upright=False), **labels)


def original(name: str) -> str:
    """The photo of 300-W that a picture stems from, the same for all its turns, its mirror images and all faces in it.

    "AFW_Flip/AFW_134212_2_17.jpg" -> "AFW_134212": AFW, HELEN and IBUG number the faces of a photo before the turns,
    LFPW ("LFPW_image_train_0001_3.jpg" -> "LFPW_image_train_0001") has one face a photo. A foreign name is a UserError.
    """
    stem = Path(name).stem
    match = re.fullmatch(r"(LFPW_.+)_\d+", stem) or re.fullmatch(r"((?:AFW|HELEN|IBUG)_.+)_\d+_\d+", stem)
    if not match:
        raise UserError(f"{name}: not a name of 300W-LP (like AFW_134212_1_0.jpg)")
    return match[1]


def _width(photo: Path) -> int:
    try:
        with Image.open(photo) as opened:  # reads the header only
            return opened.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{photo}: not a readable picture ({error})") from error
