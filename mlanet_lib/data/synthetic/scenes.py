"""The surroundings of a synthetic face: procedural backgrounds, hair, occluders, light.

Everything is a function of a `numpy.random.Generator`, so a split is a function of its seed. Pictures are uint8
arrays (size, size, 3); masks are float arrays (size, size) in [0, 1], 1 where the thing covers the picture. Points are
in pixels with pixel centres at (i + 0.5, j + 0.5). All of it is a choice of this project, not the paper's.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from mlanet_lib.geometry.lighting import ambient, directional

SHADES = {"smooth": 2, "clouds": 4, "texture": 6}


def noise(rng: np.random.Generator, size: int, octaves: int, persistence: float = 0.55) -> np.ndarray:
    """Value noise: a sum of enlarged random grids (2, 4, 8, ... cells); (size, size, 3) float in [0, 1]."""
    grid = np.full((1, 1, 3), 128, np.float32)
    for octave in range(octaves):  # each octave refines the sum of the coarser ones, at its own resolution
        cells = 2 ** (octave + 1)
        coarse = Image.fromarray(grid.astype(np.uint8)).resize((cells, cells), Image.Resampling.BICUBIC)
        step = rng.integers(-128, 128, (cells, cells, 3)) * (0.9 * persistence**octave)
        grid = np.clip(np.asarray(coarse) + step, 0, 255)
    picture = Image.fromarray(grid.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32) / 255


def colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """A random display colour, more often muted than vivid."""
    grey = rng.uniform(15, 240)
    red, green, blue = np.clip(grey + rng.normal(0, 35, 3), 0, 255)
    return int(red), int(green), int(blue)


def clutter(rng: np.random.Generator, picture: Image.Image, shapes: int) -> None:
    """Draw random ellipses, boxes, bars and polygons of every size into `picture`, in place."""
    draw, size = ImageDraw.Draw(picture), picture.width
    for _ in range(shapes):
        centre, radius = rng.uniform(0, size, 2), rng.uniform(0.03, 0.35, 2) * size
        box = [*(centre - radius), *(centre + radius)]
        kind = rng.integers(4)
        if kind == 0:
            draw.ellipse(box, fill=colour(rng))
        elif kind == 1:
            draw.rectangle(box, fill=colour(rng))
        elif kind == 2:
            ends = rng.uniform(-0.2, 1.2, (2, 2)) * size
            draw.line([tuple(p) for p in ends], fill=colour(rng), width=int(rng.uniform(0.01, 0.08) * size) + 1)
        else:
            angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
            corners = centre + radius * np.stack([np.cos(angle), np.sin(angle)], -1)
            draw.polygon([tuple(p) for p in corners], fill=colour(rng))


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A picture to stand behind a face: value noise of some roughness, often with clutter, often out of focus."""
    field = noise(rng, size, octaves=SHADES[rng.choice(list(SHADES))])
    field = field[..., :1] + rng.uniform(0, 0.5) * (field - field[..., :1])  # channels mostly vary together
    low, high = np.array(colour(rng)), np.array(colour(rng))
    picture = Image.fromarray((low + field * (high - low)).astype(np.uint8))
    if rng.random() < 0.7:
        clutter(rng, picture, int(rng.integers(2, 14)))
    if rng.random() < 0.6:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 3.0) * size / 100))
    return np.asarray(picture)


def hair(rng: np.random.Generator, size: int, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mass of hair and shoulders *behind* the head: (picture, mask), around the head's box (x0, y0, x1, y1)."""
    layer = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(layer)
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    grow = rng.uniform(1.0, 1.35, 2)
    top = centre + half * [0, -0.25]
    draw.ellipse([*(top - half * grow), *(top + half * grow)], fill=255)
    if rng.random() < 0.5:  # long hair falls beside the neck
        down = rng.uniform(0.5, 2.0) * half[1]
        draw.rectangle([top[0] - half[0] * grow[0], top[1], top[0] + half[0] * grow[0], top[1] + down], fill=255)
    base = np.array(colour(rng)) * rng.uniform(0.1, 0.9)
    strands = noise(rng, size, 6, 0.9)[..., :1] * rng.uniform(0.2, 0.8) + 0.6
    blur = layer.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.5) * size / 100))
    return np.clip(base * strands, 0, 255).astype(np.uint8), np.asarray(blur, np.float32) / 255


