"""Pictures of a face as arrays: overlay, clay mesh, side view, albedo, per-vertex colours. No matplotlib here.

All pictures are (H,W,3) uint8 RGB unless said otherwise; a face is a `FaceParameters` batch of one.
"""

from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.sparse_shape import in_crop
from mlanet_lib.geometry.camera import euler_to_matrix, to_camera
from mlanet_lib.geometry.crops import Box
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render, render_face, turned

SMOOTH = 2  # pictures are drawn this many times larger and averaged: no jagged edges
FILL = 0.94  # of a picture's side, at most, for a whole head
SIDE_YAW = -55.0
CLAY = (0.74, 0.76, 0.80)
LIGHT = (0.35, 0.45, 0.82)  # unit direction towards the key light, y-up camera-aligned frame
LANDMARK_CHAINS = [
    (range(first, after), first >= 36) for first, after in pairwise((0, 17, 22, 27, 31, 36, 42, 48, 60, 68))
]
"""The 68 landmarks as lines: (indices, closed). Jaw, brows, nose, nostrils, eyes, lips."""


def to_bytes(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """[0,1] floats (array or tensor, channels last) to uint8, clipped."""
    values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    return (np.clip(values, 0, 1) * 255).round().astype(np.uint8)


def framed(
    model: MorphableModel, parameters: FaceParameters, yaw: float = 0.0, pitch: float = 0.0, whole: bool = False
) -> FaceParameters:
    """The same face, framed as crops are and seen from `yaw`, `pitch` degrees instead of its own pose.

    whole: the mesh is moved to the picture's middle and, where it is larger than the picture, made smaller (a head from
    the side is wider than its crop)."""
    neutral = FaceParameters.neutral(model, len(parameters), focal=float(parameters.focal[0]))
    frontal = parameters.replace(rotation=neutral.rotation, translation=neutral.translation)
    seen = turned(model, frontal, euler_to_matrix(neutral.translation.new_tensor([[pitch, yaw, 0.0]])))
    return _whole(model, seen) if whole else seen


def _whole(model: MorphableModel, parameters: FaceParameters) -> FaceParameters:
    """The faces with the middle of their extent in the picture's middle, and at most `FILL` of its side large."""
    camera = to_camera(
        model.vertices(parameters.identity, parameters.expression), parameters.rotation, parameters.translation
    )
    slopes = camera[..., :2] / camera[..., 2:]
    low, high = slopes.amin(1), slopes.amax(1)
    depth = parameters.translation[:, 2:]
    middle = torch.nn.functional.pad(-(low + high) / 2 * depth, (0, 1))
    focal = torch.minimum(parameters.focal, FILL / (high - low).amax(1))
    return parameters.replace(translation=parameters.translation + middle, focal=focal)


@torch.no_grad()
def textured(model: MorphableModel, parameters: FaceParameters, size: int) -> np.ndarray:
    """The face with its albedo under its own light, on white."""
    rendering = render_face(model, parameters, SMOOTH * size)
    image = torch.where(rendering.mask > 0, rendering.image.clamp(0, 1), 1.0)
    return to_bytes(torch.nn.functional.avg_pool2d(image, SMOOTH)[0].permute(1, 2, 0))


@torch.no_grad()
def coloured(
    model: MorphableModel,
    parameters: FaceParameters,
    size: int,
    colours: np.ndarray | None = None,
) -> np.ndarray:
    """The mesh under a fixed light, on white: grey as clay, or with `colours` (V,3) in [0,1] (a map of errors, say)."""
    image, mask = _clay(model, parameters, SMOOTH * size, colours)
    image = np.where(mask[..., None], np.clip(image, 0, 1), 1.0)
    return to_bytes(image.reshape(size, SMOOTH, size, SMOOTH, 3).mean((1, 3)))


def _clay(
    model: MorphableModel,
    parameters: FaceParameters,
    size: int,
    colours: np.ndarray | None = None,
    backend: str = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """The lit mesh, not clipped (size,size,3), and its mask (size,size) bool."""
    vertices = model.vertices(parameters.identity, parameters.expression)
    camera = to_camera(vertices, parameters.rotation, parameters.translation)
    normals = model.normals(vertices) @ parameters.rotation.transpose(1, 2)
    key = (normals @ normals.new_tensor(LIGHT)).clamp(min=0)
    fill = (normals @ normals.new_tensor((-LIGHT[0], LIGHT[1], LIGHT[2]))).clamp(min=0)
    shade = (0.28 + 0.58 * key + 0.22 * fill)[..., None]
    base = normals.new_tensor(CLAY) if colours is None else torch.as_tensor(colours, dtype=normals.dtype)
    rendering = render(camera, model.faces, shade * base, parameters.focal, size, backend)
    return rendering.image[0].permute(1, 2, 0).numpy(), rendering.mask[0, 0].numpy() > 0


@torch.no_grad()
def landmarks(model: MorphableModel, parameters: FaceParameters, size: int = 1) -> np.ndarray:
    """The 68 projected points (B,68,2) in pixels of a crop of side `size`."""
    return size * in_crop(model, parameters).cpu().numpy()


def panels(
    model: MorphableModel, parameters: FaceParameters, crop: np.ndarray, size: int = 224
) -> dict[str, np.ndarray]:
    """The row that one looks at: photo, overlay, mesh, side view, albedo, each (size,size,3), by name."""
    photo = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.LANCZOS))
    flat = parameters.replace(lighting=FaceParameters.neutral(model, 1).lighting)
    return {
        "photo": photo,
        "overlay": blend(photo, *rendered(model, parameters, size)),
        "mesh": coloured(model, parameters, size),
        "side view": coloured(model, framed(model, parameters, yaw=SIDE_YAW, whole=True), size),
        "albedo": textured(model, framed(model, flat), size),
    }


