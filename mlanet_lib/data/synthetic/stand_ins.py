"""Benchmark sets of synthetic faces in the published layouts, so that one evaluator serves them and the real ones.

They stand in for AFLW2000-3D and MICC Florence where those are not at hand. Their numbers show how well a network
learned *this* face model. They are not results on AFLW2000-3D or Florence and must not be called so.
"""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from mlanet_lib.data.sample import SyntheticTruth
from mlanet_lib.data.sets import aflw2000, florence
from mlanet_lib.data.sets.scans import Scan
from mlanet_lib.data.synthetic import faces
from mlanet_lib.data.synthetic.faces import PHOTOS, People, SyntheticConfig, sample_parameters, stream
from mlanet_lib.data.synthetic.workers import run_tasks, worker_pool
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.camera import project, to_camera
from mlanet_lib.geometry.crops import crop_box_from_landmarks
from mlanet_lib.limits import cores
from mlanet_lib.parameters import FaceParameters

PHOTO_SHARE = (0.45, 0.7)
"""Side of the face's crop in sides of the photo, lowest and highest; AFLW2000-3D's lies about in the middle."""
WORTH_A_POOL = 1000  # training samples; starting processes costs seconds
SCAN_YAW = {"cooperative": 20.0, "indoor": 45.0, "outdoor": 70.0}
"""Largest |yaw| of the photos in each of Florence's conditions; the wilder the condition, the wider."""
SCAN_PHOTOS = 3
SCAN_LANDMARKS = (30, 33, 36, 39, 42, 45, 48, 54)


def write_aflw2000(
    config: SyntheticConfig,
    model: MorphableModel,
    folder: str | Path,
    seed: int,
    pool: ProcessPoolExecutor | None = None,
) -> Path:
    """Write `config.test` photos with `.mat` files, a third in each yaw bin, `config.occluded` of each occluded. Their
    poses are those of BFM's frame, as the published files' are."""
    rng, folder, count = stream(seed, "test"), Path(folder), config.test
    (identity, albedo), yaw = faces.sample_people(model, rng, count), faces.spread_yaw(rng, count)
    # the first so many of each bin: sample i lies in bin i modulo 3
    occlude = np.arange(count) // len(faces.YAW_BINS) < round(config.occluded * count / len(faces.YAW_BINS))
    tasks = []
    for start in range(0, count, PHOTOS):
        at = slice(start, start + PHOTOS)
        people = identity[at], albedo[at]
        tasks.append((folder, config.photo_size, people, yaw[at], occlude[at], seed, start))
    list(run_tasks(_write_photos, model, tasks, pool, "drawing test photos"))
    return folder


def _write_photos(
    model: MorphableModel,
    folder: Path,
    size: int,
    people: People,
    yaw: np.ndarray,
    occlude: np.ndarray,
    seed: int,
    start: int,
) -> None:
    """Write some of the photos of `write_aflw2000`, the first of them number `start`."""
    rng = stream(seed, "test", str(start))
    parameters = _zoomed_out(rng, sample_parameters(model, rng, people, yaw, turn=model.bfm_rotation))
    drawn = faces.draw(model, parameters, rng, size, occlude)
    landmarks = drawn.landmarks * [size, size, 1]
    centre = to_camera(torch.zeros(len(parameters), 1, 3), parameters.rotation, parameters.translation)
    origin = project(centre, parameters.focal, size, size)[:, 0].numpy()
    per_mm = (parameters.focal * size / parameters.translation[:, 2]).tolist()
    pose = parameters.pose_degrees(model.bfm_rotation).numpy()
    identity, expression = parameters.identity.numpy(), parameters.expression.numpy()
    for i in range(len(parameters)):
        occluded = bool(drawn.covered[i] > 0)
        truth = SyntheticTruth(model.fingerprint, identity[i], expression[i], occluded, drawn.visible[i])
        stem = f"image{start + i + 1:05d}"
        aflw2000.write_sample(folder, stem, drawn.images[i], landmarks[i], pose[i], per_mm[i], origin[i], truth)


def _zoomed_out(rng: np.random.Generator, parameters: FaceParameters) -> FaceParameters:
    """The same view in a photo whose side is longer than the crop's: the focal length in photo widths shrinks."""
    share = torch.tensor(rng.uniform(*PHOTO_SHARE, len(parameters)), dtype=torch.float32)
    return parameters.replace(focal=parameters.focal * share)


def write_florence(
    config: SyntheticConfig,
    model: MorphableModel,
    folder: str | Path,
    seed: int,
    pool: ProcessPoolExecutor | None = None,
) -> Path:
    """Write `config.scans` subjects: the neutral head as the scan, and photos of it in each condition."""
    folder, (identity, albedo) = Path(folder), faces.sample_people(model, stream(seed, "scans"), config.scans)
    tasks = [(folder, config.photo_size, identity[i], albedo[i], seed, i) for i in range(config.scans)]
    list(run_tasks(_write_subject, model, tasks, pool, "drawing scans"))
    return folder


def _write_subject(
    model: MorphableModel, folder: Path, size: int, identity: np.ndarray, albedo: np.ndarray, seed: int, number: int
) -> None:
    rng = stream(seed, "scans", str(number))
    conditions = [condition for condition in SCAN_YAW for _ in range(SCAN_PHOTOS)]
    limits = np.array([SCAN_YAW[condition] for condition in conditions])
    people = np.tile(identity, (len(conditions), 1)), np.tile(albedo, (len(conditions), 1))
    parameters = sample_parameters(model, rng, people, rng.uniform(-limits, limits))
    drawn = faces.draw(model, _zoomed_out(rng, parameters), rng, size, np.zeros(len(conditions), bool))
    neutral = model.vertices(parameters.identity[:1], torch.zeros(1, model.n_expression))
    points = model.landmarks(neutral)[0].numpy()
    marks = {k: points[k] for k in SCAN_LANDMARKS}
    skin = model.albedo(parameters.albedo[:1])[0].clamp(0, 1).numpy()
    scan = Scan(neutral[0].numpy(), model.faces.numpy(), marks, model.fingerprint, colours=skin)
    boxes = [crop_box_from_landmarks(landmarks * size) for landmarks in drawn.landmarks[..., :2]]
    photos = zip(conditions, drawn.images, boxes, strict=True)
    florence.write_subject(folder, f"subject_{number + 1:02d}", scan, photos)


def generate(
    config: SyntheticConfig,
    model: MorphableModel,
    training: str | Path,
    aflw2000_folder: str | Path,
    florence_folder: str | Path,
    seed: int,
    workers: int | None = None,
) -> dict[str, Path]:
    """Write everything that the embedded study needs: training and validation arrays, and both benchmark sets.

    workers: processes (default: one a core, unless there is little to draw). Parts of which `config` asks for none are
    left out. Returns the folders: train, validation, aflw2000, florence.
    """
    workers = workers or (cores() if config.train >= WORTH_A_POOL else 1)
    faces.check_size(config, workers)
    folders = {}
    with worker_pool(model, workers) as pool:
        for split, count in (("train", config.train), ("validation", config.validation)):
            if count:
                folders[split] = faces.write_split(config, model, Path(training) / split, split, count, seed, pool)
        if config.test:
            folders["aflw2000"] = write_aflw2000(config, model, aflw2000_folder, seed, pool)
        if config.scans:
            folders["florence"] = write_florence(config, model, florence_folder, seed, pool)
    return folders
