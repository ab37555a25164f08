"""One face of a data set: its photo and its labels, in the conventions of `mlanet_lib.geometry.crops`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.face_sources.bfm2009.raw import BfmFit
from mlanet_lib.geometry.crops import Box, crop_box_from_landmarks

AFLW21 = (
    *((17,), (19,), (21,), (22,), (24,), (26,)),  # brows
    *((36,), (37, 38, 40, 41), (39,), (42,), (43, 44, 46, 47), (45,)),  # eyes: outer corner, pupil, inner corner
    *((), (31,), (30,), (35,), ()),  # ears are none of the 68; wings and tip of the nose
    *((48,), (62, 66), (54,), (8,)),  # mouth, chin
)
"""For each of AFLW's 21 points those of the 68 whose mean it is nearest to in meaning."""


@dataclass(frozen=True, eq=False)
class SyntheticTruth:
    """What is known of a synthetic face beyond the published fields.

    face_model: fingerprint of the morphable model; identity (Ki,), expression (Ke,): its coefficients; occluded:
    something lies before the face. visible: (68,) bool, landmarks that are neither turned away nor covered; None if
    read from a file, which does not hold it for all 68.
    """

    face_model: str
    identity: np.ndarray
    expression: np.ndarray
    occluded: bool
    visible: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """One face in one photo of any data set. Labels that the data set does not have are None.

    name: the photo's file name, unique within its data set. read: gives the photo, (H, W, 3) uint8 RGB, as it is
    stored (labels know no EXIF rotation); unreadable: UserError. In the photo's pixels, first pixel's centre at 0.5:

    - landmarks: (68, 2), Multi-PIE order; nearness: (68,) their depth, smaller is nearer, its origin means nothing.
    - points21: (21, 2) AFLW's hand-annotated points, NaN where one was not annotated.
    - box: a crop around the face in the training convention, if there are no landmarks.

    visible: (68,) bool. confidence: (68,) in [0, 1], how reliable a landmark is; 0: it is not a point of the face model
    (a point of the jaw on the photo's contour). agreement: mean distance of estimated and hand-annotated points, % of
    the face. pose_degrees: (3,) pitch, yaw, roll, 3DDFA's signs. rotation: (3, 3) in BFM's
    frame, as another system estimates it. bfm: a fit of BFM. truth: of a synthetic face.
    """

    name: str
    read: Callable[[], np.ndarray]
    landmarks: np.ndarray | None = None
    nearness: np.ndarray | None = None
    points21: np.ndarray | None = None
    box: Box | None = None
    visible: np.ndarray | None = None
    confidence: np.ndarray | None = None
    agreement: float | None = None
    pose_degrees: np.ndarray | None = None
    rotation: np.ndarray | None = None
    bfm: BfmFit | None = None
    truth: SyntheticTruth | None = None

    def image(self) -> np.ndarray:
        """The photo, (H, W, 3) uint8, read now."""
        return self.read()

    def crop(self) -> Box:
        """The square that a network sees: 3DDFA's region of interest around the landmarks, else `box`."""
        if self.landmarks is not None:
            return crop_box_from_landmarks(self.landmarks)
        if self.box is None:
            raise UserError(f"{self.name}: neither landmarks nor a box say where the face is")
        return self.box
