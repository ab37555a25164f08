"""Systems under test, as the benchmarks see them: crops in, points, pose and shape out.

A system is either a function of crops, (B, 3, S, S) float in [0, 1] -> `CropPrediction`, or anything with
`predict_crops` (the same crops -> `FaceParameters`), `model` (a `MorphableModel`) and `image_size`, as
`mlanet_lib.predictor.Predictor` has.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm.auto import tqdm

from mlanet_lib.data.sample import Sample
from mlanet_lib.errors import UserError
from mlanet_lib.geometry.camera import project, to_camera
from mlanet_lib.geometry.crops import Box, crop_image


@dataclass(frozen=True, eq=False)
class CropPrediction:
    """What a system says of B crops.

    landmarks: (B, 68, 2) in units of the crop's side, [0, 1] inside; pose_degrees: (B, 3) pitch, yaw, roll, 3DDFA's
    signs, in BFM's frame, as the labels that they are compared with, or None; vertices, neutral: (B, V, 3) mm in the
    model frame, with expression and without, or None.
    """

    landmarks: np.ndarray
    pose_degrees: np.ndarray | None = None
    vertices: np.ndarray | None = None
    neutral: np.ndarray | None = None


Predict = Callable[[torch.Tensor], CropPrediction]


def prediction(model, parameters) -> CropPrediction:
    """`FaceParameters` of B crops, decoded with their `MorphableModel`: points (3DDFA's), pose (in BFM's frame) and
    shapes."""
    with torch.no_grad():
        vertices = model.vertices(parameters.identity, parameters.expression)
        neutral = model.vertices(parameters.identity, torch.zeros_like(parameters.expression))
        camera = to_camera(model.landmarks(vertices), parameters.rotation, parameters.translation)
        points = project(camera, parameters.focal, 1, 1)[..., :2]
        pose = parameters.pose_degrees(model.bfm_rotation)
    return CropPrediction(*(tensor.detach().cpu().numpy() for tensor in (points, pose, vertices, neutral)))


def as_function(system) -> Predict:
    """The system under test as a function of crops ."""
    if callable(system):
        return system
    return lambda crops: prediction(system.model, system.predict_crops(crops))


def cut_crops(samples: Sequence[Sample], boxes: Sequence[Box], size: int) -> Iterator[np.ndarray]:
    """The samples' crops, (size, size, 3) uint8 each, as they are asked for.

    A photo that cannot be read or cropped, or whose labelled points all lie outside it, is a UserError that names it.
    """
    for sample, box in zip(samples, boxes, strict=True):
        image = sample.image()
        height, width = image.shape[:2]
        if sample.landmarks is not None:
            low, high = sample.landmarks.min(0), sample.landmarks.max(0)
            if (high <= 0).any() or (low >= (width, height)).any():
                raise UserError(f"{sample.name}: its labelled points lie outside the picture ({width} x {height})")
        try:
            crop = crop_image(image, box, size)
        except UserError as error:
            raise UserError(f"{sample.name}: {error}") from error
        yield crop


def run_batches(
    predict: Predict, crops: Iterable[np.ndarray], count: int, batch_size: int = 32, shapes: bool = True
) -> CropPrediction:
    """Feed `count` crops (S, S, 3) uint8 to a system, in batches, with a progress bar.

    shapes: keep vertices (a megabyte for every four faces or so).
    """
    results, pending = [], []
    for crop in tqdm(crops, total=count, desc="predicting", unit="face", leave=False):
        pending.append(crop)
        if len(pending) == batch_size or len(pending) + batch_size * len(results) == count:
            images = torch.from_numpy(np.stack(pending)).permute(0, 3, 1, 2).float() / 255
            results.append(predict(images))
            if not shapes:
                results[-1] = replace(results[-1], vertices=None, neutral=None)
            pending = []
    columns = [[getattr(r, name) for r in results] for name in CropPrediction.__dataclass_fields__]
    return CropPrediction(*(None if column[0] is None else np.concatenate(column) for column in columns))


def detect_box(detector, image: np.ndarray) -> Box | None:
    """The crop of the upright face nearest to the picture's centre in its own size, or None without a face.

    AFLW's photos show several people; the labelled one is in the middle.
    """
    centre = np.array(image.shape[1::-1]) / 2
    crops = [Box(*map(float, face.crop())) for face in detector.detect(image) if face.turns == 0]
    if not crops:
        return None
    return min(crops, key=lambda b: math.hypot(b.x + b.w / 2 - centre[0], b.y + b.h / 2 - centre[1]) / b.w)
