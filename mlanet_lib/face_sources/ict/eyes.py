"""Colours of all parts but the skin: eyes from the same photographs; teeth, gums and sockets in one colour each."""

import numpy as np

from mlanet_lib.face_sources import london
from mlanet_lib.face_sources.ict.head import eye_angle
from mlanet_lib.face_sources.ict.skin import LUMA, inside

LIMBUS, PUPIL = 21.3, 7.5
"""Degrees from the gaze where the iris ends (its hand-placed rim in the photos: 5.6 mm on the eyeball) and begins."""
PUPIL_COLOUR = (0.03, 0.03, 0.03)
INSIDE = {
    "mouth socket": (0.30, 0.12, 0.12),
    "eye sockets": (0.45, 0.27, 0.25),
    "gums and tongue": (0.55, 0.29, 0.29),
    "teeth": (0.74, 0.70, 0.63),
}
"""Display-encoded RGB, chosen by eye: the neutral photos do not show these parts."""


def photographed(photos: london.Photos) -> tuple[np.ndarray, np.ndarray]:
    """Each person's colour of the iris (P, 3), the mean over both eyes of medians, and of all people's scleras (3,)."""
    irises, scleras = [], []
    for picture, points in zip(photos.pictures, photos.points, strict=True):
        found = [_eye(picture, points, name) for name in london.IRIS]
        irises.append(np.nanmean([iris for iris, _ in found], axis=0))
        scleras += [white for _, white in found if np.isfinite(white).all()]
    return np.array(irises), np.mean(scleras, axis=0)


def _eye(picture: np.ndarray, points: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Median colours of the iris, but for pupil, rim and reflections, and of the sclera, between the lids; NaN where
    the lids leave none of it."""
    rim = points[list(london.IRIS[name])]
    middle = rim.mean(0)
    radius = np.linalg.norm(rim - middle, axis=1).mean()
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    pixels = np.stack([columns, rows], -1).reshape(-1, 2) + 0.5
    away = np.linalg.norm(pixels - middle, axis=1) / radius
    pixels, away = pixels[away < 2.6], away[away < 2.6]
    lids = points[list(london.LIDS[name])]
    inwards = lids.mean(0) - lids
    between = inside(pixels, lids + inwards / np.linalg.norm(inwards, axis=1, keepdims=True))
    pixels, away = pixels[between].astype(int), away[between]
    colour = picture[pixels[:, 1], pixels[:, 0]] / 255
    iris = (away > 0.5) & (away < 0.85) & (colour @ LUMA < 0.62)
    white = away > 1.25
    found = [np.median(colour[part], 0) if part.any() else np.full(3, np.nan) for part in (iris, white)]
    return found[0], found[1]


def painted(points: np.ndarray, name: str, iris: np.ndarray, sclera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours (N, 3) of an eyeball's vertices (N, 3) mm, and what a colour added to the iris counts there (N,).

    The iris is darker towards its rim and lighter around the pupil, as irises are.
    """
    angle = eye_angle(points, name)
    ring = np.interp(angle, [PUPIL, 11, 17, LIMBUS], [1.0, 1.25, 1.0, 0.5])
    within = np.clip((LIMBUS + 0.8 - angle) / 1.6, 0, 1)
    open_pupil = np.clip((PUPIL + 0.8 - angle) / 1.6, 0, 1)
    share = within * (1 - open_pupil) * ring
    colour = sclera * (1 - within)[:, None] + iris * share[:, None] + np.outer(within * open_pupil, PUPIL_COLOUR)
    return colour, share
