"""Many photos to files: in this process, in several, or (docs/scaling.md) on several machines.

What is done is known by its files: each face's JSON says how many faces its photo has, and in `made_from` of which
photo, weights and options it was made. So whoever is killed goes on where it was, and nobody keeps a list.
"""

import hashlib
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mlanet_lib import __version__
from mlanet_lib.data.synthetic.workers import end_with_parent
from mlanet_lib.drawing.textures import albedo_texture, photo_texture
from mlanet_lib.errors import UserError, line_of
from mlanet_lib.files import pictures
from mlanet_lib.files.outputs import Task, check_text, is_own, may_replace, plan
from mlanet_lib.files.records import read_json
from mlanet_lib.geometry.crops import Box
from mlanet_lib.geometry.device import usable_device
from mlanet_lib.limits import check_processes, cores
from mlanet_lib.predictor import mesh_files
from mlanet_lib.predictor.predictor import Face, Predictor
from mlanet_lib.rasterizer import choose

SQUARE = 1.05
"""How many times as long as its shorter side a crop's longer one may be: some crops lose a row at a picture's edge."""
TOGETHER, PIXELS = 8, 30_000_000
"""Photos, and pixels of them, whose faces go through the network together."""
AT_ONCE = 4
"""Photos that a process is handed at a time."""


@dataclass(frozen=True)
class Settings:
    """How photos are reconstructed, all of it plain values: the options of `mlanet reconstruct`, by name.

    out: the folder for the files; texture: "albedo" or "photo"; cropped: the photos are square face crops; overwrite:
    files that mlanet did not write are replaced, too. The others: `Predictor.load` and `rasterizer.choose`.
    """

    out: str
    texture: str = "albedo"
    cropped: bool = False
    overwrite: bool = False
    weights: str = "auto"
    mirrored: bool = False
    fitted: bool = False
    device: str = "cpu"
    backend: str = "auto"

    def predictor(self) -> Predictor:
        """The network; a UserError where weights, device or backend are not to be had."""
        device = usable_device(self.device)
        choose(self.backend, torch.device("cpu"))
        return Predictor.load(self.weights, device, mirrored=self.mirrored, fitted=self.fitted)


class Outcome(NamedTuple):
    """What became of a photo. faces: how many were written; said: a line about each; notes: other lines, for stderr;
    error: the line that says what is wrong, or None; skipped: its files were there already."""

    photo: str
    faces: int = 0
    said: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    skipped: bool = False


class Opened(NamedTuple):
    """A photo that was read; reduced, size: as `pictures.read_reduced` has them."""

    task: Task
    pixels: np.ndarray
    reduced: int
    size: tuple[int, int]
    made_from: str


