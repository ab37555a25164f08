"""Synthetic faces with full labels: sampled parameters, drawn by the project's renderer into made-up scenes.

A split is a function of the face model, the configuration and the seed. Splits share no person and no background: each
draws both from a random stream of its own. Training splits are arrays (`images.npy`, `labels.npz`); the benchmarks are
written in the published layouts of AFLW2000-3D and MICC Florence by `mlanet_lib.data.synthetic.stand_ins`.

The distributions (pose, expression, light, occluders) are choices of this project, not the paper's.
"""

import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from mlanet_lib.data.synthetic import scenes
from mlanet_lib.data.synthetic.workers import run_tasks
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.atomic import atomic_path
from mlanet_lib.geometry.camera import DEFAULT_FOCAL, euler_to_matrix, matrix_to_euler, project
from mlanet_lib.limits import COUNT, COUNT_OR_NONE, SHARE, FieldError, Range, check_fields, check_memory
from mlanet_lib.parameters import FaceParameters, frame
from mlanet_lib.renderer import decode, landmarks_visible, render_face

LABELLED, LANDMARKED, UNLABELLED = 0, 1, 2
YAW_BINS = ((0.0, 30.0), (30.0, 60.0), (60.0, 90.0))
BATCH, PHOTOS = 32, 8
"""Training pictures, and photos of a benchmark, that are drawn at once."""
DRAWING = 50
SUPERSAMPLING, LARGE = 2, 200
"""Pictures of fewer than LARGE px a side are drawn so many times larger, and averaged."""


@dataclass(frozen=True)
class SyntheticConfig:
    """How many faces, and of what kind.

    image_size: side of the training crops, px. train, validation: samples in the training arrays. test: faces in the
    AFLW2000-3D layout (a third in each yaw bin) as photos of photo_size px. occluded: share with something before the
    face. labelled, landmarked: shares of the training split that keep all labels, or only the 68 landmarks; the rest
    keeps none (validation is fully labelled). images_per_person: pictures a training identity appears in.
    scans: subjects of the Florence layout. shift, scale: jitter of the crop, in crop sides and as a log factor.
    """

    image_size: Annotated[int, Range(16, 10**6)] = 64
    train: Annotated[int, COUNT_OR_NONE] = 12000
    validation: Annotated[int, COUNT_OR_NONE] = 600
    test: Annotated[int, COUNT_OR_NONE] = 450
    photo_size: Annotated[int, Range(64, 10**6)] = 450
    occluded: Annotated[float, SHARE] = 0.3
    labelled: Annotated[float, SHARE] = 0.6
    landmarked: Annotated[float, SHARE] = 0.25
    images_per_person: Annotated[int, COUNT] = 6
    scans: Annotated[int, COUNT_OR_NONE] = 8
    shift: Annotated[float, SHARE] = 0.04
    scale: Annotated[float, SHARE] = 0.06

    def __post_init__(self):
        check_fields(self)
        if self.labelled + self.landmarked > 1 + 1e-9:
            raise FieldError(f"labelled = {self.labelled}: must be at most 1 with landmarked, {self.landmarked}")


def check_size(config: SyntheticConfig, workers: int) -> None:
    """UserError, with the estimate, where what `config` asks for does not fit into memory.

    Estimated are the arrays, which a training holds whole, and DRAWING bytes a pixel of what each of the `workers`
    draws at once; measured, as growth of the peak: 54 of 8 photos of 450 px, 75 of 1,500 px, 51 of 32 crops of 190 px.
    """
    for name, count in (("train", config.train), ("validation", config.validation)):
        check_memory(count * config.image_size**2 * 3, f"data.{name} {count:,} at data.image_size {config.image_size}")
    fine = config.image_size * (SUPERSAMPLING if config.image_size < LARGE else 1)
    most = {"image_size": min(BATCH, max(config.train, config.validation)) * fine**2}
    most["photo_size"] = min(PHOTOS, max(config.test, 9 * config.scans)) * config.photo_size**2
    for name, pixels in most.items():
        check_memory(workers * pixels * DRAWING, f"data.{name} {getattr(config, name)}, drawn {workers} at once,")


def stream(seed: int, *names: str) -> np.random.Generator:
    """An independent random stream for each name (split, benchmark) under one seed."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def sample_yaw(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,) yaw in degrees for training: half as in casual photos (normal, 25), half uniform over +-90."""
    casual = np.clip(rng.normal(0, 25, count), -90, 90)
    return np.where(rng.random(count) < 0.5, casual, rng.uniform(-90, 90, count))


