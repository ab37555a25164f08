"""Synthetic faces with full labels: sampled parameters, drawn by the project's renderer into made-up scenes.

A split is a function of the face model, the configuration and the seed. Splits share no person and no background: each
draws both from a random stream of its own. Training splits are arrays (`mlanet_lib.data.arrays`); the benchmarks are
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
from torch import Tensor

from mlanet_lib.data import arrays
from mlanet_lib.data.arrays import LABELLED, LANDMARKED, UNLABELLED
from mlanet_lib.data.synthetic import scenes
from mlanet_lib.data.synthetic.workers import run_tasks
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.camera import DEFAULT_FOCAL, euler_to_matrix, matrix_to_euler, project
from mlanet_lib.limits import COUNT, COUNT_OR_NONE, SHARE, FieldError, Range, check_fields, check_memory
from mlanet_lib.parameters import FaceParameters, frame
from mlanet_lib.renderer import decode, landmarks_visible, render_face

People = tuple[np.ndarray, np.ndarray]
"""Identity (B, Ki) and albedo (B, Ka) coefficients."""
YAW_BINS = ((0.0, 30.0), (30.0, 60.0), (60.0, 90.0))
BATCH, PHOTOS = 32, 8
"""Training crops, and photos of a benchmark, that are drawn at once."""
SUPERSAMPLING, LARGE = 2, 200
"""Crops and photos of fewer than LARGE px a side are drawn so many times larger, and averaged."""
DRAWING = 50
"""Bytes a pixel that drawing takes. Measured, as growth of the peak: 54 for 8 photos of 450 px, 75 of 1,500 px, 51 for
32 crops of 190 px."""
_TRIES = 100  # occluders drawn for a face until one covers what it should


@dataclass(frozen=True)
class SyntheticConfig:
    """How many faces, and of what kind.

    image_size: side of the training crops, px. train, validation: samples in the training arrays. test: faces in the
    AFLW2000-3D layout (a third in each yaw bin) as photos of photo_size px. occluded: share with something in front of
    the face. labelled, landmarked: shares of the training split that keep all labels, or only the 68 landmarks; the
    rest keeps none (validation is fully labelled). images_per_person: crops a training identity appears in. scans:
    subjects of the Florence layout. shift, scale: jitter of the crop, in crop sides and as a log factor.
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

    def __post_init__(self) -> None:
        check_fields(self)
        if self.labelled + self.landmarked > 1 + 1e-9:
            raise FieldError(f"labelled = {self.labelled}: must be at most 1 with landmarked, {self.landmarked}")


def check_size(config: SyntheticConfig, workers: int) -> None:
    """UserError, with the estimate, where what `config` asks for does not fit into memory.

    Estimated are the arrays, which a training holds whole, and `DRAWING` bytes a pixel of what each of the `workers`
    draws at once.
    """
    for name, count in (("train", config.train), ("validation", config.validation)):
        check_memory(count * config.image_size**2 * 3, f"data.{name} {count:,} at data.image_size {config.image_size}")
    fine = config.image_size * _finer(config.image_size)
    most = {"image_size": min(BATCH, max(config.train, config.validation)) * fine**2}
    most["photo_size"] = min(PHOTOS, max(config.test, 9 * config.scans)) * config.photo_size**2
    for name, pixels in most.items():
        check_memory(workers * pixels * DRAWING, f"data.{name} {getattr(config, name)}, drawn {workers} at once,")


def _finer(size: int) -> int:
    return SUPERSAMPLING if size < LARGE else 1


def stream(seed: int, *names: str) -> np.random.Generator:
    """An independent random stream for each name (split, benchmark) under one seed."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def sample_yaw(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,) yaw in degrees for training: half as in casual photos (normal, 25), half uniform over +-90."""
    casual = np.clip(rng.normal(0, 25, count), -90, 90)
    return np.where(rng.random(count) < 0.5, casual, rng.uniform(-90, 90, count))


def sample_expression(rng: np.random.Generator, names: list[str], count: int) -> np.ndarray:
    """(count, Ke) activations in [0, 1]: a quarter neutral, else one to five, mostly the same on both sides."""
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


def sample_people(model: MorphableModel, rng: np.random.Generator, count: int) -> People:
    """`count` people, standard normal, cut at 2.5 standard deviations, albedo at 2, which covers all people whose skin
    the default face model learned."""
    identity, albedo = (rng.standard_normal((count, n)) for n in (model.n_identity, model.n_albedo))
    return np.clip(identity, -2.5, 2.5), np.clip(albedo, -2.0, 2.0)


