"""Systems under test, as the benchmarks see them: crops in, landmarks, pose and face parameters out."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mlanet_lib.data.sample import Sample
from mlanet_lib.data.sets import aflw2000
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.sparse_shape import in_crop
from mlanet_lib.geometry.crops import Box, crop_box_from_landmarks, crop_image, to_crop
from mlanet_lib.parameters import FaceParameters


class FaceDetector(Protocol):
    """Finds faces, as `mlanet_lib.predictor.detector.Detector`: photo (H, W, 3) uint8 -> detections with their quarter
    `turns` and `crop()`, x, y, w, h in pixels; `kind`: its name, for the record."""

    @property
    def kind(self) -> str: ...

    def detect(self, photo: np.ndarray, /) -> Sequence[Any]: ...


class System(Protocol):
    """A system that the benchmarks can judge: it predicts face parameters from crops, as
    `mlanet_lib.predictor.Predictor` does.

    model: the face model of its parameters; image_size: side of the crops that it wants, pixels; weights: their name,
    for the record; metadata: of the training, `summary.constant_baseline` reads it; detector: for photos without a
    crop. `predict_crops`: (B, 3, S, S) float in [0, 1] -> the parameters of B faces, in their crops.
    """

    @property
    def model(self) -> MorphableModel: ...
    @property
    def image_size(self) -> int: ...
    @property
    def weights(self) -> str: ...
    @property
    def metadata(self) -> Mapping: ...
    @property
    def detector(self) -> FaceDetector | None: ...

    def predict_crops(self, images: Tensor, /) -> FaceParameters: ...


@dataclass(frozen=True, eq=False)
class CropPrediction:
    """A system's predictions for B crops.

    landmarks: (B, 68, 2) in crop sides, [0, 1] inside; pose_degrees: (B, 3) pitch, yaw, roll, 3DDFA's signs, in BFM's
    frame, as the labels that they are compared with, or None; parameters: of the B faces, or None.
    """

    landmarks: np.ndarray
    pose_degrees: np.ndarray | None = None
    parameters: FaceParameters | None = None


@dataclass(frozen=True, eq=False)
class PointSystem:
    """A function of crops (B, 3, S, S) that predicts only landmarks, for the benchmarks that need nothing else."""

    predict: Callable[[Tensor], CropPrediction]
    image_size: int
    weights: str = "unnamed"
    metadata: Mapping = field(default_factory=dict)
    model: MorphableModel | None = None
    detector: FaceDetector | None = None


def prediction(model: MorphableModel, parameters: FaceParameters) -> CropPrediction:
    """`FaceParameters` of B crops, in the model's units: 3DDFA's landmarks, pose in BFM's frame."""
    pose = parameters.pose_degrees(model.bfm_rotation)
    landmarks = in_crop(model, parameters)
    return CropPrediction(landmarks.cpu().numpy(), pose.detach().cpu().numpy(), parameters.detach())


def read_crops(system: System | PointSystem, crops: Sequence[np.ndarray]) -> CropPrediction:
    """The system's predictions for a batch of crops, (S, S, 3) uint8 each."""
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        if isinstance(system, PointSystem):
            return system.predict(images)
        return prediction(system.model, system.predict_crops(images))


def read_all(
    system: System | PointSystem, crops: Iterable[np.ndarray], count: int, batch_size: int = 32
) -> CropPrediction:
    """The system's predictions for `count` crops (S, S, 3) uint8, in batches, with a progress bar."""
    found, pending = [], []
    for number, crop in enumerate(tqdm(crops, total=count, desc="predicting", unit="face", leave=False), 1):
        pending.append(crop)
        if len(pending) == batch_size or number == count:
            found.append(read_crops(system, pending))
            pending = []
    poses = [one.pose_degrees for one in found if one.pose_degrees is not None]
    parameters = [one.parameters for one in found if one.parameters is not None]
    return CropPrediction(
        np.concatenate([one.landmarks for one in found]),
        np.concatenate(poses) if poses else None,
        FaceParameters.cat(parameters) if parameters else None,
    )


def face_parameters(system: System, crops: Sequence[np.ndarray], batch_size: int = 64) -> FaceParameters:
    """The parameters, on the CPU, that a system reads in crops (S, S, 3) uint8."""
    batches = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).split(batch_size)
    with torch.no_grad():
        return FaceParameters.cat(system.predict_crops(images.float() / 255).to("cpu") for images in batches)


class LabelledPhotos(NamedTuple):
    """N photos in AFLW2000-3D's layout. boxes: their crops, from the labels; landmarks: (N, 68, 2), pixels; pose:
    (N, 3) pitch, yaw, roll, degrees, in BFM's frame."""

    samples: list[Sample]
    boxes: list[Box]
    landmarks: np.ndarray
    pose: np.ndarray

    @classmethod
    def read(cls, folder: str | Path, limit: int | None = None) -> "LabelledPhotos":
        """The photos of a folder, or the first ones."""
        samples = aflw2000.read_folder(folder, limit)
        landmarks, pose = (np.stack([getattr(s, name) for s in samples]) for name in ("landmarks", "pose_degrees"))
        return cls(samples, [crop_box_from_landmarks(points) for points in landmarks], landmarks, pose)

    def in_crops(self) -> np.ndarray:
        """(N, 68, 2) the landmarks in crop sides."""
        return np.stack([to_crop(points, box) for points, box in zip(self.landmarks, self.boxes, strict=True)])

    def crops(self, size: int) -> Iterator[np.ndarray]:
        """The crops, (size, size, 3) uint8 each, as they are asked for.

        A photo that cannot be read or cropped, or whose labels all lie outside it, is a UserError that names it.
        """
        for sample, points, box in zip(self.samples, self.landmarks, self.boxes, strict=True):
            image = sample.image()
            height, width = image.shape[:2]
            if (points.max(0) <= 0).any() or (points.min(0) >= (width, height)).any():
                raise UserError(f"{sample.name}: its labelled points lie outside the picture ({width} x {height})")
            try:
                crop = crop_image(image, box, size)
            except UserError as error:
                raise UserError(f"{sample.name}: {error}") from error
            yield crop


def detect_box(detector: FaceDetector | None, image: np.ndarray) -> Box | None:
    """The crop of the upright face nearest to the photo's centre, relative to its own size; None if there is no face.

    AFLW's photos show several people; the labelled one is in the middle. Without a detector: UserError.
    """
    if detector is None:
        raise UserError("no crop is known, and the system under test has no detector to find the face with")
    centre = np.array(image.shape[1::-1]) / 2
    crops = [Box(*map(float, face.crop())) for face in detector.detect(image) if face.turns == 0]
    if not crops:
        return None
    return min(crops, key=lambda b: math.hypot(b.x + b.w / 2 - centre[0], b.y + b.h / 2 - centre[1]) / b.w)


def detect_boxes(detector: FaceDetector | None, images: Iterable[np.ndarray]) -> tuple[list[Box], int]:
    """`detect_box` of each photo, the whole photo where no face is found, and how many of those there are."""
    boxes, undetected = [], 0
    for image in images:
        box = detect_box(detector, image)
        undetected += box is None
        boxes.append(box or Box(0.0, 0.0, *image.shape[1::-1]))
    return boxes, undetected