def sample_expression(rng: np.random.Generator, names: list[str], count: int) -> np.ndarray:
    """(count, Ke) activations in [0, 1]: a quarter neutral, else one to five, mostly with both sides alike."""
    activations = np.zeros((count, len(names)), np.float32)
    for row in activations:
        if rng.random() > 0.25:
            chosen = rng.choice(len(names), size=min(int(rng.integers(1, 6)), len(names)), replace=False)
            row[chosen] = rng.beta(1.5, 1.5, len(chosen))
    column = {name: i for i, name in enumerate(names)}
    for name, left in column.items():
        right = column.get(name.replace("Left", "Right"), left)
        if right != left:
            alike = rng.random(count) < 0.7
            activations[alike, left] = activations[alike, right] = activations[alike][:, [left, right]].max(1)
    return activations


def sample_people(model: MorphableModel, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Identity (count, Ki) and albedo (count, Ka) coefficients of `count` people, standard normal, cut at 2.5 standard
    deviations, albedo at 2: nobody's skin that the default face model learned from lies beyond."""
    identity, albedo = (rng.standard_normal((count, n)) for n in (model.n_identity, model.n_albedo))
    return np.clip(identity, -2.5, 2.5), np.clip(albedo, -2.0, 2.0)


def sample_parameters(
    model: MorphableModel,
    rng: np.random.Generator,
    people: tuple[np.ndarray, np.ndarray],
    yaw: np.ndarray,
    shift: float = 0.0,
    scale: float = 0.0,
    turn: torch.Tensor | None = None,
) -> FaceParameters:
    """Random expression, light, pitch, roll and framing around given people and yaws (B,) degrees.

    people: identity (B, Ki) and albedo (B, Ka); shift, scale: standard deviations of the framing's jitter. turn: (3, 3)
    from the model's frame to the one in which the yaws are counted (default: the model's own); heads are held as they
    are without it.
    """
    count = len(yaw)
    pitch, roll = np.clip(rng.normal(0, 12, count), -40, 40), np.clip(rng.normal(0, 12, count), -45, 45)
    arrays = [*people, sample_expression(rng, model.expression_names, count), np.stack([pitch, yaw, roll], -1)]
    jitter = np.clip(rng.standard_normal((count, 3)), -2, 2) * [shift, shift, scale]
    identity, albedo, expression, degrees, jitter = (
        torch.as_tensor(array, dtype=torch.float32) for array in [*arrays, jitter]
    )
    if turn is not None:
        degrees[:, 0] += matrix_to_euler(turn)[0]
    rotation, focal = euler_to_matrix(degrees), torch.full((count,), DEFAULT_FOCAL)
    if turn is not None:
        rotation = rotation @ turn.T
    mean, identities, expressions = (
        model.landmarks(values[None])[0] for values in (model.mean, model.identity_basis, model.expression_basis)
    )
    landmarks = mean + torch.einsum("vck,bk->bvc", identities, identity)
    landmarks += torch.einsum("vck,bk->bvc", expressions, expression)
    translation = frame(landmarks, rotation, focal, jitter[:, :2], jitter[:, 2].exp())
    return FaceParameters(identity, expression, albedo, rotation, translation, scenes.light(rng, count), focal)


@dataclass(frozen=True)
class Drawn:
    """A batch of pictures and what is known of them.

    images: (B, S, S, 3) uint8; landmarks: (B, 68, 3), x and y in picture sides, third = mm depth from the camera;
    visible: (B, 68) bool, neither turned away nor covered; covered: (B,) share of the face's pixels behind an occluder.
    """

    images: np.ndarray
    landmarks: np.ndarray
    visible: np.ndarray
    covered: np.ndarray


@torch.no_grad()
def draw(
    model: MorphableModel, parameters: FaceParameters, rng: np.random.Generator, size: int, occlude: np.ndarray
) -> Drawn:
    """Draw faces into random scenes, `size` px a side; those with `occlude` (B,) true get something before the face."""
    factor = SUPERSAMPLING if size < LARGE else 1
    fine = size * factor
    decoded = decode(model, parameters)
    rendered = render_face(model, parameters, fine, decoded=decoded)
    colours, mask = (torch.nn.functional.avg_pool2d(x, factor) for x in (rendered.image, rendered.mask))
    colours = (colours.clamp(0, None) * 255).permute(0, 2, 3, 1).numpy()  # premultiplied: black outside the mask
    mask = mask[:, 0].numpy()
    landmarks = project(decoded.landmarks, parameters.focal, 1, 1).numpy()
    visible = landmarks_visible(model, parameters, fine, decoded=decoded, depth=rendered.depth).numpy()
    images, covered = np.empty((len(parameters), size, size, 3), np.uint8), np.zeros(len(parameters), np.float32)
    for i, points in enumerate(landmarks[..., :2] * size):
        scene = scenes.background(rng, size).astype(np.float32)
        if rng.random() < 0.8:
            rows, columns = np.nonzero(mask[i] > 0.5)
            strands, where = scenes.hair(rng, size, np.array([columns.min(), rows.min(), columns.max(), rows.max()]))
            scene += where[..., None] * (strands - scene)
        picture = colours[i] + (1 - mask[i][..., None]) * scene
        if occlude[i]:
            thing, where, covered[i] = _occluder(rng, size, points, mask[i])
            picture += where[..., None] * (thing - picture)
            column, row = np.clip(points.astype(int), 0, size - 1).T
            visible[i] &= where[row, column] < 0.5
        images[i] = scenes.sensor(rng, np.clip(picture, 0, 255).astype(np.uint8))
    return Drawn(images, landmarks, visible, covered)


def _occluder(rng: np.random.Generator, size: int, landmarks: np.ndarray, mask: np.ndarray, tries: int = 100):
    """An occluder that covers 5 to 60 % of the face, with its mask, and the share that it covers."""
    for _ in range(tries):
        thing, where = scenes.occluder(rng, size, landmarks)
        share = float((where * mask).sum() / mask.sum())
        if 0.05 <= share <= 0.6:
            return thing, where, share
    raise RuntimeError(f"no occluder covered 5 to 60 % of the face in {tries} tries")


def spread_yaw(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,) yaw in degrees, a third in each of the benchmark's bins, either sign, evenly within the bin."""
    low, high = np.array(YAW_BINS)[np.arange(count) % len(YAW_BINS)].T
    return rng.uniform(low + 1e-3, high) * rng.choice([-1, 1], count)


def write_split(
    config: SyntheticConfig,
    model: MorphableModel,
    folder: str | Path,
    split: str,
    count: int,
    seed: int,
    pool: ProcessPoolExecutor | None = None,
    progress: bool = True,
) -> Path:
    """Write one split for training: `images.npy` (N, S, S, 3) uint8 and `labels.npz`; returns the folder.

    labels.npz (float32 unless said): the fields of `FaceParameters`; landmarks (N, 68, 2) crop sides; visible (N, 68);
    occluded (N,) share covered; kind (N,) int64 (0 labelled, 1 landmarked, 2 unlabelled); person (N,) int64. What a
    sample's kind does not know is not in the file: those rows are zero. `pool`: see
    `workers.worker_pool`; the result does not depend on it.
    """
    rng, folder, size, training = stream(seed, split), Path(folder), config.image_size, split == "train"
    people = sample_people(model, rng, -(-count // config.images_per_person) if training else count)
    person = np.arange(count) % len(people[0])
    kind, yaw = np.full(count, LABELLED), spread_yaw(rng, count)
    if training:
        edges = np.round(np.cumsum([config.labelled, config.landmarked]) * count).astype(int)
        kind[edges[0] :], kind[edges[1] :] = LANDMARKED, UNLABELLED
        kind, yaw = rng.permutation(kind), sample_yaw(rng, count)
    occlude = rng.random(count) < config.occluded
    starts = range(0, count, BATCH)
    columns: dict[str, list[np.ndarray]] = {}
    with atomic_path(folder / "images.npy") as path:
        np.lib.format.open_memmap(path, "w+", np.uint8, (count, size, size, 3)).flush()
        tasks = [
            _Task(
                config,
                [p[person[i : i + BATCH]] for p in people],
                *(x[i : i + BATCH] for x in (yaw, occlude, kind)),
                path,
                i,
                (seed, split, str(i)),
            )
            for i in starts
        ]
        for known in run_tasks(_draw_batch, model, tasks, pool, f"drawing {split}", progress):
            for name, array in known.items():
                columns.setdefault(name, []).append(array)
    labels = {name: np.concatenate(arrays) for name, arrays in columns.items()}
    with atomic_path(folder / "labels.npz") as path:
        np.savez(path, kind=kind, person=person, **labels)
    return folder


@dataclass(frozen=True)
class _Task:
    """A batch of a split: what `_draw_batch` draws into the rows of the file at `path` from `start` on."""

    config: SyntheticConfig
    people: list[np.ndarray]
    yaw: np.ndarray
    occlude: np.ndarray
    kind: np.ndarray
    path: Path
    start: int
    name: tuple


def _draw_batch(model: MorphableModel, task: _Task) -> dict[str, np.ndarray]:
    rng, config = stream(*task.name), task.config
    parameters = sample_parameters(model, rng, task.people, task.yaw, config.shift, config.scale)
    drawn = draw(model, parameters, rng, config.image_size, task.occlude)
    images = np.lib.format.open_memmap(task.path, "r+")
    images[task.start : task.start + len(drawn.images)] = drawn.images
    images.flush()
    labelled, landmarked = task.kind == LABELLED, task.kind != UNLABELLED
    known = {name: (tensor.numpy(), labelled) for name, tensor in parameters.as_tensors().items()}
    known |= {"landmarks": (drawn.landmarks[..., :2], landmarked), "visible": (drawn.visible, landmarked)}
    known |= {"focal": (parameters.focal.numpy(), landmarked | True), "occluded": (drawn.covered, landmarked | True)}
    return {
        name: (array * keep.reshape(-1, *[1] * (array.ndim - 1))).astype(np.float32)
        for name, (array, keep) in known.items()
    }
