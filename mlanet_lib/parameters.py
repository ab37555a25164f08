"""FaceParameters: all parameters that determine a face's look in one picture, by name and editable."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mlanet_lib.errors import UserError
from mlanet_lib.geometry.camera import DEFAULT_FOCAL, matrix_to_euler, project, rotation_vector_to_matrix, to_camera
from mlanet_lib.geometry.lighting import ambient

LANDMARK_BOX_SHARE = 2**-0.5
"""Share of the crop's side that the longer side of the landmarks' box takes (3DDFA's crop: the box times sqrt(2))."""


class Model(Protocol):
    """What is needed of a face model (`MorphableModel`) to frame its mean face."""

    mean: Tensor

    @property
    def n_identity(self) -> int: ...
    @property
    def n_expression(self) -> int: ...
    @property
    def n_albedo(self) -> int: ...

    def landmarks(self, vertices: Tensor, /) -> Tensor:
        """(B, V, 3) -> (B, 68, 3)."""


@dataclass(eq=False)
class FaceParameters:
    """The parameters of B faces, the tensors that a network predicts and a renderer draws.

    identity: (B, Ki) in standard deviations; expression: (B, Ke) activations, 0 = neutral, 1 = full; albedo: (B, Ka)
    in standard deviations; rotation: (B, 3, 3), y-up frame, identity = frontal; translation: (B, 3) mm, camera frame;
    lighting: (B, 9, 3) radiance coefficients; focal: (B,) in picture widths. Frames as in `mlanet_lib.geometry.camera`.
    """

    identity: Tensor
    expression: Tensor
    albedo: Tensor
    rotation: Tensor
    translation: Tensor
    lighting: Tensor
    focal: Tensor

    @classmethod
    def names(cls) -> list[str]:
        """The names of the fields, in order."""
        return [field.name for field in fields(cls)]

    @classmethod
    def neutral(cls, model: Model, batch: int = 1, focal: float = DEFAULT_FOCAL) -> "FaceParameters":
        """The mean face, neutral, frontal, under white ambient light, framed as the crops are.

        model: whose device and dtype are taken, a `MorphableModel`; focal: picture widths. The longer side of the
        projected landmarks' box takes `LANDMARK_BOX_SHARE` of a square picture, and the box lies in its centre.
        """
        mean = model.mean
        rotation = torch.eye(3, device=mean.device, dtype=torch.float64)[None]
        one = rotation.new_ones(1)
        place = frame(model.landmarks(mean[None]).double(), rotation, focal * one, rotation.new_zeros(1, 2), one, 30)
        return cls(
            identity=mean.new_zeros(batch, model.n_identity),
            expression=mean.new_zeros(batch, model.n_expression),
            albedo=mean.new_zeros(batch, model.n_albedo),
            rotation=rotation.to(mean).repeat(batch, 1, 1),
            translation=place.to(mean).repeat(batch, 1),
            lighting=ambient(batch, device=mean.device, dtype=mean.dtype),
            focal=mean.new_full((batch,), focal),
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "FaceParameters":
        """The inverse of `as_tensors`; keys that are not fields are ignored, a missing one is a UserError."""
        missing = [name for name in cls.names() if name not in tensors]
        if missing:
            raise UserError(f"face parameters without {', '.join(missing)}")
        return cls(**{name: torch.as_tensor(tensors[name]) for name in cls.names()})

    @classmethod
    def cat(cls, items: Iterable["FaceParameters"]) -> "FaceParameters":
        """One batch of several, in order."""
        columns = [item.as_tensors() for item in items]
        return cls(**{name: torch.cat([column[name] for column in columns]) for name in cls.names()})

    @classmethod
    def where(cls, chosen: Tensor, one: "FaceParameters", other: "FaceParameters") -> "FaceParameters":
        """The faces of `one` where `chosen` (B,) bool, of `other` elsewhere."""
        sides = zip(one.as_tensors().values(), other.as_tensors().values(), strict=True)
        return cls(*(torch.where(chosen.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in sides))

    def as_tensors(self) -> dict[str, Tensor]:
        """The fields by name (the tensors themselves, not copies)."""
        return {name: getattr(self, name) for name in self.names()}

    def replace(self, **changes: Tensor) -> "FaceParameters":
        """A copy with some fields exchanged; an unknown name is a TypeError."""
        return dataclasses.replace(self, **changes)

    def map(self, function: Callable[[Tensor], Tensor]) -> "FaceParameters":
        """A copy with `function` applied to every tensor."""
        return type(self)(**{name: function(tensor) for name, tensor in self.as_tensors().items()})

    def to(self, *device_or_dtype: Any) -> "FaceParameters":
        """A copy on another device or of another floating dtype (the arguments of `Tensor.to`)."""
        return self.map(lambda tensor: tensor.to(*device_or_dtype))

    def detach(self) -> "FaceParameters":
        """A copy that is cut off the graph."""
        return self.map(Tensor.detach)

    def clone(self) -> "FaceParameters":
        """A copy that shares no memory."""
        return self.map(Tensor.clone)

    def __len__(self) -> int:
        return len(self.rotation)

    def __getitem__(self, index: int | slice | list[int] | Tensor | np.ndarray) -> "FaceParameters":
        """Some of the faces: an int keeps a batch of one; a slice, an index list or tensor, or a mask."""
        if isinstance(index, int):
            index = slice(index, index + 1) if index >= 0 else [index]
        return self.map(lambda tensor: tensor[index])

    def pose_degrees(self, turn: Tensor | None = None) -> Tensor:
        """(B, 3) pitch, yaw, roll in degrees, with 3DDFA's signs.

        turn: (3, 3) from the model's frame to the one whose angles are asked for; `MorphableModel.bfm_rotation` gives
        those that compare with the labels of data sets.
        """
        return matrix_to_euler(self.rotation if turn is None else self.rotation @ turn.to(self.rotation))

    def moved(self, turn: Tensor, place: Tensor) -> "FaceParameters":
        """The same faces turned and reframed, differentiable.

        turn: (B, 3) rotation vectors about the y-up axes of the camera, radians; place: (B, 3), how far the model's
        origin moves to the right and down in the picture, in its sides, and the log of the factor by which it grows,
        within [-1, 1].
        """
        depth = self.translation[:, 2:] * torch.exp(-place[:, 2:].clamp(-1, 1))
        across = (self.translation[:, :2] / self.translation[:, 2:] + place[:, :2] / self.focal[:, None]) * depth
        return self.replace(
            rotation=rotation_vector_to_matrix(turn) @ self.rotation, translation=torch.cat([across, depth], 1)
        )


def frame(landmarks: Tensor, rotation: Tensor, focal: Tensor, shift: Tensor, scale: Tensor, rounds: int = 12) -> Tensor:
    """Translations (B, 3) mm that put faces where a crop has them.

    landmarks: (B, 68, 3) mm, model frame; shift: (B, 2) offset of the landmark box's centre from the picture's, in
    picture sides; scale: (B,) factor on the box's usual share of the picture (`LANDMARK_BOX_SHARE`); rounds: of a
    fixed point, each of which gains a digit.
    """
    share = scale * LANDMARK_BOX_SHARE
    depth = focal * 150 / share
    translation = torch.stack([torch.zeros_like(depth), torch.zeros_like(depth), depth], -1)
    for _ in range(rounds):  # a fixed point: depth differs over the face, so that no closed form frames it
        points = project(to_camera(landmarks, rotation, translation), focal, 1, 1)[..., :2]
        low, high = points.amin(1), points.amax(1)
        z = translation[:, 2] * (high - low).amax(1) / share
        xy = translation[:, :2] - ((low + high) / 2 - 0.5 - shift) * (translation[:, 2] / focal)[:, None]
        translation = torch.cat([xy, z[:, None]], -1)
    return translation
