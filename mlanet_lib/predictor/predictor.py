"""Photo -> faces: detector, crop, MLANet, and the way back into the photo's pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlanet_lib.drawing.views import overlay_in_photo
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.activations import activations
from mlanet_lib.face_model.mirror import Mirror, mean_of
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.files.pictures import read_reduced
from mlanet_lib.fitter import Fitter
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.geometry.crops import Box, crop_image, from_crop, second_look
from mlanet_lib.network import checkpoint
from mlanet_lib.network.mlanet import MLANet
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor.detector import Detection, Detector, turn_points
from mlanet_lib.predictor.graph import GraphNetwork, find_graph
from mlanet_lib.predictor.weights import find_face_model, named_weights, shipped_folder

AXES = ("pitch", "yaw", "roll")
UNITS = {
    "landmarks68, box": "pixels of the photo, first pixel's centre at 0.5",
    "crop": "pixels of the photo after quarter_turns counter-clockwise, as rotation and translation",
    "pose_degrees": "degrees in the photo, of the face model's own frame: 0, 0, 0 looks straight ahead",
    "pose_degrees_bfm": "the same of the Basel Face Model's frame, as 300W-LP and AFLW2000-3D label poses",
    "identity, albedo": "standard deviations",
    "expression": "activation in [0, 1], 1 = full: the mesh nearest to that of expression_predicted, which "
    "may leave this range and is what the OBJ, the overlay and landmarks68 show",
    "fit": "null: not fitted; else which of the two was kept, and of both the misfit to the network's points (a share "
    "of the face's size), to the picture (noise of a pixel) and in all",
    "translation": "mm, camera frame (x right, y down, z away)",
}
"""Of the numbers in `Predictor.record`."""


@dataclass(frozen=True, eq=False)
class Face:
    """One reconstructed face of a photo.

    parameters: batch of one, in the frame of `crop`. landmarks68 (68,2): the model's points in the photo's pixels
    (first pixel's centre at 0.5). box: the detector's, x, y, width, height in the photo. score: the detector's, [0,1],
    None if the crop was given and nothing measured it.
    pose_degrees: pitch, yaw, roll in the photo, 3DDFA's signs, of the face model's own frame: 0 where people look
    straight into the camera, in the mean; pose_degrees_bfm: the same of BFM's frame, as the labels of data sets. crop:
    the square the network saw, in `numpy.rot90(photo, turns)`: `turns` is 0 for an upright photo. crop_image: what it
    saw there, (S,S,3) uint8 at `Predictor.image_size` (`Predictor.sharp_crop` gives more pixels). fit: what fitting the
    face to the photo changed (`Fitted.record`), None where it was not fitted.
    """

    parameters: FaceParameters
    landmarks68: np.ndarray
    box: Box
    score: float | None
    pose_degrees: dict[str, float]
    pose_degrees_bfm: dict[str, float]
    crop: Box
    crop_image: np.ndarray
    turns: int = 0
    fit: dict[str, Any] | None = None

    def enlarged(self, factor: float) -> "Face":
        """The face in the pixels of a photo so many times as large."""
        box, crop = (Box(*(factor * value for value in box)) for box in (self.box, self.crop))
        return replace(self, landmarks68=self.landmarks68 * factor, box=box, crop=crop)


class Predictor:
    """A trained network with its face model and a detector: `Predictor.load().faces("photo.jpg")`.

    mirrored: average the predictions for each crop and its mirror image: half as fast, and more accurate. It needs a
    symmetric face model (UserError). fitted: fit every face to its photo afterwards (`Fitter`): nearer to the person,
    and a second longer on two CPU cores. encoder: what runs the network in place of its own modules (`GraphNetwork`,
    which `load` finds on a CPU; see `graph`); the results agree to rounding.
    """

    def __init__(
        self,
        network: MLANet,
        model: MorphableModel,
        metadata: dict[str, Any],
        path: Path | None = None,
        device: str | torch.device = "cpu",
        mirrored: bool = False,
        encoder: GraphNetwork | None = None,
        fitted: bool = False,
    ):
        self.encoder = encoder or network
        self.network, self.model, self.metadata, self.path = network, model, metadata, path
        self.device = torch.device(device)
        self._fitter = Fitter(model) if fitted else None
        self.image_size = self._fitter.settings.size if self._fitter else network.config.image_size
        self._points = SparseShape(model, 0)  # the 68 points alone: no mesh is decoded for them
        self._detector: Detector | None = None
        self._mirror = Mirror.of(model) if mirrored else None

    @classmethod
    def load(
        cls,
        weights: str | Path = "auto",
        device: str | torch.device = "cpu",
        face_model: str | Path | None = None,
        mirrored: bool = False,
        fitted: bool = False,
    ) -> "Predictor":
        """weights: a checkpoint, the name of shipped ones, or "auto": `named_weights`. face_model: an .npz, or None:
        the one that the checkpoint names, see `find_face_model`.

        Raises UserError with what to run where one of the two is missing, and for a checkpoint of another face model.
        """
        path = named_weights(weights)
        metadata = checkpoint.read_metadata(path)
        try:
            face_model = face_model or find_face_model(metadata["face_model"]["name"])
        except UserError as error:
            raise UserError(f"{path}: its {error}") from error
        model = MorphableModel.load(face_model)
        network, metadata = checkpoint.load_network(path, model, device)
        # convolutions on the CPU want this layout: otherwise they bring the weights into it for every batch
        network.to(memory_format=torch.channels_last)
        on_cpu = torch.device(device).type == "cpu"
        encoder = find_graph(network, [path.parent, shipped_folder()]) if on_cpu else None
        return cls(network, model, metadata, path, device, mirrored, encoder, fitted)

    @property
    def weights(self) -> str:
        """Name of the weights and of what they were trained with, for records."""
        name = self.path.name if self.path else "in memory"
        how = (", mirrored" if self._mirror else "") + (", fitted to the photo" if self._fitter else "")
        return f"{name} ({self.metadata['face_model']['name']}, step {self.metadata.get('step', 'unknown')}{how})"

    @property
    def detector(self) -> Detector:
        """The face detector, loaded when it is first needed."""
        if self._detector is None:
            self._detector = Detector.load()
        return self._detector

    @torch.no_grad()
    def predict_crops(self, images: torch.Tensor | np.ndarray, batch_size: int = 64) -> FaceParameters:
        """Square crops in the training convention -> parameters, on the CPU.

        images: (B,3,S,S) float in [0,1], or (B,S,S,3) uint8; another size than the network's is resized.
        """
        images = _as_floats(images)
        found = self._read(images, batch_size)
        return self._fitter.fit(images, found).parameters if self._fitter else found

    @torch.no_grad()
    def _read(self, images: torch.Tensor | np.ndarray, batch_size: int = 64) -> FaceParameters:
        """What the network says; arguments as for `predict_crops`."""
        images, size = _as_floats(images), self.network.config.image_size
        results = []
        for batch in images.split(batch_size):
            batch = batch.to(self.device)
            if batch.shape[-1] != size:
                batch = torch.nn.functional.interpolate(batch, (size, size), mode="bilinear", antialias=True)
            results.append(self.encoder.encode(batch).to("cpu"))
            if self._mirror:
                other = self.encoder.encode(batch.flip(3)).to("cpu")
                results[-1] = mean_of(results[-1], self._mirror.parameters(other))
        return FaceParameters.cat(results) if results else FaceParameters.neutral(self.model, 0)

    def faces(self, photo: str | Path | np.ndarray, boxes: Sequence[Box] | None = None) -> list[Face]:
        """The faces of a photo (path or array, see `pictures.read_reduced`), largest first; no face: an empty list.

        The network looks twice: in crops made from the detector's boxes, then around the points found there. boxes:
        crops in the training convention instead of the detector's (then there is no score).
        """
        photo, reduced, _ = read_reduced(photo)
        given = None if boxes is None else [[Box(*(side / reduced for side in box)) for box in boxes]]
        (faces,) = self.faces_of([photo], given)
        return faces if reduced == 1 else [face.enlarged(reduced) for face in faces]

    def faces_of(self, photos: Sequence[np.ndarray], boxes: Sequence[Sequence[Box]] | None = None) -> list[list[Face]]:
        """`faces` of several photos, (H,W,3) uint8 each: all their crops go through the network together.

        boxes: for each photo its crops, as there.
        """
        none = np.full((5, 2), np.nan)
        if boxes is None:
            found = [self.detector.detect(photo) for photo in photos]
            crops = [[Box(*face.crop()) for face in few] for few in found]
        else:
            crops = [list(few) for few in boxes]
            found = [[Detection(np.array(box, float), np.nan, none) for box in few] for few in crops]
        turned = [
            {turns: np.ascontiguousarray(np.rot90(photo, turns)) for turns in {face.turns for face in few}}
            for photo, few in zip(photos, found, strict=True)
        ]
        ends = np.cumsum([len(few) for few in found]).tolist()
        parts = [slice(end - len(few), end) for end, few in zip(ends, found, strict=True)]

        def cut() -> np.ndarray:
            cuts = [self._crop_images(*one) for one in zip(turned, found, crops, strict=True) if one[1]]
            return np.concatenate(cuts)

        if not any(found):
            return [[] for _ in photos]
        if boxes is None:
            first = self._read(cut())
            points = self._points.landmarks(self._points.turned(first), first).numpy()
            crops = [second_look(points[part], few) for part, few in zip(parts, crops, strict=True)]
        images = cut()
        parameters, fits = self._read(images), None
        if self._fitter:
            fits = self._fitter.fit(_as_floats(images), parameters)
            parameters = fits.parameters
        faces = [
            self._faces(few, own, images[part], photo.shape[0], photo.shape[1], parameters[part]) if few else []
            for few, own, part, photo in zip(found, crops, parts, photos, strict=True)
        ]
        if fits is None:
            return faces
        return [
            [replace(face, fit=fits.record(part.start + number)) for number, face in enumerate(few)]
            for few, part in zip(faces, parts, strict=True)
        ]

    def _crop_images(self, turned: dict[int, np.ndarray], found: list[Detection], crops: list[Box]) -> np.ndarray:
        size = self.image_size
        return np.stack([crop_image(turned[f.turns], crop, size) for f, crop in zip(found, crops, strict=True)])

    def _faces(
        self,
        found: list[Detection],
        crops: list[Box],
        images: np.ndarray,
        height: int,
        width: int,
        parameters: FaceParameters,
    ) -> list[Face]:
        points = self._points.landmarks(self._points.turned(parameters), parameters).numpy()
        # a quarter turn counter-clockwise made the photo upright: the head was turned clockwise, roll's direction
        quarter = euler_to_matrix(torch.tensor([[0.0, 0.0, 90.0 * detection.turns] for detection in found]))
        upright = parameters.replace(rotation=quarter @ parameters.rotation)
        poses, bfm_poses = (upright.pose_degrees(turn).tolist() for turn in (None, self.model.bfm_rotation))
        return [
            Face(
                parameters=parameters[number],
                landmarks68=turn_points(from_crop(points[number], crop), detection.turns, height, width),
                box=Box(*detection.box_in_photo(height, width).tolist()),
                score=None if np.isnan(detection.score) else detection.score,
                pose_degrees=dict(zip(AXES, poses[number], strict=True)),
                pose_degrees_bfm=dict(zip(AXES, bfm_poses[number], strict=True)),
                crop=crop,
                crop_image=images[number],
                turns=detection.turns,
            )
            for number, (detection, crop) in enumerate(zip(found, crops, strict=True))
        ]

    def record(self, face: Face) -> dict[str, Any]:
        """One face as JSON-able values: everything by name, with the units in `units`."""
        parameters = face.parameters
        active = activations(self.model, parameters.expression)[0]
        return {
            "landmarks68": np.round(face.landmarks68, 3).tolist(),
            "pose_degrees": {axis: round(value, 3) for axis, value in face.pose_degrees.items()},
            "pose_degrees_bfm": {axis: round(value, 3) for axis, value in face.pose_degrees_bfm.items()},
            "identity": parameters.identity[0].tolist(),
            "expression": dict(zip(self.model.expression_names, active.tolist(), strict=True)),
            "expression_predicted": parameters.expression[0].tolist(),
            **{name: getattr(parameters, name)[0].tolist() for name in ("albedo", "lighting", "rotation")},
            "translation": parameters.translation[0].tolist(),
            "focal": float(parameters.focal[0]),
            "box": [round(value, 2) for value in face.box],
            "crop": [round(value, 2) for value in face.crop],
            "quarter_turns": face.turns,
            "fit": face.fit,
            "score": None if face.score is None else round(face.score, 4),
            "detector": "given" if face.score is None else Detector.kind,
            "face_model": {"name": self.model.name, "fingerprint": self.model.fingerprint},
            "weights": self.weights,
            "units": UNITS,
        }

    def sharp_crop(self, photo: np.ndarray, face: Face, size: int = 1024) -> np.ndarray:
        """The face's crop of the photo (H,W,3) uint8 at up to `size` pixels, upright: (S,S,3) uint8."""
        turned = np.ascontiguousarray(np.rot90(photo, face.turns))
        return crop_image(turned, face.crop, min(size, max(self.network.config.image_size, round(face.crop.w))))

    def overlay(self, photo: np.ndarray, face: Face, backend: str = "auto") -> np.ndarray:
        """The photo (H,W,3) uint8 with the face's mesh and points drawn on it."""
        turned = np.ascontiguousarray(np.rot90(photo, face.turns))
        points = turn_points(face.landmarks68, -face.turns, *turned.shape[:2])
        drawn = overlay_in_photo(self.model, face.parameters, turned, face.crop, points, backend=backend)
        return np.ascontiguousarray(np.rot90(drawn, -face.turns))


def _as_floats(images: torch.Tensor | np.ndarray) -> torch.Tensor:
    """(B,3,S,S) float in [0,1] of pictures that may be (B,S,S,3) uint8."""
    tensor = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
    return tensor.permute(0, 3, 1, 2).float() / 255 if tensor.dtype == torch.uint8 else tensor
