"""The benchmarks run at their smallest size, in this process where they can, and print finite numbers."""

import importlib
import math
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from toy_data import write_toy_split
from toy_fits import drawn as points_of
from toy_fits import faces
from toy_portraits import write_folder

from mlanet_lib.data.sample import Sample
from mlanet_lib.data.sets import aflw2000
from mlanet_lib.data.synthetic import stand_ins
from mlanet_lib.data.synthetic.faces import SyntheticConfig
from mlanet_lib.errors import UserError
from mlanet_lib.face_model.fitting import landmark_basis
from mlanet_lib.face_model.points import landmark_twins
from mlanet_lib.face_sources import london
from mlanet_lib.face_sources.ict.head import SKIN
from mlanet_lib.geometry.camera import matrix_to_euler
from mlanet_lib.geometry.crops import Box, crop_image
from mlanet_lib.metrics import yaw_bin
from mlanet_lib.network import MLANet, NetworkConfig, checkpoint
from mlanet_lib.predictor import Predictor
from mlanet_lib.predictor.detector import Detection
from mlanet_lib.training.config import Job, TrainConfig

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """A function that imports a benchmark by name; threads are as they were afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)


def numbers(text: str) -> list[float]:
    """The figures in a text, in order; nan and inf are some."""
    return [float(word) for word in re.findall(r"(?<![\w.])(?:-?\d+(?:\.\d+)?(?:e[-+]\d+)?|nan|inf)(?![\w.])", text)]


def rows_of(text: str, part: str) -> list[list[float]]:
    return [numbers(line[len(part) :]) for line in text.splitlines() if line.startswith(part)]


def test_training(benchmark, capsys):
    module = benchmark("training")
    options = "--quick --backbone lcnet_050 --image-size 32 --batch 8 --precision float32 --threads 1"
    module.main([*options.split(), "--profile-of-step", "1"])
    text = capsys.readouterr().out
    assert "mkldnn_convolution" in text  # the profile
    text = text[: text.index("---")]
    for part in module.PARTS:
        without, with_term = rows_of(text, part)
        assert len(without) == len(with_term) == 3 and all(math.isfinite(x) and x >= 0 for x in without + with_term)
        drawn = part in ("decode", "raster + interpolation", "shading")
        assert (without[0] == without[1] == 0) == drawn
        if drawn or part == module.NETWORK:
            assert min(with_term) > 0
    shares = [sum(rows_of(text, part)[k][2] for part in module.PARTS) for k in range(2)]
    assert shares == pytest.approx([100, 100], abs=0.5)
    sums = [numbers(line) for line in text.splitlines() if line.startswith("sum of the parts")]
    assert len(sums) == 2 and all(0.2 < ratio < 5 for _, _, ratio in sums)  # whatever else the machine does
    other = [numbers(line)[-1] for line in text.splitlines() if line.startswith("what is not the network's")]
    assert len(other) == 2 and all(0 < share < 100 for share in other)


@pytest.mark.slow
def test_the_preset_for_a_gpu_runs_on_a_cpu(benchmark, capsys):
    module = benchmark("training")
    module.main(["--resnet50", "--quick", "--image-size", "32", "--threads", "1"])
    text = capsys.readouterr().out
    assert "resnet50, 32 px, batches of 4" in text and "32 synthetic samples" in text
    assert all(math.isfinite(x) for part in module.PARTS for row in rows_of(text, part) for x in row)


def test_a_marked_backward_pass_is_split_where_it_belongs(benchmark):
    """Time that a function's backward pass sleeps away is that function's, not its neighbours'; gradients stay."""
    module = benchmark("training")
    clock = module.Clock(torch.device("cpu"))
    clock.watching = True

    class Sleepy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, seconds):
            ctx.seconds = seconds
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            time.sleep(ctx.seconds)
            return gradient * 2, None

    first = clock.timed("decode", lambda x: Sleepy.apply(x, 0.03), backward=True)
    second = clock.timed("shading", lambda x: {"a": Sleepy.apply(x, 0.06), "b": x}, backward=True)
    x = torch.ones(3, requires_grad=True)
    clock.step()
    clock.watching = True
    loss = second(first(x))["a"].sum()
    clock.switch(module.LOSSES, "backward")
    loss.backward()
    clock.step()
    (parts,) = clock.parts[1:]
    assert 0.03 <= parts["decode", "backward"] < 0.055 and 0.06 <= parts["shading", "backward"] < 0.085
    assert torch.equal(x.grad, torch.full((3,), 4.0))


