"""A stand-in for predictor and detector on clips whose faces are known: what a perfect network would say of a crop."""

from types import SimpleNamespace

import numpy as np
import torch

from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.geometry.crops import Box, crop_box_from_landmarks
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor.detector import YUNET_CROP, Detection
from mlanet_lib.video.clip import video_writer

WIDTH, HEIGHT, FPS = 320, 240, 20
BLOCK = 16


def numbered(number: int) -> np.ndarray:
    """A grey frame (HEIGHT, WIDTH, 3) with its number in black and white blocks, which survive a codec."""
    frame = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    for bit in range(10):
        frame[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
    return frame


def number_of(frame: np.ndarray) -> int:
    return sum((frame[4:12, bit * BLOCK + 4 : bit * BLOCK + 12].mean() > 127) << bit for bit in range(10))


def write_clip(path, count: int):
    with video_writer(path, FPS, WIDTH, HEIGHT) as write:
        for number in range(count):
            write(numbered(number))
    return path


class Motion:
    """One face: `at(number)` gives its (translation mm (3,), degrees (3,), expression (Ke,)), None where it is not."""

    def __init__(self, model, identity=0.0, x=0.0, frames=range(10**6), noise=0.0):
        self.frames, self.x, self.noise = frames, x, noise
        self.identity = torch.full((model.n_identity,), identity)
        self.n_expression = model.n_expression

    def at(self, number: int):
        if number not in self.frames:
            return None
        time = number / FPS
        translation = np.array([self.x + 40 * np.sin(2 * time), 10 * np.cos(time), 700 + 60 * np.sin(time)])
        degrees = np.array([5 * np.sin(time), 20 * np.sin(1.5 * time), 3.0])
        return translation, degrees, np.full(self.n_expression, 0.5 + 0.4 * np.sin(3 * time))


class Oracle:
    """`faces` and `detector` as of `mlanet_lib.predictor.Predictor`. stop: the frame at which somebody hits Ctrl-C."""

    weights, metadata = "oracle.safetensors (toy, step 0)", {"fingerprint": "oracle"}

    def __init__(self, model, *motions: Motion, stop: int | None = None):
        self.model, self.motions, self.stop, self.asked = model, motions, stop, []
        self.points, self.crops = SparseShape(model, 0), {}
        self.detector = SimpleNamespace(detect=self._detect, kind="yunet")

    def truth(self, motion: Motion, number: int, box: Box) -> FaceParameters:
        """The face in a crop: its origin and its scale as the clip's camera, one picture width long, has them."""
        translation, degrees, expression = motion.at(number)
        scale = WIDTH / translation[2]  # pixels a mm
        origin = np.array([WIDTH, HEIGHT]) / 2 + translation[:2] * scale
        neutral = FaceParameters.neutral(self.model)
        focal = float(neutral.focal[0])
        z = focal * box.w / scale
        x, y = ((origin - [box.x, box.y]) / box.w - 0.5) * z / focal
        noise = motion.noise * np.random.default_rng(number).normal(size=(3, 8))
        return neutral.replace(
            identity=(motion.identity + torch.tensor(noise[0, : self.model.n_identity])).float()[None],
            expression=torch.tensor(expression + noise[1, : self.model.n_expression]).float()[None],
            rotation=euler_to_matrix(torch.tensor(degrees + 5 * noise[2, :3])).float()[None],
            translation=torch.tensor([[x, y, z]]).float(),
        )

    def landmarks(self, parameters: FaceParameters, box: Box) -> np.ndarray:
        inside = self.points.landmarks(self.points.turned(parameters), parameters)[0].double().numpy()
        return inside * box.w + [box.x, box.y]

    def crop(self, motion: Motion, number: int) -> Box:
        """Where the landmarks put it, found from anywhere."""
        if (motion, number) not in self.crops:
            box = Box(0, 0, 100, 100)
            for _ in range(2):
                box = crop_box_from_landmarks(self.landmarks(self.truth(motion, number, box), box))
            self.crops[motion, number] = box
        return self.crops[motion, number]

    def _here(self, frame) -> list[Motion]:
        return [motion for motion in self.motions if motion.at(number_of(frame))]

    def _detect(self, frame, thorough=True):
        found = []
        for motion in self._here(frame):
            crop = self.crop(motion, number_of(frame))
            side = crop.w / YUNET_CROP["side"]
            corner = np.array([crop.x + crop.w / 2, crop.y + crop.h / 2 - YUNET_CROP["down"] * side]) - side / 2
            found.append(Detection(np.array([*corner, side, side]), 0.9375, np.full((5, 2), np.nan)))
        return found

    def faces(self, frame, boxes):
        number = number_of(frame)
        if number == self.stop:
            raise KeyboardInterrupt
        self.asked.append(number)
        found = []
        for box in boxes:
            away = {m: np.hypot(c.x - box.x, c.y - box.y) for m in self._here(frame) for c in [self.crop(m, number)]}
            if away:
                parameters = self.truth(min(away, key=away.get), number, box)
            else:  # nobody is there: a network makes somebody up
                parameters = FaceParameters.neutral(self.model)
            found.append(SimpleNamespace(parameters=parameters, landmarks68=self.landmarks(parameters, box), crop=box))
        return found
