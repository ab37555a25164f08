"""Clips: the frames of a video file or of a folder of numbered pictures, and frames written as a video file."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mlanet_lib.errors import UserError
from mlanet_lib.files.outputs import others_in
from mlanet_lib.files.pictures import read_photo

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mts", ".m2ts")
FOLDER_FPS = 25.0
TRUNCATED = 0.05
"""A file that ends more than this share before its own count of frames is truncated (counts may be estimates)."""


@dataclass(frozen=True)
class Clip:
    """A video, or the numbered pictures of a folder.

    fps: frames a second; width, height: pixels; count: how many frames the source claims (0: it does not say);
    pictures: the folder's, in order; timed: frames come at 1/fps, whatever clock the file has; turns: by how many
    quarter turns counter-clockwise the frames are turned when they are read (`turned`), width and height with them.
    """

    path: Path
    fps: float
    width: int
    height: int
    count: int
    pictures: tuple[Path, ...] = ()
    timed: bool = True
    turns: int = 0

    @classmethod
    def open(cls, path: str | Path, fps: float | None = None) -> "Clip":
        """A video file that OpenCV can decode, or a folder of pictures; fps: instead of the file's (a folder: 25).

        Raises UserError if there is no such file, it is no video or one whose codec cannot be read, or the folder
        holds no picture.
        """
        path = Path(path)
        if fps is not None and not (math.isfinite(fps) and 0 < fps <= 1000):
            raise UserError(f"{fps} frames a second: must lie between 0 and 1000")
        if path.is_dir():
            pictures = tuple(others_in(path))
            height, width = read_photo(pictures[0]).shape[:2]
            return cls(path, fps or FOLDER_FPS, width, height, len(pictures), pictures)
        with _capture(path) as capture:
            readable, frame = capture.read()
            if not readable:
                raise UserError(f"{path}: no frame can be decoded (truncated, or a codec that OpenCV does not read)")
            told, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if not fps and not (math.isfinite(told) and 0 < told <= 1000):
            raise UserError(f"{path} does not say how many frames a second it has: give --fps")
        count = int(count) if 0 < count < 2**31 else 0
        return cls(path, fps or told, frame.shape[1], frame.shape[0], count, timed=fps is not None)

    def turned(self, turns: int) -> "Clip":
        """The clip with its frames turned by so many quarter turns counter-clockwise more."""
        size = (self.height, self.width) if turns % 2 else (self.width, self.height)
        return replace(self, turns=(self.turns + turns) % 4, width=size[0], height=size[1])

    def frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """(time in seconds, picture (H, W, 3) uint8 RGB) of each frame; times rise strictly.

        Raises UserError if a picture has another size than the first, and for a video that ends too soon.
        """
        for time, frame in self._from_folder() if self.pictures else self._from_video():
            yield time, np.ascontiguousarray(np.rot90(frame, self.turns))

    def _from_folder(self) -> Iterator[tuple[float, np.ndarray]]:
        first = (self.height, self.width) if self.turns % 2 == 0 else (self.width, self.height)
        for number, picture in enumerate(self.pictures):
            frame = read_photo(picture)
            height, width = frame.shape[:2]
            if (height, width) != first:
                raise UserError(f"{picture} has {width}x{height} pixels, the clip's first {first[1]}x{first[0]}")
            yield number / self.fps, frame

    def _from_video(self) -> Iterator[tuple[float, np.ndarray]]:
        with _capture(self.path) as capture:
            number, time = 0, -1 / self.fps
            while capture.grab():
                clock = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                time = number / self.fps if self.timed else clock if clock > time else time + 1 / self.fps
                readable, frame = capture.retrieve()
                if not readable:
                    break
                yield time, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                number += 1
        if self.count - number > max(2, TRUNCATED * self.count):
            raise UserError(f"{self.path} is truncated or damaged: it ends after frame {number} of {self.count}")


@contextmanager
def _capture(path: Path) -> Iterator[cv2.VideoCapture]:
    if not path.is_file():
        raise UserError(f"no such video: {path}")
    _hush()
    capture = cv2.VideoCapture(_address(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise UserError(f"{path} cannot be opened as a video: none, truncated, or of a form OpenCV does not read")
        yield capture
    finally:
        capture.release()


def _address(path: Path) -> str:
    """The file's address for FFmpeg: an absolute path, since it would read the text before a colon as a protocol.
    UserError for a name that is not UTF-8, on which OpenCV crashes."""
    try:
        return os.path.abspath(path).encode().decode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: the name is not UTF-8, so that OpenCV cannot open it: rename it") from error


def _hush() -> None:
    """Keep OpenCV's and FFmpeg's own lines off stderr; FFmpeg reads its level once, when it is first used."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@contextmanager
def video_writer(path: Path, fps: float, width: int, height: int) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends frames (H, W, 3) uint8 RGB to an MPEG-4 file (.mp4); the file is read back at the end.

    An odd width or height loses its last pixel (the codec's blocks). UserError if the file cannot be written, or
    does not hold every frame (OpenCV does not report a full disk).
    """
    _hush()
    writer = cv2.VideoWriter(_address(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    written = 0

    def write(frame: np.ndarray) -> None:
        nonlocal written
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        written += 1

    try:
        if not writer.isOpened():
            raise UserError(f"this OpenCV ({cv2.__version__}) cannot write {width}x{height} pixels as MPEG-4")
        yield write
    finally:
        writer.release()
    try:
        whole = Clip.open(path).count == written
    except UserError:
        whole = False
    if not whole:
        raise UserError("the overlay's video was not written whole: is the disk full?")