def run(tasks: Sequence[Task], settings: Settings, jobs: int) -> Iterator[Outcome]:
    """Reconstruct photos in `jobs` processes, in this one for 1; yields what became of each, as they are done.

    Each computes with one thread: what takes the time are many small operations (1.34 s a photo with one thread, 1.43
    with two). What is done already is skipped. More processes than cores: see `limits.check_processes`. UserError if
    the network cannot be loaded, or a process dies; the files of all photos that were yielded are there.
    """
    check_processes(jobs, cores(), "--jobs", "cores")
    predictor = settings.predictor()  # what is wrong with it is said here, once
    if jobs == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from outcomes(tasks, predictor, settings)
        finally:
            torch.set_num_threads(threads)
        return
    del predictor
    size = max(1, min(AT_ONCE, len(tasks) // (4 * jobs)))
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker) as pool:
        parts = [tasks[start : start + size] for start in range(0, len(tasks), size)]
        futures = [pool.submit(_outcomes_here, part, settings) for part in parts]
        try:
            for future in as_completed(futures):
                yield from future.result()
        except BrokenExecutor as error:
            text = "a process was killed, perhaps for want of memory (fewer --jobs?)"
            raise UserError(f"{text}; run it again: what is done is skipped") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def reconstruct_photos(photos: Sequence[str], settings: Settings) -> list[Outcome]:
    """Reconstruct some photos in this process, whose network is loaded once: what a worker on another machine calls.

    The names of all photos that are written into one folder must differ (`files.outputs.plan`); photos and
    `settings.out` are paths that this machine sees. What is done already is skipped.
    """
    return _outcomes_here(plan(map(Path, photos), (), Path(settings.out), settings.overwrite), settings)


def outcomes(tasks: Iterable[Task], predictor: Predictor, settings: Settings) -> Iterator[Outcome]:
    """What became of each photo, reconstructed one batch after the other; one that fails does not stop the others."""
    waiting: list[Opened] = []
    for task in tasks:
        try:
            opened = _open(task, predictor, settings)
        except Exception as error:  # the others still get their files
            yield _failed(task, error)
            continue
        if opened is None:
            yield Outcome(str(task.source), skipped=True)
            continue
        waiting.append(opened)
        if len(waiting) == TOGETHER or sum(one.pixels.size // 3 for one in waiting) > PIXELS:
            yield from _written(waiting, predictor, settings)
            waiting = []
    yield from _written(waiting, predictor, settings)


def one_photo(task: Task, predictor: Predictor, settings: Settings) -> Outcome:
    """The files of a photo's faces, made whether they are there or not. What is wrong is raised."""
    opened = _open(task, predictor, settings, anew=True)
    if opened is None:
        raise ValueError("a photo that is to be made anew is not skipped")
    return _write(opened, predictor.faces(opened.pixels, _boxes(opened, settings)), predictor, settings)


def _open(task: Task, predictor: Predictor, settings: Settings, anew: bool = False) -> Opened | None:
    """The photo, or None if its files are there."""
    check_text(task.source)
    if is_own(task.source):
        raise UserError(f"{task.source}: mlanet wrote this, it is no photo")
    made_from = _digest(task.source, predictor, settings) if task.source.is_file() else ""
    if not anew and is_done(task, Path(settings.out), made_from):
        return None
    pixels, reduced, size = pictures.read_reduced(task.source)
    height, width = pixels.shape[:2]
    if settings.cropped and max(width, height) > SQUARE * min(width, height):
        text = f"{width}x{height} pixels are no face crop, which is square: cut one, or no --cropped"
        raise UserError(f"{task.source}: {text}")
    return Opened(task, pixels, reduced, size, made_from)


def is_done(task: Task, out: Path, made_from: str) -> bool:
    """Whether all faces of a photo are in `out`, made from the same (`made_from`)."""
    number, count = 0, 1
    while number < count:
        try:
            record = read_json(out / f"{task.name}_{number}.json")
        except UserError:
            return False
        if record.get("made_from") != made_from or not isinstance(record.get("faces"), int):
            return False
        number, count = number + 1, record["faces"]
    return True


def _digest(photo: Path, predictor: Predictor, settings: Settings) -> str:
    """`made_from`: sha256 of all that the files of a photo depend on."""
    with photo.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    chosen = asdict(settings)
    options = {name: chosen[name] for name in ("texture", "cropped", "mirrored", "fitted")}
    weights = _digest_of(predictor.path) if predictor.path else str(predictor.metadata)
    text = f"{__version__} {content} {weights} {predictor.model.fingerprint} {sorted(options.items())}"
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _digest_of(weights: Path) -> str:
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _boxes(opened: Opened, settings: Settings) -> list[Box] | None:
    height, width = opened.pixels.shape[:2]
    return [Box(0, 0, width, height)] if settings.cropped else None


def _written(waiting: Sequence[Opened], predictor: Predictor, settings: Settings) -> Iterator[Outcome]:
    boxes = [_boxes(opened, settings) or [] for opened in waiting] if settings.cropped else None
    try:
        found = predictor.faces_of([opened.pixels for opened in waiting], boxes)
    except Exception as error:  # each by itself says which it was
        if len(waiting) == 1:
            yield _failed(waiting[0].task, error)
            return
        for opened in waiting:
            yield from _written([opened], predictor, settings)
        return
    for opened, faces in zip(waiting, found, strict=True):
        try:
            yield _write(opened, faces, predictor, settings)
        except Exception as error:  # the others still get their files
            yield _failed(opened.task, error)


def _write(opened: Opened, faces: Sequence[Face], predictor: Predictor, settings: Settings) -> Outcome:
    """The files of the faces in `settings.out`; none: UserError."""
    task, image, out, said = opened.task, opened.pixels, Path(settings.out), []
    if not faces:
        raise UserError(f"{task.source}: no face found")
    judge = None if settings.overwrite else may_replace
    about = {"photo": task.source.name, "photo_size": list(opened.size), "faces": len(faces)}
    for number, face in enumerate(faces):
        stem = f"{task.name}_{number}"
        if settings.texture == "photo":
            texture = photo_texture(predictor.model, face.parameters, predictor.sharp_crop(image, face))
        else:
            texture = albedo_texture(predictor.model, face.parameters, backend=settings.backend)
        record = {**about, "made_from": opened.made_from, **predictor.record(face.enlarged(opened.reduced))}
        overlay = predictor.overlay(image, face, settings.backend)
        mesh_files.write_face(out, stem, predictor.model, face.parameters, record, overlay, texture, judge)
        pose = ", ".join(f"{axis} {value:+.0f}°" for axis, value in face.pose_degrees.items())
        score = "not measured" if face.score is None else f"{face.score:.2f}"
        said.append(f"{task.source.name}: face {number} -> {out / stem}.glb .obj .png .json ({pose}, score {score})")
    notes = [f"note: {task.source.name} is read at 1/{opened.reduced} of its size"] if opened.reduced > 1 else []
    return Outcome(str(task.source), len(faces), tuple(said), tuple(notes))


def _failed(task: Task, error: Exception) -> Outcome:
    return Outcome(str(task.source), error=line_of(task.source, error))


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


@cache
def _predictor(settings: Settings) -> Predictor:
    return settings.predictor()


def _outcomes_here(tasks: Sequence[Task], settings: Settings) -> list[Outcome]:
    return list(outcomes(tasks, _predictor(settings), settings))