def occluder(rng: np.random.Generator, size: int, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Something *in front of* the face: (picture, mask). `landmarks` (68, 2) px say where eyes and mouth are.

    Kinds, drawn with equal chance: dark glasses, a mask over mouth and nose, a fringe of hair, a hand or an object
    from the side, random clutter.
    """
    layer = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(layer)
    low, high = landmarks.min(0), landmarks.max(0)
    span = high - low
    kind = rng.choice(["glasses", "mask", "fringe", "object", "clutter"])
    if kind == "glasses":
        radius = np.linalg.norm(landmarks[45] - landmarks[36]) * rng.uniform(0.16, 0.3) * np.array([1.2, 1.0])
        centres = [landmarks[36:42].mean(0), landmarks[42:48].mean(0)]
        for centre in centres:
            draw.ellipse([*(centre - radius), *(centre + radius)], fill=255)
        draw.line([tuple(c) for c in centres], fill=255, width=max(1, int(radius[1] * 0.25)))
    elif kind == "mask":
        outline = np.concatenate([landmarks[2:15], landmarks[29:30] * 0.7 + landmarks[27:28] * 0.3])
        draw.polygon([tuple(p + rng.normal(0, 0.01, 2) * span) for p in outline], fill=255)
    elif kind == "fringe":
        depth = rng.uniform(-0.1, 0.35)
        for x in np.linspace(low[0] - 0.2 * span[0], high[0] + 0.2 * span[0], 24):
            end = low[1] + (depth + rng.normal(0, 0.06)) * span[1]
            draw.line([(x, low[1] - span[1]), (x + rng.normal(0, 0.05) * span[0], end)], 255, int(span[0] * 0.07) + 1)
    elif kind == "object":
        target = landmarks[rng.integers(68)]
        angle = rng.uniform(0, 2 * np.pi)
        outside = target + size * np.array([np.cos(angle), np.sin(angle)])
        width = int(rng.uniform(0.12, 0.4) * span.max()) + 1
        draw.line([tuple(outside), tuple(target)], fill=255, width=width)
        draw.ellipse([*(target - width / 2), *(target + width / 2)], fill=255)
    else:
        for _ in range(rng.integers(1, 4)):
            centre, radius = rng.uniform(low, high), rng.uniform(0.06, 0.28, 2) * span
            (draw.ellipse if rng.random() < 0.5 else draw.rectangle)([*(centre - radius), *(centre + radius)], fill=255)
    base = np.array(colour(rng)) * (rng.uniform(0.05, 0.4) if kind in ("glasses", "fringe") else rng.uniform(0.4, 1.1))
    picture = np.clip(base * (0.75 + 0.5 * noise(rng, size, 5)), 0, 255).astype(np.uint8)
    return picture, np.asarray(layer, np.float32) / 255


def light(rng: np.random.Generator, batch: int) -> torch.Tensor:
    """Random lighting (batch, 9, 3): ambient light and two distant lamps, each a little tinted.

    Lamps come from the front and from above more often than not. A surface that faces the lamps has about 0.6 to 1.3
    times its albedo.
    """
    strength = rng.uniform(0.25, 0.85, (batch, 1))
    tint = 1 + rng.normal(0, 0.06, (3, batch, 1, 3))
    total = ambient(batch) * torch.tensor(strength[..., None] * tint[0], dtype=torch.float32)
    for lamp in (1, 2):
        direction = rng.normal([0, 0.35, 0.6], 0.8, (batch, 3))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        colour_ = rng.uniform(0, 1.05 - 0.8 * strength) * tint[lamp, :, 0]
        total += directional(*(torch.tensor(x, dtype=torch.float32) for x in (direction, colour_)))
    return total


def sensor(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """The effects of a camera: a little blur, noise, contrast and brightness; (H, W, 3) uint8 -> the same."""
    if rng.random() < 0.4:
        radius = rng.uniform(0.2, 1.0) * len(picture) / 100
        picture = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))
    gain, offset = rng.normal(1, 0.08), rng.normal(0, 8)
    noisy = (picture.astype(np.float32) - 128) * gain + 128 + offset
    noisy += rng.normal(0, rng.uniform(0, 5), picture.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)
