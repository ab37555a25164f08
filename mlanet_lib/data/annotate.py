"""A folder of photos -> landmarked crops that `data.sets.crops` reads: `images.zip` beside `labels.npz`.

Whoever has photos and nothing else makes a training set of them so: an annotator finds the faces and their 68 points
from several starts, the median is the label, and how far the starts lie apart says how far it is to be believed.
"""

import hashlib
import io
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mlanet_lib.data.sets import crops, photos
from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import LONGEST_NAME, atomic_path, safe_name, together
from mlanet_lib.files.npz import read_npz
from mlanet_lib.files.outputs import check_target, mark_zip
from mlanet_lib.files.pictures import read_photo

LABELS, PICTURES = "labels.npz", "images.zip"
FIRST = 0.5
"""Where the first pixel's centre is, in the files written here."""
SMALLEST = 40
"""Pixels of the larger side of the points' box in the photo; a smaller face says little of its points."""
LARGEST_SPREAD = 4.0
"""% of the face: where the starts lie further from their median than this, in the mean of all points, none is right."""
QUALITY = 95  # of the crops' JPEG
_FORMAT = 1  # of the records of an unfinished run


class Marked(NamedTuple):
    """A face that an annotator found.

    picture: (S, S, 3) uint8, upright, the face with room around it. starts: (K, 68, 2) its points from K starts, in
    the picture's pixels, first centre at 0.5. other: (68, 2) the same points by another method, or None. yaw_degrees:
    of the head, 3DDFA's signs. zoom: pixels of the photo that one of the picture is wide; origin: (2,) where the
    picture's corner lies in the photo (in the photo that was turned upright).
    """

    picture: np.ndarray
    starts: np.ndarray
    other: np.ndarray | None
    yaw_degrees: float
    zoom: float
    origin: tuple[float, float]


class Annotator(Protocol):
    """Finds faces and their points, as `mlanet_lib.predictor.annotator.FaceAnnotator`. source: its name, which stands
    in the file; definition: whose definition its points follow, one of `LABEL_SETS`."""

    @property
    def source(self) -> str: ...

    @property
    def definition(self) -> str: ...

    def faces(self, photo: np.ndarray, /) -> Sequence[Marked]: ...


class Counts(NamedTuple):
    """What a run found: photos looked at, faces written, and how many photos gave none."""

    photos: int
    faces: int
    left_out: int


def annotate(folder: str | Path, out: str | Path, annotator: Annotator, progress: bool = True) -> Counts:
    """Write the crops and labels of all faces in the photos of `folder` and the folders below it.

    out: the path of `labels.npz`, a name that the layout "crops" asks for; `images.zip` is written beside it. Its
    fields, a row a face: `names`, PHOTO_0.jpg for the first face of a photo; `landmarks68` (N, 68, 2), pixels of the
    crop, counted from `first_pixel` (0.5); `definition`, whose they are; `confidence` (N, 68) in [0, 1]
    (`crops.confidence`); `spread` (N, 68) px, the mean distance of the starts from their median; `disagreement` (N,)
    %, of points 17-67 from the other method's, NaN without one; `yaw_degrees` (N,); `annotator`, what found them.

    Each photo's result is kept in a hidden folder beside `out` until the end, so that a run that was killed goes on
    with the next photo; both files then appear together. A photo that gives no face, and a face that is left out, is
    one line on stderr. UserError: no photos, two of one name, no face at all, a folder that cannot be written, or a
    file there that mlanet did not write.
    """
    folder, out = Path(folder), Path(out)
    if out.name != LABELS:
        raise UserError(
            f"{out}: the file is to be named {LABELS}, as the layout 'crops' has it: say --out FOLDER/{LABELS}"
        )
    found = photos.photos_in(folder)
    for path in (out, out.with_name(PICTURES)):
        check_target(path, found)
    named = {photo: _name(photo.relative_to(folder)) for photo in found}
    if len(set(named.values())) < len(named):
        raise UserError(f"{folder}: two photos have one name once characters that no file name may hold are replaced")
    kept = out.with_name(f".{out.stem}.unfinished")
    records, left_out = [], 0
    for photo in tqdm(found, "annotating", unit="photo", disable=not progress):
        try:
            record = _kept(kept / f"{_digest(photo, annotator)}.npz", lambda: _annotated(photo, annotator))  # noqa: B023
        except UserError as error:  # nothing is kept of it: it may be readable the next time
            tqdm.write(f"left out: {error}", file=sys.stderr)
            left_out += 1
            continue
        for why in record["why"].tolist():
            tqdm.write(f"left out: {photo}: {why}", file=sys.stderr)
        left_out += not len(record["sizes"])
        if len(record["sizes"]):
            records.append((named[photo], record))
    if not records:
        raise UserError(f"{folder}: no face found in {len(found)} photos; nothing was written")
    _write(out.parent, records, annotator)
    shutil.rmtree(kept, ignore_errors=True)
    return Counts(len(found), sum(len(record["sizes"]) for _, record in records), left_out)


