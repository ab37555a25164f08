"""Real data sets as training splits: read, split by photo, packed, and where wished labelled by fits of the face model.

A source's arrays go to `train/NAME` and `validation/NAME` within the folder of the training data, where `TrainingData`
finds them beside the synthetic ones.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from tqdm.auto import tqdm

from mlanet_lib.data import annotations, arrays, packing
from mlanet_lib.data.arrays import KINDS, LABELLED, LANDMARKED
from mlanet_lib.data.sample import Sample
from mlanet_lib.data.sets import aflw2000, crops, photos, w300lp
from mlanet_lib.data.studio import FEWEST, skin_and_light
from mlanet_lib.data.synthetic.faces import SyntheticConfig
from mlanet_lib.data.synthetic.workers import run_tasks, worker_pool
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel, fitting
from mlanet_lib.face_model.fitting import FitSettings, fit_landmarks
from mlanet_lib.face_model.points import LABEL_SETS
from mlanet_lib.face_model.sparse_shape import in_crop
from mlanet_lib.face_sources.bfm2009.raw import RawBfm
from mlanet_lib.files.atomic import check_name
from mlanet_lib.fitter import Fitter, FitterSettings, lips_first
from mlanet_lib.geometry.camera import DEFAULT_FOCAL
from mlanet_lib.limits import COUNT, WEIGHT, Range, check_fields, cores
from mlanet_lib.metrics import sparse_nme
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import landmarks_visible

LABELS = ("none", "landmarks", "fit", "photo", "bfm")
FITTED = ("fit", "photo", "bfm")
LIGHTS = ("each", "one")
BESIDE_IBUG = ("all", "turned")
PHOTO_FITS = FitterSettings(
    size=112, vertices=6000, point_noise=0.01, correlated=15.0, share=0.4, turn_error=fitting.TURN_ERROR
)
"""Of labels "photo": crops as the network sees them. The points are labels, and nearer than a network's; the light is
often hard. With pixels that count three times as much, and the prior a quarter, hard shadows were drawn as relief."""
FRONTAL = 30.0
"""Degrees of yaw beyond which a fit to the photo is not taken: fewer pixels say what the shape is, and the outline,
which would, has no gradient."""
AT_ONCE = 256  # photos that a process fits before it reports
_POSITIVE = Range(0, 1e6, above=True)


@dataclass(frozen=True)
class Source:
    """A real data set and what is learned from it.

    layout: "crops" (images.zip and labels.npz), "300w_lp", "aflw2000" (photos with .mat files; never the benchmark
    itself) or "photos" (a folder of pictures); path: its folder. points: whose definition of the 68 points its
    labels follow, "3ddfa" or "ibug" (`face_model.LABEL_SETS`; the second in layout "crops" alone, see
    `crops.read_archive`); disagreement: iBUG's labels that lie further than this many % from 3DDFA's of the same
    crop are left out. Two sources of the same photos hold out the same ones if they have the same `validation`.
    labels: "none" (the picture alone judges), "landmarks", "fit" (landmarks, and pose and shape of a fit of the
    face model to them, where that fits to `worst_fit` % NME), "photo" (the same, and then pose and shape of a fit to
    the photo that begins there, see `PHOTO_FITS`), or "bfm" (those of the set's BFM fits: coefficients
    are taken where the face model is that very BFM, else fitted to the landmarks that BFM gives). annotated: weight
    of a hand-annotated point (AFLW's 21), where an estimated one has 1, in correcting the latter
    (`annotations.correct`; 0: no correction). ridge: of the fits, see `mlanet_lib.face_model.fitting`. validation:
    share of the photos held out; agreement: crops whose estimated and hand-annotated points differ by more than
    this many % are left out; limit: the first so many samples; leave_out: names of samples that are not used (doubles
    of benchmark photos: `mlanet data check` finds them). light: "each" photo has its own, or "one": all were taken in
    the same light, so that fits get albedo and lighting, too (`data.studio`). repeat: how often an epoch of the
    training sees each photo. beside_ibug: of the photos that iBUG's labels in the same folder have, too, those that
    3DDFA's points are trained on: "all", or the "turned" ones, where another source reads iBUG's
    (`crops.is_frontal_beside_ibug`).
    """

    layout: str
    path: str
    points: str = "3ddfa"
    labels: str = "landmarks"
    annotated: Annotated[float, WEIGHT] = 0.0
    validation: Annotated[float, Range(0, 1, below=True)] = 0.05
    agreement: Annotated[float, _POSITIVE] | None = None
    disagreement: Annotated[float, _POSITIVE] = crops.DISAGREEMENT
    worst_fit: Annotated[float, _POSITIVE] = 3.0
    ridge: Annotated[float, _POSITIVE] = 1e-3
    limit: Annotated[int, COUNT] | None = None
    leave_out: tuple[str, ...] = ()
    light: str = "each"
    repeat: Annotated[int, COUNT] = 1
    beside_ibug: str = "all"

    def __post_init__(self) -> None:
        words = {"layout": READERS, "points": LABEL_SETS, "labels": LABELS, "light": LIGHTS, "beside_ibug": BESIDE_IBUG}
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise UserError(f"unknown {name} {getattr(self, name)!r} of a source; choose one of {', '.join(known)}")
        if self.light == "one" and self.labels not in FITTED:
            these = " or ".join(FITTED)
            raise UserError(f"light 'one' of a source: only labels {these} say where skin lies, not {self.labels!r}")
        if self.points != "3ddfa" and self.layout != "crops":
            raise UserError(f"points {self.points!r} of a source: only layout 'crops' has them, not {self.layout!r}")
        check_fields(self)


@dataclass(frozen=True)
class DataConfig(SyntheticConfig):
    """The synthetic faces (`train: 0` draws none), and the real data sets beside them. sources: by name."""

    sources: dict[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.sources:
            check_name(name, "data.sources:")  # they become folders


def _read_photos(source: Source, detector: photos.Detector | None) -> list[Sample]:
    if detector is None:
        raise ValueError("layout 'photos' needs a detector")
    return photos.read_folder(source.path, detector)


READERS: dict[str, Callable[[Source, photos.Detector | None], list[Sample]]] = {
    "crops": lambda source, _: crops.read_archive(source.path, source.points, source.disagreement),
    "300w_lp": lambda source, _: w300lp.read_folder(source.path),
    "aflw2000": lambda source, _: aflw2000.read_folder(source.path),
    "photos": _read_photos,
}
"""Layout of a `Source` -> what reads its samples."""


def read(source: Source, detector: photos.Detector | None = None) -> list[Sample]:
    """The samples of a source; `detector` finds the faces of "photos". What is missing or broken is a UserError."""
    samples = READERS[source.layout](source, detector)
    if source.agreement is not None:
        samples = [s for s in samples if s.agreement is None or s.agreement <= source.agreement]
    left = set(source.leave_out)
    return [sample for sample in samples if sample.name not in left][: source.limit]


def held_out(source: Source, name: str, seed: int) -> bool:
    """Whether a photo is kept for validation: a function of its name, so that more data moves nothing. All pictures
    that 300W-LP made of one photo, and all of one `person`, go the same way."""
    photo = w300lp.original(name) if source.layout == "300w_lp" else person(name)
    return zlib.crc32(f"{seed}/{photo}".encode()) < source.validation * 2**32


def person(name: str) -> str:
    """Who is in a picture, by its name: the numbered frames of a clip (NAME_12.jpg) and the moods of a portrait
    (NAME_neutral.jpg, NAME_smiling.jpg, annotated: NAME_smiling_0.jpg) show one person, NAME; any other picture
    somebody of its own."""
    return re.sub(r"(_neutral|_smiling)?(_\d+)?$", "", Path(name).stem)


def prepare(
    sources: Mapping[str, Source],
    model: MorphableModel,
    folder: str | Path,
    size: int,
    seed: int = 0,
    bfm: str | Path | None = None,
    detector: photos.Detector | None = None,
) -> list[dict[str, str | int]]:
    """Write every source's splits below `folder`, crops of `size` px; returns a row of counts for each, of its pictures
    before any are repeated.

    bfm: the folder of 3DDFA's Model_Shape.mat, for labels "bfm"; detector: for layout "photos".
    """
    rows: list[dict[str, str | int]] = []
    for name, source in sources.items():
        samples, raw = read(source, detector), None
        untrained = {s.name for s in samples if source.beside_ibug == "turned" and crops.is_frontal_beside_ibug(s)}
        if source.labels == "bfm":
            if not bfm:
                raise UserError(f"source {name}: labels bfm need paths.bfm, the folder of Model_Shape.mat")
            raw = RawBfm.load(bfm)
            few = at_landmarks(raw)
            samples = [with_bfm_points(sample, few) for sample in samples]
        elif source.annotated and source.labels in ("landmarks", "fit", "photo"):
            samples = annotations.correct(samples, model, source.annotated, source.ridge, source.points)
        for split in ("train", "validation"):
            part = [s for s in samples if held_out(source, s.name, seed) == (split == "validation")]
            if split == "train":
                part = [s for s in part if s.name not in untrained]
            if not part:
                continue
            if source.labels == "none":
                part = [replace(s, landmarks=None, box=s.crop()) for s in part]
            packed = packing.pack(part, Path(folder) / split / name, size, points=source.points, person=person)
            if source.labels in FITTED:
                add_fits(packed, model, source, part, raw)
            counts = np.bincount(arrays.read(packed)[1]["kind"], minlength=len(KINDS)).tolist()
            row = {"source": name, "split": split, "pictures": sum(counts), "broken": len(part) - sum(counts)}
            rows.append(row | dict(zip(KINDS, counts, strict=True)))
            if split == "train" and source.repeat > 1:
                arrays.repeat(packed, source.repeat)
    return rows


def at_landmarks(raw: RawBfm) -> RawBfm:
    """BFM's 68 points alone, so that posing them costs next to nothing."""
    fields = {name: getattr(raw, name)[raw.landmarks] for name in ("mean", "shape_basis", "expression_basis")}
    return replace(raw, **fields, faces=raw.faces[:0], landmarks=np.arange(68))


def with_bfm_points(sample: Sample, few: RawBfm) -> Sample:
    """The sample with the 68 points of its BFM fit, which also the turned pictures of 300W-LP have.

    few: see `at_landmarks`.
    """
    if sample.bfm is None or sample.pose_degrees is None:
        raise UserError(f"{sample.name}: no BFM fit (Shape_Para, Exp_Para) in its .mat file")
    posed = few.posed(sample.bfm, sample.pose_degrees, sample.image().shape[0])
    return replace(sample, landmarks=posed[:, :2], nearness=posed[:, 2], confidence=None)


def add_fits(
    folder: Path, model: MorphableModel, source: Source, samples: list[Sample], raw: RawBfm | None = None
) -> None:
    """Give the landmarked rows of a packed split pose, identity, expression and visibility, where the fit is good.

    The fits are made in the crop, with the network's camera, to points of the source's definition. A fit is good if its
    NME, in which each point's distance is multiplied by its confidence, is at most `source.worst_fit`. With labels
    "photo" it goes on, to the picture too, and what that finds is taken where it is good as well: it tells the whole
    shape. Albedo and lighting stay unknown (one photo does not tell dark skin from little light) unless the photos
    share one light, and three or more of them (`studio.FEWEST`) fit.
    """
    images, labels = arrays.read(folder)
    rows = np.flatnonzero(labels["kind"] == LANDMARKED)
    if not len(rows):
        return
    points, weights = labels["landmarks"][rows], labels["confidence"][rows]
    known = None if raw is None else _coefficients(raw, model, samples, labels["names"][rows])
    settings = FitSettings(source.ridge, annotations.ITERATIONS, focal=DEFAULT_FOCAL, labels=source.points)
    fit = fit_landmarks(model, points, weights, settings, known, True, _known_turns(labels, rows, model))
    good = _distance(fit.points, points, weights) <= source.worst_fit
    parameters, known, chosen = fit.parameters(model)[torch.from_numpy(good)], fit.known[good], rows[good]
    if source.labels == "photo" and len(chosen):
        goal = points[good], weights[good]
        found, kept = fits_to_photos(model, parameters, folder, chosen, *goal, source.points)
        kept &= _distance(in_crop(model, found, source.points).numpy(), *goal) <= source.worst_fit
        kept &= np.abs(found.pose_degrees(model.bfm_rotation)[:, 1].numpy()) <= FRONTAL
        parameters = FaceParameters.where(torch.from_numpy(kept), found, parameters)
        known[kept] = 1
    unknown = ["albedo", "lighting"]
    if source.light == "one" and len(chosen) >= FEWEST:
        albedo, lighting = skin_and_light(model, parameters, images[chosen])
        parameters, unknown = parameters.replace(albedo=albedo, lighting=lighting), []
    labels["kind"][chosen] = LABELLED
    for name, value in parameters.as_tensors().items():
        labels[name] = np.full((len(labels["kind"]), *value.shape[1:]), np.nan, np.float32)
        if name not in unknown:
            labels[name][chosen] = value.numpy()
    labels["focal"][:] = DEFAULT_FOCAL
    labels["known"] = np.ones((len(labels["kind"]), known.shape[1]), np.float32)
    labels["known"][chosen] = known
    for start in tqdm(range(0, len(chosen), 32), "looking what hides", unit="batch"):
        at = slice(start, start + 32)
        labels["visible"][chosen[at]] = landmarks_visible(model, parameters[at], 128).numpy()
    arrays.write_labels(folder, labels)


def _distance(found: np.ndarray, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) NME, %, of points (N, 68, 2) in which each one's distance is multiplied by its weight (N, 68), at most 1."""
    worth = weights[..., None]
    return sparse_nme(found, np.where(worth < 1, found + worth * (points - found), points))


def fits_to_photos(
    model: MorphableModel,
    start: FaceParameters,
    folder: Path,
    rows: np.ndarray,
    points: np.ndarray,
    weights: np.ndarray,
    labels: str,
    workers: int | None = None,
) -> tuple[FaceParameters, np.ndarray]:
    """Fits (`Fitter`, `PHOTO_FITS`) to the crops `rows` (N,) of a packed split and the points in them, and (N,) bool,
    which of them are better than `start`. points: (N, 68, 2) in crop sides, weights: (N, 68), labels: whose definition
    they follow; workers: processes (default: one a core, if there is enough to do)."""
    parts = [slice(first, first + AT_ONCE) for first in range(0, len(rows), AT_ONCE)]
    tasks = [(folder, rows[at], start[at], points[at], weights[at], labels) for at in parts]
    with worker_pool(model, workers or min(cores(), len(tasks))) as pool:
        results = list(run_tasks(_fit_to_photos, model, tasks, pool, "fits to photos"))
    found, kept = zip(*results, strict=True)
    return FaceParameters.cat(found), np.concatenate(kept)


def _fit_to_photos(
    model: MorphableModel,
    folder: Path,
    rows: np.ndarray,
    start: FaceParameters,
    points: np.ndarray,
    weights: np.ndarray,
    labels: str,
) -> tuple[FaceParameters, np.ndarray]:
    """One task of `fits_to_photos`; it reads its crops itself, so that no process holds them all."""
    photos = torch.from_numpy(arrays.read(folder)[0][rows]).permute(0, 3, 1, 2).float() / 255
    counts = lips_first(torch.from_numpy(weights).float())
    fitted = Fitter(model, PHOTO_FITS).fit(photos, start, torch.from_numpy(points).float(), counts, labels)
    return fitted.parameters, fitted.kept.numpy()


def _known_turns(labels: dict[str, np.ndarray], rows: np.ndarray, model: MorphableModel) -> np.ndarray | None:
    """(n, 3, 3) rotations of the face model that another system's poses are, if it has all of them; else None."""
    poses = labels.get("rotation_bfm")
    if poses is None or not np.isfinite(poses[rows]).all():
        return None
    return poses[rows].astype(np.float64) @ model.bfm_rotation.double().numpy().T


def _coefficients(raw: RawBfm, model: MorphableModel, samples: list[Sample], names: np.ndarray) -> np.ndarray | None:
    """(N, Ki + Ke) standard deviations of the named samples' BFM fits, if `model` is that BFM with as many modes; else
    None."""
    if raw.correspondence(model) is None:
        return None
    fits = {sample.name: sample.bfm for sample in samples}
    known = [np.concatenate(raw.standard(fit)) for fit in map(fits.get, names.tolist()) if fit is not None]
    return np.stack(known) if len(known[0]) == model.n_identity + model.n_expression else None