def sample_parameters(
    model: MorphableModel,
    rng: np.random.Generator,
    people: People,
    yaw: np.ndarray,
    shift: float = 0.0,
    scale: float = 0.0,
    turn: Tensor | None = None,
) -> FaceParameters:
    """Random expression, light, pitch, roll and framing around given people and yaws (B,) degrees.

    shift, scale: standard deviations of the framing's jitter. turn: (3, 3) from the model's frame to the one in which
    the yaws are counted (default: the model's own); pitch is drawn about the same mean in the model's frame either way.
    """
    count = len(yaw)
    pitch, roll = np.clip(rng.normal(0, 12, count), -40, 40), np.clip(rng.normal(0, 12, count), -45, 45)
    drawn = [*people, sample_expression(rng, model.expression_names, count), np.stack([pitch, yaw, roll], -1)]
    drawn.append(np.clip(rng.standard_normal((count, 3)), -2, 2) * [shift, shift, scale])
    identity, albedo, expression, degrees, jitter = (torch.as_tensor(x, dtype=torch.float32) for x in drawn)
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
    """A batch of crops or photos and what is known of them.

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
    factor = _finer(size)
    fine = size * factor
    decoded = decode(model, parameters)
    rendered = render_face(model, parameters, fine, decoded=decoded)
    image, share = (torch.nn.functional.avg_pool2d(x, factor) for x in (rendered.image, rendered.mask))
    colours = (image.clamp(0, None) * 255).permute(0, 2, 3, 1).numpy()  # premultiplied: black outside the mask
    mask = share[:, 0].numpy()
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


def _occluder(
    rng: np.random.Generator, size: int, landmarks: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """An occluder that covers 5 to 60 % of the face, with its mask, and the share that it covers."""
    for _ in range(_TRIES):
        thing, where = scenes.occluder(rng, size, landmarks)
        share = float((where * mask).sum() / mask.sum())
        if 0.05 <= share <= 0.6:
            return thing, where, share
    raise RuntimeError(f"no occluder covered 5 to 60 % of the face in {_TRIES} tries")


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
) -> Path:
    """Write one split for training, "train" or another; returns the folder.

    Beside the fields of `arrays` the labels hold `person` (N,) int64 and `occluded` (N,), the share covered. Labels
    that a sample's kind does not have are zero. `pool`: see `workers.worker_pool`; the result does not depend on it.
    """
    rng, folder, training = stream(seed, split), Path(folder), split == "train"
    people = sample_people(model, rng, -(-count // config.images_per_person) if training else count)
    person = np.arange(count) % len(people[0])
    kind, yaw = np.full(count, LABELLED), spread_yaw(rng, count)
    if training:
        edges = np.round(np.cumsum([config.labelled, config.landmarked]) * count).astype(int)
        kind[edges[0] :], kind[edges[1] :] = LANDMARKED, UNLABELLED
        kind, yaw = rng.permutation(kind), sample_yaw(rng, count)
    occlude = rng.random(count) < config.occluded
    columns: dict[str, list[np.ndarray]] = {}
    with arrays.writing(folder, config.image_size) as writer:
        tasks = []
        for start in range(0, count, BATCH):
            at = slice(start, start + BATCH)
            drawn = people[0][person[at]], people[1][person[at]]
            tasks.append((config, drawn, yaw[at], occlude[at], kind[at], writer, (seed, split, start)))
        for known in run_tasks(_draw_batch, model, tasks, pool, f"drawing {split}"):
            for field, values in known.items():
                columns.setdefault(field, []).append(values)
        labels = {field: np.concatenate(parts) for field, parts in columns.items()}
        writer.finish({"kind": kind, "person": person, **labels})
    return folder


def _draw_batch(
    model: MorphableModel,
    config: SyntheticConfig,
    people: People,
    yaw: np.ndarray,
    occlude: np.ndarray,
    kind: np.ndarray,
    writer: arrays.Writer,
    place: tuple[int, str, int],
) -> dict[str, np.ndarray]:
    """Draw a batch into `writer`, and return its labels. place: seed, split, and the row that it begins at."""
    seed, split, start = place
    rng = stream(seed, split, str(start))
    parameters = sample_parameters(model, rng, people, yaw, config.shift, config.scale)
    drawn = draw(model, parameters, rng, config.image_size, occlude)
    writer.put(start, drawn.images)
    labelled, landmarked, all_rows = kind == LABELLED, kind != UNLABELLED, np.ones(len(kind), bool)
    known = {name: (tensor.numpy(), labelled) for name, tensor in parameters.as_tensors().items()}
    known |= {"landmarks": (drawn.landmarks[..., :2], landmarked), "visible": (drawn.visible, landmarked)}
    known |= {"focal": (parameters.focal.numpy(), all_rows), "occluded": (drawn.covered, all_rows)}
    return {
        name: (values * keep.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)
        for name, (values, keep) in known.items()
    }