def _name(photo: Path) -> str:
    """What the names of a photo's faces begin with: its path without the ending, safe as the name of a zip's member."""
    *above, last = (safe_name(part) for part in photo.with_suffix("").parts)
    return "/".join([*above, last.encode()[: LONGEST_NAME - 10].decode(errors="ignore")])


def _digest(photo: Path, annotator: Annotator) -> str:
    """The name of a photo's record: another one when the file or the annotator is another."""
    try:
        state = photo.stat()
    except OSError as error:
        raise UserError(f"{photo}: cannot be read ({error.strerror})") from error
    text = f"{_FORMAT} {annotator.source} {annotator.definition} {state.st_size} {state.st_mtime_ns} {photo}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def _kept(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The record at `path`, which is made and written where it is not there, or damaged."""
    if path.is_file():
        try:
            return read_npz(path)
        except UserError:
            path.unlink()
    record = make()
    with atomic_path(path) as temporary:
        np.savez(temporary, **record)  # type: ignore[arg-type]
    return record


def _annotated(photo: Path, annotator: Annotator) -> dict[str, np.ndarray]:
    """A photo's record: `sizes` (F,) of the JPEGs that `pictures` holds one after the other, a row of labels for each
    of the F faces, and `why` (M,), a line for each that is left out."""
    faces = annotator.faces(read_photo(photo))
    rows, pictures, why = [], [], [] if faces else ["no face found"]
    for number, face in enumerate(faces):
        row = labelled(face, annotator.definition)
        if isinstance(row, str):
            why.append(f"face {number}: {row}")
            continue
        buffer = io.BytesIO()
        Image.fromarray(face.picture).save(buffer, "JPEG", quality=QUALITY)
        pictures.append(buffer.getvalue())
        rows.append(row)
    columns = {name: np.stack([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    content = np.frombuffer(b"".join(pictures), np.uint8)
    sizes = np.array([len(one) for one in pictures], np.int64)
    return {"pictures": content, "sizes": sizes, "why": np.array(why, dtype=np.str_), **columns}


def labelled(face: Marked, definition: str) -> dict[str, np.ndarray] | str:
    """The labels of one face, or why it is left out."""
    points = np.median(face.starts, axis=0)
    spread = np.linalg.norm(face.starts - points, axis=2).mean(0)
    if not np.isfinite(points).all():
        return "its points are not finite"
    side, size = np.ptp(points, axis=0).max(), np.sqrt(np.ptp(points, axis=0).prod())
    if side * face.zoom < SMALLEST:
        return f"{side * face.zoom:.0f} pixels are too small a face (at least {SMALLEST})"
    if not (apart := 100 * spread.mean() / size) <= LARGEST_SPREAD:
        return f"points from several starts lie {apart:.1f} % apart (at most {LARGEST_SPREAD:g})"
    differ = np.nan
    if face.other is not None:
        differ = 100 * np.linalg.norm(points - face.other, axis=1)[crops.JAW :].mean() / size
        if not differ <= crops.DISAGREEMENT:
            return f"its points differ from the network's by {differ:.1f} % (at most {crops.DISAGREEMENT:g})"
    straight = definition == "3ddfa" or abs(face.yaw_degrees) <= crops.TURNED  # 3DDFA's jaw stays on the head
    return {
        "landmarks68": np.asarray(points, np.float32),
        "spread": np.asarray(spread, np.float32),
        "confidence": np.asarray(crops.confidence(points[None], spread[None], np.array([straight]))[0], np.float32),
        "disagreement": np.asarray(differ, np.float32),
        "yaw_degrees": np.asarray(face.yaw_degrees, np.float32),
    }


def _write(folder: Path, records: Sequence[tuple[str, dict[str, np.ndarray]]], annotator: Annotator) -> None:
    """Both files of all records, together."""
    fields = ("landmarks68", "spread", "confidence", "disagreement", "yaw_degrees")
    columns = {name: np.concatenate([record[name] for _, record in records]) for name in fields}
    names: list[str] = []
    with together(folder) as scratch:
        with zipfile.ZipFile(scratch / PICTURES, "w") as archive:
            for photo, record in records:
                for number, content in enumerate(_split(record)):
                    names.append(f"{photo}_{number}.jpg")
                    archive.writestr(zipfile.ZipInfo(names[-1]), content)
        said = {"definition": annotator.definition, "annotator": annotator.source, "first_pixel": FIRST}
        np.savez(scratch / LABELS, names=np.array(names), **columns, **said)  # type: ignore[arg-type]
        for name in (PICTURES, LABELS):
            mark_zip(scratch / name)


def _split(record: dict[str, np.ndarray]) -> Iterator[bytes]:
    ends = np.cumsum(record["sizes"])
    for start, end in zip(ends - record["sizes"], ends, strict=True):
        yield record["pictures"][start:end].tobytes()