@torch.no_grad()
def rendered(model: MorphableModel, parameters: FaceParameters, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The rendered face (size,size,3) float in [0,1] and its mask (size,size) bool."""
    rendering = render_face(model, parameters, size)
    return rendering.image[0].permute(1, 2, 0).clamp(0, 1).numpy(), rendering.mask[0, 0].numpy() > 0


def blend(photo: np.ndarray, image: np.ndarray, mask: np.ndarray, opacity: float = 1.0) -> np.ndarray:
    """`image` (H,W,3) in [0,1] laid over a photo of the same size where `mask` says."""
    weight = opacity * mask[..., None]
    return to_bytes(photo / 255.0 * (1 - weight) + image * weight)


def draw_landmarks(
    photo: np.ndarray, points: np.ndarray, colour: tuple[int, ...] = (0, 158, 115), width: int = 1
) -> np.ndarray:
    """The 68 landmarks (68,2), in the photo's pixels, as thin lines and dots (drawn larger, for smoothness)."""
    scale = 4 if max(photo.shape[:2]) <= 1500 else 1
    canvas = Image.fromarray(photo).resize((photo.shape[1] * scale, photo.shape[0] * scale))
    pen = ImageDraw.Draw(canvas)
    points = np.asarray(points, float) * scale
    for chain, closed in LANDMARK_CHAINS:
        line = [tuple(points[i]) for i in chain]
        pen.line(line + line[:1] * closed, fill=colour, width=max(1, width * scale), joint="curve")
    radius = 0.9 * width * scale
    for x, y in points:
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(255, 255, 255), outline=colour)
    return np.asarray(canvas.resize(photo.shape[1::-1], Image.Resampling.LANCZOS))


def overlay_in_photo(
    model: MorphableModel,
    parameters: FaceParameters,
    photo: np.ndarray,
    crop: Box,
    points: np.ndarray,
    opacity: float = 0.75,
    longest: int = 1600,
    backend: str = "auto",
) -> np.ndarray:
    """A photo (H,W,3) with the clay mesh drawn where the face is, and its 68 points (68,2) in the photo's pixels.

    `crop`: the square, in the photo's pixels, that the parameters describe. Large photos are reduced to `longest`.
    """
    zoom = min(1.0, longest / max(photo.shape[:2]))
    small = Image.fromarray(photo).resize((max(1, round(photo.shape[1] * zoom)), max(1, round(photo.shape[0] * zoom))))
    canvas = np.array(small)
    # the head reaches beyond its crop: a wider window with the same centre and a shorter focal length shows all of it
    centre = (crop.x + crop.w / 2, crop.y + crop.h / 2)
    x, y, w, h = (round(v * zoom) for v in (centre[0] - crop.w, centre[1] - crop.h, 2 * crop.w, 2 * crop.h))
    wide = parameters.replace(focal=parameters.focal / 2)
    image, mask = _clay(model, wide, min(1024, max(32, w)), backend=backend)
    patch = np.dstack([to_bytes(image), mask.astype(np.uint8) * 255])
    patch = np.asarray(Image.fromarray(patch).resize((max(1, w), max(1, h)), Image.Resampling.BILINEAR))
    top, left = max(0, y), max(0, x)
    bottom, right = min(canvas.shape[0], y + patch.shape[0]), min(canvas.shape[1], x + patch.shape[1])
    if bottom > top and right > left:
        part = patch[top - y : bottom - y, left - x : right - x]
        canvas[top:bottom, left:right] = blend(
            canvas[top:bottom, left:right], part[..., :3] / 255.0, part[..., 3] / 255.0, opacity
        )
    return draw_landmarks(canvas, np.asarray(points) * zoom, width=max(1, round(w / 600)))