def test_renderer(benchmark, capsys):
    module = benchmark("renderer")
    options = ["--quick", "--faces", "500", "--sizes", "24", "--batches", "1", "2", "--threads", "1"]
    module.main(options)
    table = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [tuple(row[1:4]) for row in table if row[0] == "numba"] == [("500", "24", batch) for batch in ("1", "2")]
    for row in table:
        differ, *times, kept = map(float, row[4:])
        assert differ == 0 or (row[0] != "numba" and differ < 0.02)
        assert all(0 < value < math.inf for value in (*times, kept))
    module.main(
        ["--quick", "--faces", "500", "--sizes", "24", "--batches", "1", "2", "--threads", "1", "--patience", "0"]
    )
    assert "impatient" in capsys.readouterr().out


def test_what_a_rendering_keeps_grows_with_the_batch(benchmark):
    module = benchmark("renderer")
    mesh, device = module.bumpy_sphere(500), torch.device("cpu")
    one, four = (module.Scene(mesh, 24, batch, device).bytes() for batch in (1, 4))
    assert 3 < four / one < 5
    # colours and pictures at the least: three float32 numbers for each vertex and pixel
    assert one > 3 * 4 * (len(mesh[0]) + 24 * 24)


@pytest.mark.slow
def test_scaling(benchmark, capsys):
    benchmark("scaling").main(["--quick", "--threads", "1", "--processes"])
    text = capsys.readouterr().out
    assert text.count("### ") == 6
    rows = [numbers(line) for line in text.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 11 and all(0 < value < math.inf for row in rows for value in row)


def test_kill_and_resume_sees_what_differs(benchmark, tmp_path):
    module = benchmark("kill_and_resume")
    for name, value in (("one", 1.0), ("same", 1.0), ("other", 2.0)):
        for file in (module.BEST, module.LAST):
            checkpoint.save(tmp_path / name / file, {"network.x": torch.full((2,), value)}, {"step": value})
        (tmp_path / name / module.HISTORY).write_text(f"step\n{value}\n")
    assert module.unlike(tmp_path / "one", tmp_path / "same") == []
    assert len(module.unlike(tmp_path / "one", tmp_path / "other")) == 5  # the history, and two in each checkpoint
    assert module.torn(tmp_path / "one") == []
    content = (tmp_path / "one" / module.BEST).read_bytes()
    (tmp_path / "one" / module.BEST).write_bytes(content[: len(content) // 2])
    assert len(module.torn(tmp_path / "one")) == 1


def test_exactness(benchmark, capsys):
    module = benchmark("exactness")
    assert module.main(["--faces", "800", "--size", "40"]) == 0
    text = capsys.readouterr().out
    share, agree, clear = numbers(text.splitlines()[0])[-1], *numbers(text.splitlines()[1])[:2]
    assert share > 90 and agree == clear > 1000


def test_exactness_sees_a_wrong_face(benchmark, monkeypatch):
    module = benchmark("exactness")
    honest = module.rasterize

    def shifted(points, *rest):
        return honest(points + torch.tensor([1.0, 0.0, 0.0]), *rest)

    monkeypatch.setattr(module, "rasterize", shifted)
    assert module.main(["--faces", "800", "--size", "40"]) == 1


@pytest.fixture
def found() -> list[Detection]:
    """What the detector finds in any photo: nothing, until a test puts something in."""
    return []


@pytest.fixture
def sheet(benchmark, toy_model, found, monkeypatch):
    """The benchmark with an untrained predictor of the toy model."""
    module = benchmark("sheet")
    torch.manual_seed(0)
    network = MLANet(toy_model, backbone="resnet10t", image_size=32, width=8, pool=1).eval()
    predictor = Predictor(network, toy_model, {"face_model": {"name": "toy"}})
    predictor._detector = SimpleNamespace(detect=lambda photo: found)
    monkeypatch.setattr(module.Predictor, "load", lambda weights, fitted: predictor)
    return module


@pytest.fixture
def photos(toy_model, tmp_path):
    """Three photos in AFLW2000-3D's layout, one in each yaw bin, by |yaw|."""
    config = SyntheticConfig(test=3, photo_size=200, occluded=0.0)
    samples = aflw2000.read_folder(stand_ins.write_aflw2000(config, toy_model, tmp_path / "in", 0))
    return sorted(samples, key=lambda sample: abs(sample.pose_degrees[1]))


def cells_of(module, path) -> np.ndarray:
    """(rows, columns, CELL, CELL, 3) floats, the pictures of a sheet."""
    values, step, height = np.asarray(Image.open(path), float), module.CELL + module.GAP, module.STRIP + module.CELL
    rows = [values[k + 2 * module.STRIP :] for k in range(0, len(values) - module.STRIP, height + module.GAP)]
    return np.stack([[r[: module.CELL, x : x + module.CELL] for x in range(0, r.shape[1], step)] for r in rows])


def test_sheet_of_a_benchmark_s_folder(sheet, photos, tmp_path, capsys):
    out = tmp_path / "new" / "out.png"
    assert sheet.main([str(out), "--aflw2000", str(tmp_path / "in"), "--count", "2"]) == 0
    assert capsys.readouterr().out.split() == [str(out)]
    cells = cells_of(sheet, out)
    assert cells.shape[:2] == (2, 6)
    for drawn, sample in zip(cells, (photos[0], photos[2]), strict=True):
        assert np.abs(drawn[0] - crop_image(sample.image(), sample.crop(), sheet.CELL)).mean() < 6
        assert np.abs(drawn[1] - drawn[0]).mean() > 5  # the mesh lies over the photo
        assert all(picture.std() > 20 for picture in drawn)
        mesh, side = ((picture < 250).all(-1) for picture in drawn[2:4])
        assert side.any(0).sum() < 0.8 * mesh.any(0).sum()  # the toy face is half as deep as it is wide
    apart = np.abs(cells[:, :, None] - cells[:, None, :]).mean((3, 4, 5))
    assert apart[:, 4, 5].max() < 12 and apart[:, 0, 4].min() > 20  # untrained: white light


def test_sheet_of_photos(sheet, photos, found, tmp_path, capsys):
    files, out = [str(tmp_path / "in" / sample.name) for sample in photos], tmp_path / "out.png"
    assert sheet.main([str(out), *files]) == 2 and not out.exists()
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == [*files, "sheet"]
    found.append(Detection(np.array([40.0, 50.0, 100.0, 100.0]), 0.9, np.full((5, 2), np.nan)))
    assert sheet.main([str(out), str(tmp_path / "in")]) == 0
    detected = cells_of(sheet, out)
    assert len(detected) == 3
    assert sheet.main([str(out), str(tmp_path / "in"), "--boxes", "aflw2000"]) == 0
    labelled = cells_of(sheet, out)
    in_order = sorted(photos, key=lambda sample: sample.name)
    for one, other, sample in zip(detected, labelled, in_order, strict=True):
        image = sample.image()
        assert np.abs(one[0] - crop_image(image, Box(*found[0].crop()), sheet.CELL)).mean() < 6
        assert np.abs(other[0] - crop_image(image, sample.crop(), sheet.CELL)).mean() < 6


def test_sheet_of_nothing(sheet, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for options in (["x.gif", "a.jpg"], ["x.jpg"], ["x.jpg", "missing.jpg"], ["x.jpg", str(tmp_path / "empty")]):
        assert sheet.main(options) == 2
        assert re.fullmatch(r"sheet: .+\n", capsys.readouterr().err)


def test_sheet_spreads_photos_over_the_yaws(sheet):
    yaws = {"a": 3, "b": -5, "c": 4, "d": -41, "e": 80, "f": -89, "g": 6}
    samples = [Sample(name, None, pose_degrees=np.array([0, yaw, 0])) for name, yaw in yaws.items()]
    chosen = [[sample.name for sample in sheet.spread(samples, count)] for count in (1, 3, 9)]
    assert chosen == [["a"], ["a", "d", "f"], ["a", "c", "b", "g", "d", "e", "f"]]


def test_held_out_sees_a_perfect_reading(benchmark, toy_model, tmp_path, monkeypatch):
    module = benchmark("held_out")
    write_toy_split(toy_model, tmp_path, 48)
    labels = dict(np.load(tmp_path / "labels.npz"))
    labels["lighting"][:40] = np.nan  # of photos nobody knows the light
    labels |= {"person": np.arange(48) // 4, "points_set": np.arange(48) % 2}
    np.savez(tmp_path / "labels.npz", **labels)
    monkeypatch.setattr(module, "CLOSED", np.inf)  # every mouth counts
    monkeypatch.setattr(module, "within_over_between", lambda network, model: 0.5)
    network = SimpleNamespace(config=SimpleNamespace(image_size=32))
    monkeypatch.setattr(module, "predicted", lambda network, data, rows: 2 * (data.batch(rows).parameters,))
    ours, ibug, pose, r, slope, mouths, same, skin = module.figures(network, toy_model, tmp_path)
    assert max(ours, ibug, pose, mouths) < 1e-3 and min(r, slope, skin) > 1 - 1e-4 and same == 0.5

    def mean_face(network, data, rows):
        found = data.batch(rows).parameters
        return found.replace(identity=0 * found.identity, albedo=0 * found.albedo), found

    monkeypatch.setattr(module, "predicted", mean_face)
    ours, ibug, pose, r, slope, mouths, same, skin = module.figures(network, toy_model, tmp_path)
    assert min(ours, ibug) > 0.3 and pose < 1e-3 and slope < 0.7 and abs(skin) < 1e-6


def test_held_out_compares_pictures_of_one_person_and_of_two(benchmark, toy_model, monkeypatch):
    module, drawn = benchmark("held_out"), []

    def draw(model, parameters, rng, size, occlude):
        drawn.append(parameters.identity)
        return SimpleNamespace(images=np.zeros((len(parameters), size, size, 3), np.uint8))

    monkeypatch.setattr(module, "draw", draw)
    for noise, expected in ((0.0, 0.0), (10.0, 1.0)):
        drawn.clear()

        def encode(images, noise=noise):
            whole, first = torch.cat(drawn), encode.read
            encode.read += len(images)
            codes = whole[first : encode.read]
            return SimpleNamespace(identity=codes + noise * torch.randn(codes.shape, generator=encode.random))

        encode.read, encode.random = 0, torch.Generator().manual_seed(0)
        network = SimpleNamespace(config=SimpleNamespace(image_size=16), encode=encode)
        assert module.within_over_between(network, toy_model) == pytest.approx(expected, abs=0.15)
        assert encode.read == 200 and len(torch.cat(drawn).unique(dim=0)) == 100


def test_held_out_leaves_out_what_it_says(benchmark, toy_model, tmp_path):
    module, data = benchmark("held_out"), tmp_path / "data"
    sources = {"aflw_ibug", "aflw_crops", "london"}
    for name in ("", *sources):
        write_toy_split(toy_model, data / name, 4)
    options = SimpleNamespace(steps=3, batch=2, out=tmp_path / "out")
    whole = Job(TrainConfig(), NetworkConfig(), toy_model, data, data, tmp_path, seed=5)
    for part, change in module.PARTS.items():
        folder = tmp_path / part.replace(" ", "_")
        folder.mkdir()
        job = module.shortened(whole, part, options, folder)
        assert (job.train.steps, job.train.batch_size, job.seed) == (3, 2, 5)
        left = sorted(path.name for path in job.train_folder.glob("*/"))
        assert left == sorted(sources - set(change.get("sources", [])))
        assert job.out_folder.name == "seed_5" and job.out_folder.parent.parent == options.out
    assert job.network.image_size == 80  # the last one
    with pytest.raises(UserError, match="has no london"):
        module.shortened(replace(whole, train_folder=data / "london"), "London people", options, tmp_path)


@pytest.mark.slow
def test_the_rotation_to_bfms_frame(benchmark, shared_data, face_model, tmp_path, capsys):
    module, folder = benchmark("bfm_rotation"), shared_data / "aflw_crops"
    with np.load(folder / "labels.npz") as labels, np.load(folder / module.POSES) as poses:
        jaw = labels["landmarks68"][:, 16].astype(float) - labels["landmarks68"][:, 0]
        degrees = matrix_to_euler(torch.from_numpy(poses["rotation"]).double()).numpy()
    upright = (np.abs(degrees) < 60).all(1)
    turned = np.degrees(np.arctan2(jaw[:, 2], jaw[:, 0]))  # by the 3D points of the same network
    assert np.median(np.abs(degrees[upright, 1] - turned[upright])) < 1.5  # the poses have this project's signs
    rolled = np.degrees(np.arctan2(jaw[:, 1], jaw[:, 0]))
    straight = upright & (np.abs(degrees[:, 1]) < 15)
    assert np.median(np.abs(degrees[straight, 2] - rolled[straight])) < 1.5
    face_model.save(tmp_path / "model.npz")
    module.main([str(folder), "--face-model", str(tmp_path / "model.npz"), "--count", "100"])
    text = capsys.readouterr().out.splitlines()
    (angles,) = rows_of("\n".join(text), "pitch")
    own = matrix_to_euler(face_model.bfm_rotation[None])[0].tolist()  # of many more crops
    assert "100 crops" in text[0] and angles == pytest.approx(own, abs=0.7) and 4 < own[0] < 8


@pytest.mark.slow
def test_points_that_sit_elsewhere_are_found(benchmark, face_model):
    """Labels from a model whose outer brows sit 3 mm off: calibrated, the points are there again. (Corners of the mouth
    are not found so: expressions can follow them. Those of iBUG's labels come from the London Set's points.)"""
    module = benchmark("place_points")
    mean, _ = landmark_basis(face_model)
    moved = mean.copy()
    moved[[18, 25], 1] += 3
    other = module.placed(face_model, moved)
    points = points_of(other, faces(other, 60, seed=3, size=0.3))
    found = module.calibrated(face_model, module.Labelled(points, np.zeros(60), np.ones((60, 68)), None))
    before, after, wanted = (landmark_basis(model)[0] for model in (face_model, found, other))
    changed = [18, 25]
    distance = np.linalg.norm(after - wanted, axis=1)
    assert np.linalg.norm(before - wanted, axis=1)[changed].mean() > 2.5
    assert distance[changed].mean() < 1.0
    assert np.delete(distance, changed).mean() < 1.0
    assert np.abs(after - after[landmark_twins()] * [-1, 1, 1]).max() < 0.2


def test_a_point_stays_on_the_skin(benchmark, face_model):
    """Around the lids no triangle of an eyeball, around the lips no teeth: what may be reached hangs together."""
    module = benchmark("place_points")
    mean = face_model.mean.double().numpy()
    for point in (37, 44, 62, 66):
        start = int(face_model.landmark_index[point, face_model.landmark_weights[point].argmax()])
        triangles = module.patch(face_model, point)
        used, corners = np.unique(triangles, return_inverse=True)
        edges = corners.reshape(-1, 3)[:, [[0, 1], [1, 2]]].reshape(-1, 2)
        graph = coo_matrix((np.ones(len(edges)), tuple(edges.T)), shape=(len(used),) * 2)
        assert len(triangles) > 20 and connected_components(graph, directed=False)[0] == 1 and start in used
        assert used.max() < SKIN and np.linalg.norm(mean[used] - mean[start], axis=1).max() <= module.REACH


def test_the_crops_that_points_are_placed_by(benchmark, shared_data, face_model):
    module, folder = benchmark("place_points"), shared_data / "aflw_crops"
    used, others = module.of_3ddfa(folder, ["image69026.jpg"])
    assert np.bincount(yaw_bin(used.yaw)).tolist() == [module.PER_BIN] * 3 and len(others.yaw) == 1500
    assert (used.weights == 1).all() and used.rotations is None
    used, others = module.of_ibug(folder, ["image69026.jpg"], face_model)
    assert np.histogram(np.abs(used.yaw), [0, 12.01, 25.01, 40])[0].tolist() == [350, 200, 150]
    held = matrix_to_euler(torch.from_numpy(used.rotations))[:, 1].numpy()
    assert np.corrcoef(held, used.yaw)[0, 1] > 0.9  # as 3DDFA's points of the same photos turn them
    assert np.isfinite(used.points).all() and len(others.yaw) == 500
    turned = np.abs(used.yaw) > 12
    assert (used.weights[turned, :17] == 0.02).all() and (used.weights[~turned] == 1).all()
    assert (used.weights[:, 17:] == 1).all()
    assert used.rotations.shape == (700, 3, 3) and others.rotations.shape == (500, 3, 3)


def test_the_table_of_points_keeps_what_is_not_made_again(benchmark, tmp_path):
    module, path = benchmark("place_points"), tmp_path / "points.csv"
    text = (ROOT / module.TABLE).read_text()
    remarks, sets = module.read(ROOT / module.TABLE)
    assert {name: len(rows) for name, rows in sets.items()} == {"3ddfa": 68, "ibug": 68, "london": 145}
    module.write(path, remarks, sets)
    assert path.read_text() == text
    assert module.with_lips([["ibug", str(k), *"abcdefg"] for k in range(68)], sets["london"])[60:] == sets["ibug"][60:]
    assert module.with_lips(sets["ibug"], sets["london"]) == sets["ibug"]  # as it is, mouth corners too
    sets["3ddfa"] = [module.row("3ddfa", k, [1, 2, k], [0.25, 0.00004, 0.74996]) for k in range(68)]
    module.write(path, remarks, sets)
    ours, theirs = path.read_text().splitlines(), text.splitlines()
    assert ours[:4] == theirs[:4] and ours[72:] == theirs[72:] and ours[9] == "3ddfa,5,1,2,5,0.25,0.00004,0.74996,1"


def test_portraits(benchmark, tmp_path, monkeypatch, capsys):
    """Of a folder of three people the two that are asked for, cut to the head; points and crops move along."""
    module = benchmark("portraits")
    assert len(module.portrait_people()) == 20 and module.portrait_people()[0] == "001"
    points = np.random.default_rng(0).uniform(100, 140, (3, 189, 2))
    photos = np.full((3, 2, 300, 240, 3), 90, np.uint8)
    photos[:, :, 100:140, 100:140] = 200
    source = london.read_folder(write_folder(tmp_path / "set", ["001", "002", "003"], points, photos))
    face = SimpleNamespace(turns=0, crop=lambda: np.array([70.0, 80.0, 100.0, 100.0]))
    detector = SimpleNamespace(detect=lambda photo: [face])
    module.make(source, detector, ["001", "003"], tmp_path / "out")
    monkeypatch.setattr(london, "FEWEST", 2)
    made = london.read_folder(tmp_path / "out")
    assert made.people == ["001", "003"] and "CC BY 4.0" in (tmp_path / "out" / "LICENSE.txt").read_text()
    box = module.head_box(Box(70, 80, 100, 100), 240, 300)
    assert box == Box(40, 42, 160, 160) and module.head_box(Box(0, 0, 200, 200), 240, 300) == Box(0, 0, 240, 240)
    np.testing.assert_allclose(made.points189[1], (points[2] - [40, 42]) * 2.5, atol=1e-4)
    assert made.crops["smiling"][0] == pytest.approx((75, 95, 250, 250))
    photo = made.photo("003", "neutral")
    assert photo.shape == (400, 400, 3) and photo[195, 200].min() > 190 and photo[10, 10].max() < 100
    with pytest.raises(UserError, match="no photos of 004"):
        module.make(source, detector, ["004"], tmp_path / "none")
    with pytest.raises(UserError, match="no face found"):
        module.make(source, SimpleNamespace(detect=lambda photo: []), ["001"], tmp_path / "none")
    assert not (tmp_path / "none" / "labels.npz").exists()
    with pytest.raises(SystemExit, match="no such folder"):
        module.main([str(tmp_path / "nowhere")])


def test_memory(benchmark, capfd, monkeypatch):
    if not (ROOT / "data" / "face_models" / "ict.npz").is_file():
        pytest.skip("the default face model is not here: dvc pull data.dvc")
    module = benchmark("memory")
    monkeypatch.setattr("sys.argv", ["memory.py", "--counts", "1200", "--size", "32", "--batch", "8", "--steps", "4"])
    module.main()
    (row,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("| 1,200")]
    disk, own, peak, batches, training, start = (float(cell.replace(",", "")) for cell in row.split("|")[2:8])
    assert 3 < disk < 12 and 100 < own < peak and batches > training > 0 and start >= 0


def test_annotate(benchmark, capsys):
    """Its figures of an annotator that finds the very points, moved: 2 px of a face that is 100 by 64."""
    module = benchmark("annotate")
    truth = np.stack([np.linspace(10, 110, 68), np.linspace(20, 84, 68)], 1)
    annotated = np.full((21, 2), np.nan)
    annotated[list(module.ALIKE)] = truth[list(module.ALIKE.values())]
    yaw = np.array([np.nan, 20.0, np.nan])
    sample = Sample("a.jpg", lambda: np.zeros((128, 128, 3), np.uint8), truth, points21=annotated, pose_degrees=yaw)

    def faces(photo):
        starts = (truth - np.array([3.0, 5.0])) / 2 + np.random.default_rng(0).normal(0, 0.1, (5, 68, 2))
        return [SimpleNamespace(starts=starts, other=None, yaw_degrees=20.0, zoom=2.0, origin=(5.0, 5.0))]

    module.judge([sample], SimpleNamespace(source="moved", definition="3ddfa", faces=faces))
    (row,) = rows_of(capsys.readouterr().out, "  15-30 ")
    assert row[:2] == [1, 1] and row[2] == pytest.approx(2.5, abs=0.15)


def test_bulk(benchmark):
    """The rate counts what comes after the first ones."""
    module = benchmark("bulk")

    def outcomes():
        for number in range(6):
            time.sleep(0.3 if number < 2 else 0.05)
            yield module.bulk.Outcome(f"{number}.jpg", 1)

    assert module.rate(outcomes(), 2) == pytest.approx(20, rel=0.3)
