"""The files of a clip, all or none, and the command line that writes them."""

import csv
import json
import resource
import signal

import numpy as np
import pytest
from oracle import FPS, HEIGHT, WIDTH, Motion, Oracle, numbered, write_clip
from PIL import Image

from mlanet_lib.cli import __main__
from mlanet_lib.errors import UserError
from mlanet_lib.files.outputs import is_own
from mlanet_lib.video.clip import Clip
from mlanet_lib.video.faces import gather, predict_frames, share, smooth
from mlanet_lib.video.output import COLUMNS, draw, reconstruct_clip

COUNT = 30
NAMES = ["walk.csv", "walk.json", "walk_overlay.mp4"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Clip.open(write_clip(tmp_path_factory.mktemp("clip") / "walk.mp4", COUNT))


def two(model):
    return Motion(model, x=-130), Motion(model, identity=1.0, x=130, frames=range(10, 21))


def listed(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_what_is_written(clip, toy_model, tmp_path):
    oracle = Oracle(toy_model, *two(toy_model))
    faces = reconstruct_clip(clip, oracle, tmp_path, "walk")
    assert listed(tmp_path) == NAMES and [face.id for face in faces] == [0, 1]

    with (tmp_path / "walk.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS + toy_model.expression_names
    order = [(int(row["frame"]), int(row["face"])) for row in rows]
    assert order == sorted([(n, 0) for n in range(COUNT)] + [(n, 1) for n in range(10, 21)])
    for row in rows:
        number, motion = int(row["frame"]), oracle.motions[int(row["face"])]
        translation, degrees, expression = motion.at(number)
        assert float(row["time_s"]) == pytest.approx(number / FPS, abs=1e-3) and row["score"] == "0.9375"
        told = [float(row[axis]) for axis in ("pitch", "yaw", "roll", "x_mm", "y_mm", "z_mm")]
        assert np.allclose(told[:3], degrees, atol=4) and np.allclose(told[3:], translation, atol=[5, 5, 25])
        assert float(row["jawOpen"]) == pytest.approx(expression[0], abs=0.15)

    record = json.loads((tmp_path / "walk.json").read_text())
    assert [record[key] for key in ("clip", "frames", "fps", "size")] == ["walk.mp4", COUNT, FPS, [WIDTH, HEIGHT]]
    spans = [[face[key] for key in ("face", "frames", "first_frame", "last_frame")] for face in record["faces"]]
    assert spans == [[0, COUNT, 0, COUNT - 1], [1, 11, 10, 20]]
    assert np.allclose(record["faces"][1]["identity"], 1.0, atol=1e-4)
    assert len(record["faces"][0]["albedo"]) == toy_model.n_albedo
    assert record["weights"] == oracle.weights and record["face_model"]["fingerprint"] == toy_model.fingerprint
    assert record["filter"]["rotation"]["min_cutoff"] > 0 and record["camera"] == {"focal_px": WIDTH, "assumed": True}

    overlay = Clip.open(tmp_path / "walk_overlay.mp4")
    assert (overlay.count, overlay.fps, overlay.width, overlay.height) == (COUNT, FPS, WIDTH, HEIGHT)
    halves = [(np.abs(frame - 120.0) > 40)[40:] for _, frame in overlay.frames()]
    seen = np.array([[half[:, : WIDTH // 2].mean(), half[:, WIDTH // 2 :].mean()] for half in halves])
    assert (seen[:, 0] > 0.02).all()
    assert (seen[10:21, 1] > 0.02).all() and (seen[[*range(9), *range(22, COUNT)], 1] < 0.005).all()


def test_drawing_touches_the_face_s_surroundings_only(clip, toy_model, tmp_path):
    oracle = Oracle(toy_model, Motion(toy_model))
    face = smooth(share(gather(predict_frames(clip, oracle))[0], toy_model))
    frame = numbered(0)
    before = frame.copy()
    drawn = draw(frame, face, 0, toy_model)
    assert drawn.shape == frame.shape and np.array_equal(frame, before)
    rows, columns = np.nonzero((drawn != frame).any(-1))
    x, y, side, _ = face.boxes[0]
    assert x - 0.6 * side < columns.min() < columns.max() < x + 1.6 * side and rows.max() < y + 1.6 * side
    middle = drawn[int(y + side / 2), int(x + side / 2)]
    assert np.abs(middle - 120.0).max() > 10


def test_a_face_at_the_picture_s_edge_is_drawn(clip, toy_model, tmp_path):
    oracle = Oracle(toy_model, Motion(toy_model))
    face = smooth(share(gather(predict_frames(clip, oracle))[0], toy_model))
    for corner in ((-60, -60), (WIDTH - 40, HEIGHT - 40), (WIDTH + 500, 0), (-900, -900)):
        face.boxes[0, :2] = corner
        assert draw(numbered(0), face, 0, toy_model).shape == (HEIGHT, WIDTH, 3)


def test_no_face_is_said_and_leaves_nothing(clip, toy_model, tmp_path):
    with pytest.raises(UserError, match=r"walk\.mp4: no face found in 30 frames"):
        reconstruct_clip(clip, Oracle(toy_model), tmp_path / "out", "walk")
    assert listed(tmp_path / "out") == []


def test_a_stopped_run_leaves_nothing_and_can_be_begun_again(clip, toy_model, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        reconstruct_clip(clip, Oracle(toy_model, *two(toy_model), stop=13), out, "walk")
    assert listed(out) == []
    reconstruct_clip(clip, Oracle(toy_model, *two(toy_model)), out, "walk")
    assert listed(out) == NAMES


def test_a_full_disk_leaves_no_half_of_a_file(clip, toy_model, tmp_path):
    """A limit on the size of files stands in for it."""
    out, before = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(UserError):
            reconstruct_clip(clip, Oracle(toy_model, *two(toy_model)), out, "walk")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert listed(out) == []


def test_a_folder_that_cannot_be_written(clip, toy_model, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        reconstruct_clip(clip, Oracle(toy_model, Motion(toy_model)), tmp_path / "out", "walk")


@pytest.fixture
def oracle(toy_model, monkeypatch):
    oracle = Oracle(toy_model, Motion(toy_model))
    monkeypatch.setattr("mlanet_lib.cli.options.load_predictor", lambda options: oracle)
    return oracle


def run(*arguments):
    return __main__.main(["reconstruct", *map(str, arguments)])


def test_the_command_takes_videos_and_folders_of_frames(clip, oracle, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(clip.path, "--out", out) == 0
    assert listed(out) == NAMES and "walk: face 0 in 30 frames" in capsys.readouterr().out
    frames = tmp_path / "frames.d"
    frames.mkdir()
    for number in range(12):
        Image.fromarray(numbered(number)).save(frames / f"{number}.png")
    assert run(frames, "--video", "--fps", 10, "--out", out) == 0
    assert listed(out) == ["frames.d.csv", "frames.d.json", "frames.d_overlay.mp4", *NAMES]
    record = json.loads((out / "frames.d.json").read_text())
    assert record["fps"] == 10 and record["frames"] == 12 and record["clip"] == "frames.d"
    last = (out / "frames.d.csv").read_text().splitlines()[-1]
    assert last.startswith("11,1.1000,0,")


def test_a_folder_s_photos_are_reconstructed_each(oracle, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(
        "mlanet_lib.cli.reconstruct._photo", lambda task, predictor, options: taken.append(task.source.name)
    )
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b10.png", "b9.jpg", "a.png"):
        Image.fromarray(numbered(1)).save(folder / name)
    Image.fromarray(numbered(1)).save(tmp_path / "one.png")
    assert run(tmp_path / "one.png", folder, "--out", tmp_path / "out") == 0
    assert taken == ["one.png", "a.png", "b9.jpg", "b10.png"]


def test_the_command_refuses_what_is_wrong(clip, oracle, tmp_path, capfd):
    (tmp_path / "bad.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    Image.fromarray(numbered(0)).save(tmp_path / "walk.png")
    out = tmp_path / "out"
    for arguments, words in (
        ([tmp_path / "none.mp4"], "no such video"),
        ([tmp_path / "bad.mp4"], "cannot be opened as a video"),
        ([tmp_path / "empty"], "holds no pictures"),
        ([tmp_path / "empty", "--video"], "holds no pictures"),
        ([tmp_path / "walk.png", tmp_path / "walk_0.mp4"], "the same file (walk_0.json)"),
        ([clip.path, "--cropped"], "--cropped and --texture are for photos"),
        ([clip.path, "--texture", "photo"], "--cropped and --texture are for photos"),
        ([clip.path, "--fps", "0"], "between 0 and 1000"),
        ([tmp_path / "walk.png", "--fps", "5"], "--fps is for clips"),
    ):
        assert run(*arguments, "--out", out) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1 and error.startswith("mlanet: ") and words in error, error
        assert listed(out) == []


def test_a_bad_clip_does_not_cost_the_others(clip, oracle, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_text("no video")
    assert run(tmp_path / "bad.mp4", clip.path, "--out", tmp_path / "out") == 2
    assert listed(tmp_path / "out") == NAMES and "bad.mp4" in capsys.readouterr().err


def test_a_table_that_somebody_edited_is_not_replaced(clip, toy_model, tmp_path):
    (tmp_path / "walk.csv").write_text("frame,note\n0,mine\n")
    with pytest.raises(UserError, match=r"walk\.csv is there already"):
        reconstruct_clip(clip, Oracle(toy_model, *two(toy_model)), tmp_path, "walk", may_replace=is_own)
    assert (tmp_path / "walk.csv").read_text() == "frame,note\n0,mine\n" and not (tmp_path / "walk.json").exists()
