"""What smoothing does to a clip: jitter and lag of pose and expression, and the shape of many frames against one's.

    python benchmarks/video.py [--seconds S] [--weights W] [--save CLIP.mp4]

A synthetic head, at rest for the first and last quarter of the clip and moving along known curves between, is drawn by
the renderer into a scene with a noisy sensor and goes the whole way of `mlanet reconstruct`: detector, tracker,
network, one identity, the one-euro filter run forwards ("causal") and both ways (what is written). Jitter
(`jitter`) is measured at rest, lag against the truth (`lag`) and the standard deviation of
the error over the whole clip: a network errs with the pose, and may so seem late or early by itself.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from mlanet_lib.data.synthetic import scenes
from mlanet_lib.data.synthetic.faces import sample_people
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.camera import euler_to_matrix, matrix_to_euler
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.predictor import Predictor
from mlanet_lib.renderer import render_face
from mlanet_lib.video.clip import Clip, video_writer
from mlanet_lib.video.faces import FOCAL, ClipFace, gather, predict_frames, share, smooth
from mlanet_lib.video.smoothing import one_euro

FPS, WIDTH, HEIGHT = 25, 640, 480
SENSOR_NOISE = 4.0  # grey levels of 255
DISTANCE = 850.0  # mm
EXPRESSION = "jawOpen"
NAMES = ("pitch deg", "yaw deg", "roll deg", "x mm", "y mm", "z mm", EXPRESSION)


def motion(model: MorphableModel, seconds: float, seed: int = 0) -> FaceParameters:
    """One person's known curves: FaceParameters of every frame, in the camera of a WIDTH x HEIGHT clip."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * FPS)) / FPS
    moving = np.clip(np.minimum(times - seconds / 4, 3 * seconds / 4 - times) / 0.5, 0, 1)
    moving = moving * moving * (3 - 2 * moving)  # half a second to come into motion, and to come to rest

    def wave(amplitude, hertz, phase):
        return amplitude * moving * np.sin(2 * np.pi * hertz * times + phase)

    degrees = np.stack([wave(10, 0.45, 1), wave(30, 0.35, 0), wave(8, 0.3, 2)], 1)
    path = np.stack([wave(60, 0.25, 0), wave(25, 0.4, 1), DISTANCE + wave(90, 0.2, 0)], 1)
    expression = np.zeros((len(times), model.n_expression))
    expression[:, model.expression_names.index(EXPRESSION)] = 0.35 + wave(0.35, 0.8, 0)
    people = [np.repeat(values, len(times), 0) for values in sample_people(model, rng, 1)]
    identity, albedo, expression, degrees, path = (
        torch.as_tensor(values, dtype=torch.float32) for values in (*people, expression, degrees, path)
    )
    light = scenes.light(rng, 1).expand(len(times), 9, 3)
    focal = torch.full((len(times),), FOCAL * max(WIDTH, HEIGHT) / WIDTH)
    return FaceParameters(identity, expression, albedo, euler_to_matrix(degrees), path, light, focal)


@torch.no_grad()
def frames(model: MorphableModel, truth: FaceParameters, seed: int = 0):
    """The pictures (HEIGHT, WIDTH, 3) uint8 of a motion: one background, hair behind the head, noise in each."""
    side = max(WIDTH, HEIGHT)
    scene = scenes.background(np.random.default_rng(seed), side)[:HEIGHT, :WIDTH].astype(np.float32)
    rng = np.random.default_rng(seed)
    for number in range(len(truth)):
        drawn = render_face(model, truth[number], (2 * HEIGHT, 2 * WIDTH))
        colours, mask = (torch.nn.functional.avg_pool2d(x, 2)[0].permute(1, 2, 0).numpy() for x in drawn[:2])
        rows, columns = np.nonzero(mask[..., 0] > 0.5)
        box = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
        strands, where = (x[:HEIGHT, :WIDTH] for x in scenes.hair(np.random.default_rng(seed), side, box))
        picture = scene + where[..., None] * (strands - scene)
        picture = 255 * colours.clip(0) + (1 - mask) * picture + rng.normal(0, SENSOR_NOISE, picture.shape)
        yield np.clip(picture, 0, 255).round().astype(np.uint8)


def curves(face: ClipFace, model: MorphableModel) -> np.ndarray:
    """(N, 7) as `NAMES`."""
    degrees = matrix_to_euler(face.parameters.rotation.double()).numpy()
    opened = face.parameters.expression[:, model.expression_names.index(EXPRESSION)].numpy()
    return np.column_stack([degrees, face.translation(WIDTH, HEIGHT), opened])


