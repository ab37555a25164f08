"""The camera: rotations, rigid motion and perspective projection.

Frames. *Model* (mm): x to the subject's left, y up, z out of the face. A rotation acts in this y-up frame and the
identity looks straight into the camera. *Camera* (mm, OpenCV's): x right, y down, z away from the camera. Hence

    X_camera = FLIP (R X_model) + t,        FLIP = diag(1, -1, -1),  t_z > 0

Pixel centres lie at (i + 0.5, j + 0.5); the principal point is the centre of the picture. The focal length is given
in units of the picture's *width*, so that the parameters of a face do not depend on the resolution of its crop.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mlanet_lib.geometry.device import constant

DEFAULT_FOCAL = 9.0
"""Focal length in picture widths: a field of view of 6.4 degrees, a face seen from about two metres. Deng et al. 2019
use 4.53 (1015 px at 224 px). Measured on training photos, the NME that fits of the face model to 3DDFA's points leave
at yaws up to 15, from 30 to 60, and beyond 60 degrees: 0.59 / 0.82 / 1.07 % with 4.5, 0.57 / 0.69 / 0.79 % with 9,
0.60 / 0.66 / 0.68 % without perspective; to iBUG's points of studio portraits 1.07, 1.05 and 1.06 %."""

_FLIP = (1.0, -1.0, -1.0)
SMALLEST_DEPTH = 1e-6


def euler_to_matrix(degrees: Tensor) -> Tensor:
    """Rotation matrices from Euler angles, in 3DDFA's order and signs: R = Rx(pitch) Ry(yaw) Rz(roll).

    degrees: (..., 3) pitch, yaw, roll in degrees. Returns (..., 3, 3). Positive pitch lifts the nose, positive yaw
    turns it to the image's left, positive roll turns the head clockwise in the image.
    """
    radians = torch.deg2rad(degrees)
    (cx, cy, cz), (sx, sy, sz) = torch.cos(radians).unbind(-1), torch.sin(radians).unbind(-1)
    rows = [
        [cy * cz, cy * sz, -sy],
        [sx * sy * cz - cx * sz, sx * sy * sz + cx * cz, sx * cy],
        [cx * sy * cz + sx * sz, cx * sy * sz - sx * cz, cx * cy],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def matrix_to_euler(rotation: Tensor) -> Tensor:
    """The inverse of `euler_to_matrix`: (..., 3, 3) -> (..., 3) pitch, yaw, roll in degrees.

    Pitch and roll lie in (-180, 180], yaw in [-90, 90] (a yaw beyond 90 degrees comes back as its equal with pitch and
    roll turned by 180). At a yaw of exactly +-90 only a combination of pitch and roll is defined: roll is set to 0.
    """
    cosine = torch.hypot(rotation[..., 0, 0], rotation[..., 0, 1])
    locked = cosine < 1e-6
    pitch = torch.atan2(rotation[..., 1, 2], rotation[..., 2, 2])
    pitch = torch.where(locked, torch.atan2(-rotation[..., 2, 1], rotation[..., 1, 1]), pitch)
    yaw = torch.atan2(-rotation[..., 0, 2], cosine)
    roll = torch.atan2(rotation[..., 0, 1], rotation[..., 0, 0])
    return torch.rad2deg(torch.stack([pitch, yaw, roll.masked_fill(locked, 0.0)], -1))


def rotation_6d_to_matrix(six: Tensor) -> Tensor:
    """Rotation matrices from the continuous 6D form of Zhou et al. 2019, by Gram-Schmidt.

    six: (..., 6), the first two columns of the matrix, one after the other, of any length and angle. Returns
    (..., 3, 3).
    """
    first = normalize(six[..., :3], dim=-1)
    second = six[..., 3:] - (first * six[..., 3:]).sum(-1, keepdim=True) * first
    second = normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


def rotation_vector_to_matrix(vector: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) from rotation vectors (..., 3), axis times angle in radians, by Rodrigues' formula.

    R = I + sin(a) / a K + (1 - cos(a)) / a^2 K^2 with K x = vector x x; smooth at the angle a = 0.
    """
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    half = (vector.square().sum(-1)[..., None, None] / 4 + 1e-12).sqrt()
    sinc = torch.sin(half) / half
    once, twice = sinc * torch.cos(half), sinc.square() / 2
    return torch.eye(3, dtype=vector.dtype, device=vector.device) + once * cross + twice * (cross @ cross)


def flip(points: Tensor) -> Tensor:
    """(..., 3) points or directions between the y-up frame and the camera's axes (its own inverse)."""
    return points * constant(_FLIP, points)


def roll_in_picture(rotation: Tensor, translation: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """The pose whose picture is that of (rotation, translation), turned clockwise about the picture's centre.

    rotation: (B, 3, 3); translation: (B, 3) mm; angle: (B,) radians. Exact: the camera turns about its own axis.
    """
    cosine, sine, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    rows = [[cosine, -sine, zero], [sine, cosine, zero], [zero, zero, zero + 1]]
    turn = torch.stack([torch.stack(row, -1) for row in rows], -2)  # in the camera's frame, y down
    return turn.mT @ rotation, (turn @ translation[..., None])[..., 0]  # seen with y up it turns the other way


def to_camera(vertices: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Model frame to camera frame: X_camera = FLIP (R X) + t.

    vertices: (B, V, 3) mm; rotation: (B, 3, 3) in the y-up frame; translation: (B, 3) mm in the camera frame. Returns
    (B, V, 3) mm in the camera frame.
    """
    flipped = rotation * constant(_FLIP, rotation)[:, None]
    return torch.baddbmm(translation[:, None], vertices, flipped.transpose(1, 2))


def project(points_camera: Tensor, focal: Tensor, height: int, width: int) -> Tensor:
    """Perspective projection to pixels: (x, y) = focal * width * (X, Y) / Z + (width, height) / 2.

    points_camera: (B, V, 3) mm in the camera frame; focal: (B,) in picture widths; height, width: pixels. Returns
    (B, V, 3): x to the right and y down in pixels, depth Z in mm. Points that are not in front of the camera keep
    their depth (<= 0, or NaN) but have no picture: their x and y are finite and mean nothing.
    """
    depth = points_camera[..., 2:]
    divisor = torch.where(depth > SMALLEST_DEPTH, depth, torch.ones_like(depth))
    scale = (focal * width)[:, None, None] / divisor
    centre = constant((width / 2, height / 2), points_camera)
    return torch.cat([points_camera[..., :2] * scale + centre, depth], -1)


def nearest_rotations(matrices: np.ndarray) -> np.ndarray:
    """The rotations that are nearest to matrices (..., 3, 3) in least squares, whatever their scale; no reflections."""
    u, _, vt = np.linalg.svd(np.asarray(matrices, np.float64))
    u[..., 2] *= np.sign(np.linalg.det(u) * np.linalg.det(vt))[..., None]
    return u @ vt
