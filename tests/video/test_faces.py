"""From a clip to its faces: what is predicted, shared and smoothed."""

import importlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from oracle import FPS, HEIGHT, WIDTH, Motion, Oracle, numbered, write_clip
from paths import ROOT
from video import jitter, lag

from mlanet_lib.errors import UserError
from mlanet_lib.geometry.camera import matrix_to_euler
from mlanet_lib.geometry.crops import Box
from mlanet_lib.network import MLANet
from mlanet_lib.predictor import Predictor
from mlanet_lib.predictor.detector import Detection
from mlanet_lib.video.clip import Clip
from mlanet_lib.video.faces import ClipFace, gather, predict_frames, share, smooth
from mlanet_lib.video.smoothing import one_euro

COUNT = 60


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Clip.open(write_clip(tmp_path_factory.mktemp("video") / "clip.mp4", COUNT))


def found(clip, oracle):
    return gather(predict_frames(clip, oracle))


def known(motion, numbers):
    translation, degrees, expression = zip(*(motion.at(number) for number in numbers), strict=True)
    return np.array(translation), np.array(degrees), np.array(expression)


def points_of(face, oracle):
    boxes = [Box(*box) for box in face.boxes.tolist()]
    return np.stack([oracle.landmarks(face.parameters[row], box) for row, box in enumerate(boxes)])


def test_prediction_is_in_the_clip_s_frame(clip, toy_model):
    """A perfect network's crops, whatever they are, give back pose and place before the clip's camera."""
    motion = Motion(toy_model)
    (face,) = found(clip, Oracle(toy_model, motion))
    translation, degrees, expression = known(motion, range(COUNT))
    assert (face.id, face.frames.tolist()) == (0, list(range(COUNT)))
    assert np.allclose(face.times, np.arange(COUNT) / FPS, atol=1e-3) and (face.scores == 0.9375).all()
    assert np.allclose(face.translation(WIDTH, HEIGHT), translation, atol=0.02)
    assert np.allclose(matrix_to_euler(face.parameters.rotation), degrees, atol=0.01)
    assert np.allclose(face.parameters.expression, expression, atol=1e-5)


def test_two_faces_and_one_that_comes_and_goes(clip, toy_model):
    motions = Motion(toy_model, x=-130), Motion(toy_model, identity=1.0, x=130, frames=range(22, 44))
    first, second = found(clip, Oracle(toy_model, *motions))
    assert first.frames.tolist() == list(range(COUNT))
    assert second.frames.tolist() == list(range(25, 41))  # from a look to a look
    assert torch.allclose(second.parameters.identity, torch.tensor(1.0))
    assert np.allclose(second.translation(WIDTH, HEIGHT), known(motions[1], range(25, 41))[0], atol=0.02)


def test_one_identity_for_the_clip_and_points_that_stay(clip, toy_model):
    motion = Motion(toy_model, identity=0.7, noise=0.05)
    oracle = Oracle(toy_model, motion)
    (face,) = found(clip, oracle)
    shared = share(face, toy_model)
    for name in ("identity", "albedo", "translation"):
        values = getattr(shared.parameters, name)
        assert torch.equal(values, values[:1].expand_as(values)), name
    assert face.parameters.identity.std(0).min() > 0.02
    assert torch.allclose(shared.parameters.identity[0], torch.tensor(0.7), atol=0.03)
    assert torch.equal(shared.parameters.expression, face.parameters.expression)
    away = np.linalg.norm(points_of(shared, oracle) - points_of(face, oracle), axis=-1)
    assert away.mean() < 0.2 and away.max() < 1.0  # pixels of a face of about 75
    assert np.abs(shared.translation(WIDTH, HEIGHT) - known(motion, range(COUNT))[0]).mean(0).max() < 4


def test_sharing_leaves_a_face_alone_whose_frames_agree(clip, toy_model):
    oracle = Oracle(toy_model, Motion(toy_model, identity=-1.0))
    (face,) = found(clip, oracle)
    shared = share(face, toy_model)
    assert torch.allclose(shared.parameters.identity, face.parameters.identity, atol=1e-5)
    assert np.allclose(points_of(shared, oracle), points_of(face, oracle), atol=0.3)
    assert np.allclose(shared.translation(WIDTH, HEIGHT), face.translation(WIDTH, HEIGHT), rtol=2e-3, atol=0.5)


def test_smoothing_takes_noise_and_leaves_motion(clip, toy_model):
    motion = Motion(toy_model, noise=0.08)
    (face,) = found(clip, Oracle(toy_model, motion))
    shared = share(face, toy_model)
    both, causal = smooth(shared), smooth(shared, one_euro)
    _, degrees, expression = known(motion, range(COUNT))

    def values(face):
        return np.column_stack([matrix_to_euler(face.parameters.rotation), face.parameters.expression])

    truth = np.column_stack([degrees, expression])
    moving = [0, 1, 3, 4]  # the roll stands still
    assert (jitter(values(both)) < 0.6 * jitter(values(shared))).all()
    assert (np.abs(values(both) - truth).mean(0) < np.abs(values(shared) - truth).mean(0))[moving].all()
    late = lag(values(causal), truth, FPS)[moving]
    assert (np.abs(lag(values(both), truth, FPS)[moving]) < 0.03).all() and (late > 0.03).all()
    assert torch.equal(both.parameters.identity, shared.parameters.identity)
    assert (jitter(both.translation(WIDTH, HEIGHT)) < jitter(shared.translation(WIDTH, HEIGHT))).all()