def shape_distance(model: MorphableModel, identity: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    """Mean distance (N,) mm of the vertices of neutral shapes (N, Ki) from another's (1, Ki), middles matched."""
    shapes = [model.vertices(x, torch.zeros(len(x), model.n_expression)) for x in (identity, other)]
    shapes, other = (x - x.mean(1, keepdim=True) for x in shapes)
    return (shapes - other).norm(dim=-1).mean(1).numpy()


def measure(predicted: ClipFace, truth: FaceParameters, model: MorphableModel) -> dict[str, dict[str, np.ndarray]]:
    """Measure -> way -> (7,) as `NAMES`, lag in milliseconds; the truth's own jitter at rest is 0."""
    shared = share(predicted, model)
    ways = {"network": predicted, "one identity": shared}
    ways |= {"causal": smooth(shared, one_euro), "both ways": smooth(shared)}
    values = {name: curves(face, model) for name, face in ways.items()}
    known = np.column_stack([matrix_to_euler(truth.rotation).numpy(), truth.translation.numpy()])
    known = np.column_stack([known, truth.expression[:, model.expression_names.index(EXPRESSION)].numpy()])
    everywhere = np.arange(len(truth))  # frames without the face are bridged
    values = {
        name: np.stack([np.interp(everywhere, predicted.frames, column) for column in x.T], 1)
        for name, x in values.items()
    }
    rest = slice(len(truth) // 4)
    error = {name: x - known for name, x in values.items()}
    return {
        "jitter at rest": {name: jitter(x[rest]) for name, x in values.items()},
        "lag, ms": {name: 1e3 * lag(x, known, FPS) for name, x in values.items()},
        "sd of the error": {name: x.std(0) for name, x in error.items()},
    }


def jitter(values: np.ndarray) -> np.ndarray:
    """How much each channel of (N, C), N at least 3, trembles from frame to frame, in the channel's unit: (C,).

    The root mean square second difference over the root of 6: the standard deviation of independent noise of each
    frame, to which steady motion adds nothing and smooth motion next to nothing.
    """
    second = np.diff(np.asarray(values, np.float64), 2, axis=0)
    return np.sqrt((second**2).mean(0) / 6)


def lag(values: np.ndarray, truth: np.ndarray, fps: float, longest: float = 0.4) -> np.ndarray:
    """How late each channel of (N, C) follows the truth (N, C), in seconds: (C,), negative where it is early.

    The shift within +-`longest` seconds at which the two correlate best (Pearson's r of the rows that overlap), a
    parabola through the best shift and its neighbours giving fractions of a frame. NaN for a channel that is constant.
    """
    values, truth = np.asarray(values, np.float64), np.asarray(truth, np.float64)
    reach = min(round(longest * fps), len(values) - 3)
    shifts = np.arange(-reach, reach + 1)
    table = np.stack([_correlation(values[max(0, s) :], truth[max(0, -s) :]) for s in shifts])
    result = np.full(values.shape[1], np.nan)
    for channel in np.flatnonzero(np.isfinite(table).all(0)):
        row = table[:, channel]
        best = int(np.clip(row.argmax(), 1, len(row) - 2))
        before, peak, after = row[best - 1 : best + 2]
        bend = before - 2 * peak + after
        fraction = np.clip((before - after) / (2 * bend), -1, 1) if bend < 0 else 0.0
        result[channel] = (shifts[best] + fraction) / fps
    return result


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's r of each channel, over the rows that both have; NaN where one is constant."""
    count = min(len(one), len(other))
    one, other = (x[:count] - x[:count].mean(0) for x in (one, other))
    scale = np.sqrt((one**2).sum(0) * (other**2).sum(0))
    return np.divide((one * other).sum(0), scale, out=np.full(one.shape[1], np.nan), where=scale > 0)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of the clip (default 10)")
    parser.add_argument("--weights", default="auto", metavar="W", help="a checkpoint (default: the shipped one)")
    parser.add_argument("--save", type=Path, metavar="MP4", help="keep the synthetic clip")
    options = parser.parse_args(arguments)
    predictor = Predictor.load(options.weights)
    model = predictor.model
    truth = motion(model, options.seconds)
    with tempfile.TemporaryDirectory() as scratch:
        path = options.save or Path(scratch) / "clip.mp4"
        with video_writer(path, FPS, WIDTH, HEIGHT) as write:
            for picture in frames(model, truth):
                write(picture)
        found = gather(predict_frames(Clip.open(path), predictor))
    face = max(found, key=lambda face: len(face.frames))
    print(f"{predictor.weights}, {predictor.detector.kind}: {len(face.frames)} of {len(truth)} frames, {FPS} a second")
    for title, ways in measure(face, truth, model).items():
        print(f"\n{title:24}" + "".join(f"{name:>11}" for name in NAMES))
        for way, row in ways.items():
            print(f"{way:24}" + "".join(f"{value:11.3f}" for value in row))
    shared = share(face, model).parameters.identity[:1]
    single = face.parameters.identity
    print("\nneutral shape, mean distance in mm:")
    print(f"a frame's from the clip's    {shape_distance(model, single, shared).mean():8.3f}")
    print(f"a frame's from the true one  {shape_distance(model, single, truth.identity[:1]).mean():8.3f}")
    print(f"the clip's from the true one {shape_distance(model, shared, truth.identity[:1]).mean():8.3f}")


if __name__ == "__main__":
    main()