def test_smoothing_leaves_a_still_face_where_it_is(clip, toy_model):
    motion = Motion(toy_model)
    motion.at = lambda number: (np.array([30.0, -20, 700]), np.array([3.0, 20, -5]), np.full(4, 0.3))
    (face,) = found(clip, Oracle(toy_model, motion))
    shared = share(face, toy_model)
    still = smooth(shared)
    assert np.allclose(still.boxes, shared.boxes, atol=1e-3)
    assert np.allclose(still.parameters.rotation, shared.parameters.rotation, atol=1e-5)
    assert np.allclose(still.translation(WIDTH, HEIGHT), [[30, -20, 700]], atol=0.5)


def test_a_face_of_one_frame_is_a_face(clip, toy_model):
    (face,) = found(clip, Oracle(toy_model, Motion(toy_model, frames=range(20, 21))))
    result = smooth(share(face, toy_model))
    assert result.frames.tolist() == [20] and np.isfinite(result.boxes).all()


def test_a_truncated_clip_is_refused(toy_model, tmp_path):
    path = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (WIDTH, HEIGHT))
    for number in range(COUNT):
        writer.write(numbered(number))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated"):
        predict_frames(Clip.open(path), Oracle(toy_model, Motion(toy_model)))


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("video")


def test_the_benchmark_measures_what_is_put_in(benchmark, toy_model):
    """A network that trembles and is three frames late: its jitter and lag are found, and smoothing takes the one."""
    truth = benchmark.motion(toy_model, 8.0)
    count, late = len(truth), 3
    generator = torch.Generator().manual_seed(0)
    trembling = truth.expression + 0.01 * torch.randn(truth.expression.shape, generator=generator)
    delayed = truth.replace(expression=trembling)[[0] * late + list(range(count - late))]
    # a crop of the whole width is the clip's camera
    boxes = np.tile([0.0, (benchmark.HEIGHT - benchmark.WIDTH) / 2, benchmark.WIDTH, benchmark.WIDTH], (count, 1))
    times = np.arange(count) / benchmark.FPS
    face = ClipFace(0, np.arange(count), times, np.ones(count), boxes, delayed)
    measures = benchmark.measure(face, truth, toy_model)
    jitters, lags, errors = (measures[name] for name in ("jitter at rest", "lag, ms", "sd of the error"))
    assert all(np.isfinite(row).all() for ways in measures.values() for row in ways.values())
    assert np.allclose(lags["network"], 1e3 * late / benchmark.FPS, atol=6)
    assert np.allclose(lags["both ways"], lags["network"], atol=15) and (lags["causal"] > lags["both ways"]).all()
    assert jitters["network"][-1] == pytest.approx(0.01, rel=0.3) and np.allclose(jitters["network"][:6], 0, atol=1e-3)
    assert jitters["both ways"][-1] < 0.4 * jitters["network"][-1]
    assert (errors["network"] > 0.01).all()


def test_the_benchmark_s_clip_is_a_head_that_moves(benchmark, toy_model):
    truth = benchmark.motion(toy_model, 2.0)
    rest = len(truth) // 4
    assert torch.equal(truth.rotation[:rest], truth.rotation[:1].expand(rest, 3, 3))
    assert truth.pose_degrees()[:, 1].abs().max() > 15
    first, again, last = (next(benchmark.frames(toy_model, truth[[k]])) for k in (0, 0, len(truth) // 2))
    assert first.shape == (benchmark.HEIGHT, benchmark.WIDTH, 3) and np.array_equal(first, again)
    changed = np.abs(first.astype(int) - last).max(-1) > 60
    assert changed.any() and not changed[:40].any()


@pytest.mark.slow
def test_the_benchmark_runs(benchmark, toy_model, monkeypatch, capsys):
    torch.manual_seed(0)
    network = MLANet(toy_model, backbone="resnet10t", image_size=32, width=8, pool=1).eval()
    predictor = Predictor(network, toy_model, {"face_model": {"name": "toy"}, "step": 0})
    box = np.array([240.0, 160, 130, 130])
    predictor._detector = SimpleNamespace(
        kind="yunet", detect=lambda frame, thorough: [Detection(box, 0.95, np.full((5, 2), np.nan))]
    )
    monkeypatch.setattr(benchmark.Predictor, "load", lambda weights: predictor)
    benchmark.main(["--seconds", "1.2"])
    text = capsys.readouterr().out
    assert "30 of 30 frames, 25 a second" in text and text.count("both ways") == 3
    table = [line.split()[2:] for line in text.splitlines() if line.startswith("both ways")]
    assert [len(row) for row in table] == [7] * 3 and all(float(value) >= 0 for value in table[0] + table[2])
