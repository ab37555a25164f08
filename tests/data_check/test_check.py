"""`mlanet data check`: what is whole is called whole, every kind of trouble is found, named and counted."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from scipy.io import loadmat, savemat
from toy_data import write_toy_split

from mlanet_lib.cli.__main__ import main
from mlanet_lib.data import packing
from mlanet_lib.data.sample import Sample
from mlanet_lib.data.sets import aflw2000, crops
from mlanet_lib.data.sets.florence import write_subject
from mlanet_lib.data.sets.scans import Scan
from mlanet_lib.data_check import check, inventory
from mlanet_lib.data_check.check import is_wrong, problems, shared
from mlanet_lib.data_check.inventory import Trouble
from mlanet_lib.data_check.layouts import Found, find_sets
from mlanet_lib.errors import UserError
from mlanet_lib.face_sources.bfm2009.raw import BfmFit
from mlanet_lib.geometry.crops import Box
from mlanet_lib.predictor.yunet import YUNET_FILE

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(40, 110, (68, 2))


def noise(seed: int, size: int = 150) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (25, 25, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size)))


def write_photo(folder, stem: str, seed: int):
    points = np.column_stack([POINTS, RNG.uniform(900, 1000, 68)])
    return aflw2000.write_sample(folder, stem, noise(seed), points, np.zeros(3), 1.2, points[30])


def write_crops(folder, seeds):
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"crop{seed}.png" for seed in seeds]
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for seed, name in zip(seeds, names, strict=True):
            Image.fromarray(noise(seed)).save(folder / name)
            archive.write(folder / name, name)
            (folder / name).unlink()
    np.savez(folder / "labels.npz", names=np.array(names), landmarks68=np.tile(POINTS, (len(names), 1, 1)))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory, toy_model):
    """One small data set of every layout, whole and without overlap."""
    tmp_path = tmp_path_factory.mktemp("built")
    for number in range(3):
        write_photo(tmp_path / "bench", f"image{number:05d}", number)
        write_photo(tmp_path / "lp" / "AFW", f"AFW_{number}_1_0", 10 + number)
    write_crops(tmp_path / "crops", range(20, 24))
    (tmp_path / "photos").mkdir()
    Image.fromarray(noise(30)).save(tmp_path / "photos" / "me.png")
    write_toy_split(toy_model, tmp_path / "arrays", 6, kinds=(0, 1, 2))
    toy_model.save(tmp_path / "toy.npz")
    marks = {index: toy_model.mean[index].numpy() for index in (30, 36, 45)}
    scan = Scan(toy_model.mean.numpy(), toy_model.faces.numpy(), marks)
    write_subject(tmp_path / "florence", "subject_01", scan, [("indoor", noise(31), Box(20, 20, 90, 90))])
    return tmp_path


@pytest.fixture
def data(built, tmp_path):
    """The same to damage."""
    return shutil.copytree(built, tmp_path / "data")


def judge(path):
    return check.check(find_sets(path))


def test_every_layout_is_found_and_whole(data):
    reports = judge(data)
    said = {(report.found.layout, report.found.role, len(report.names)) for report in reports}
    sets = {("aflw2000", "benchmark", 3), ("300w_lp", "training", 3), ("crops", "training", 4), ("face_model", "-", 1)}
    assert said == sets | {("photos", "training", 1), ("arrays", "training", 6), ("florence", "benchmark", 2)}
    assert all(not r.broken and not r.failed and not r.n_broken and not r.repeated for r in reports), reports
    common = shared(reports)
    assert len(common) == 4 * 2 and not is_wrong(reports, common)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def relabel(path, **changes):
    fields = {name: value for name, value in loadmat(path).items() if not name.startswith("__")} | changes
    savemat(path, {name: value for name, value in fields.items() if value is not None})


def rows(path, change):
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    change(arrays)
    np.savez(path, **arrays)


def put(name, index, value):
    return lambda arrays: arrays[name].__setitem__(index, value)


@pytest.mark.parametrize(
    ("place", "damage", "kind", "name"),
    [
        ("bench/image00001.jpg", cut, "not a readable picture", "image00001.jpg"),
        ("bench/image00001.mat", cut, "not a readable .mat file", "image00001.jpg"),
        (
            "bench/image00001.mat",
            lambda p: relabel(p, Pose_Para=None),
            "field 'Pose_Para' is missing",
            "image00001.jpg",
        ),
        ("bench/image00001.mat", lambda p: p.unlink(), "no *.mat beside it", "image00001.jpg"),
        ("bench/image00001.jpg", lambda p: p.unlink(), "label without a photo", "image00001.mat"),
        ("lp/AFW/AFW_1_1_0.mat", lambda p: relabel(p, pt3d_68=np.full((3, 68), np.nan)), "not finite", "AFW_1_1_0.jpg"),
        (
            "crops/labels.npz",
            lambda p: rows(p, put("landmarks68", (2, 5), np.nan)),
            "landmarks not finite",
            "crop22.png",
        ),
        ("crops/labels.npz", lambda p: rows(p, put("landmarks68", (2, 5), 290)), "outside the picture", "crop22.png"),
        ("photos/me.png", cut, "not a readable picture", "me.png"),
        ("arrays/labels.npz", lambda p: rows(p, put("identity", (0, 1), np.inf)), "identity not finite", "row 0"),
        ("arrays/labels.npz", lambda p: rows(p, put("landmarks", (1, 3), np.nan)), "landmarks not finite", "row 1"),
        ("florence/subject_01/Images/indoor/frame_000.jpg", cut, "not a readable picture", "frame_000.jpg"),
        ("florence/subject_01/Model/frontal1/landmarks.json", cut, "not readable as JSON", "subject_01 scan"),
    ],
)
def test_a_broken_sample_is_named_and_hides_no_other(data, place, damage, kind, name):
    damage(data / place)
    reports = judge(data)
    (report,) = [report for report in reports if report.n_broken]
    assert place.startswith(report.found.path.name) and report.n_broken == 1
    ((said, names),) = report.broken.items()
    assert kind in said and len(names) == 1 and name in names[0]
    assert str(data) not in said, "the same trouble of two files must read the same"
    assert is_wrong(reports, [])


def test_broken_rows_of_ibugs_labels_are_named(data):
    names = [f"crop{seed}.png" for seed in range(20, 24)]
    fields = {"landmarks68": np.tile(POINTS, (4, 1, 1)), "spread": np.ones((4, 68)), "disagreement": np.ones(4)}
    for field in fields.values():
        field[3] = np.nan  # a crop without these points
    np.savez(data / "crops" / "labels_ibug68.npz", names=names, **fields)
    (report,) = judge(data / "crops")
    assert report.n_broken == 0 and len(report.names) == 4
    fields["landmarks68"][0, 5], fields["spread"][1, 7], fields["spread"][2, 9] = np.nan, np.inf, -1
    np.savez(data / "crops" / "labels_ibug68.npz", names=names, **fields)
    (report,) = judge(data / "crops")
    assert report.broken == {
        "iBUG's labels not finite": ["crop20.png", "crop21.png"],
        "iBUG's spread or disagreement negative": ["crop22.png"],
    }
    np.savez(data / "crops" / "labels_ibug68.npz", names=names[:3], **fields)
    assert "lists other pictures" in judge(data / "crops")[0].failed


def test_packed_arrays_are_whole(data):
    samples = crops.read_archive(data / "crops")
    packing.pack(samples, data / "packed", 48, progress=False)
    (report,) = judge(data / "packed")
    assert len(report.names) == 4 and not report.failed and not report.broken


@pytest.mark.parametrize("place", ["crops/images.zip", "crops/labels.npz", "arrays/images.npy", "toy.npz"])
def test_a_broken_set_is_named_and_hides_no_other(data, place):
    if place == "toy.npz":
        rows(data / place, lambda arrays: arrays.pop("faces"))
    else:
        cut(data / place)
    reports = judge(data)
    (report,) = [report for report in reports if report.failed]
    assert place.startswith(report.found.path.name) and is_wrong(reports, [])


def test_doubles_by_file_and_by_face(data):
    photo = data / "bench" / "image00002.jpg"
    shutil.copy(photo, data / "photos" / "stolen.jpg")
    (report,) = [report for report in judge(data) if report.found.layout == "photos"]
    assert not report.broken
    reports = judge(data)
    same = [both for both in shared(reports) if both.same_file]
    assert [both.same_file for both in same] == [[("stolen.jpg", "image00002.jpg")]]
    assert is_wrong(reports, shared(reports))
    (data / "photos" / "stolen.jpg").unlink()

    write_crops(data / "crops", [20, 2, 23])  # the benchmark's third picture, as another file
    reports = judge(data)
    (both,) = [both for both in shared(reports) if both.same_picture]
    assert not both.same_file and [pair[1:] for pair in both.same_picture] == [("crop2.png", "image00002.jpg")]
    assert is_wrong(reports, shared(reports))


@pytest.mark.parametrize("place", ["bench/image00001.jpg", "lp/AFW/AFW_1_1_0.jpg", "photos/me.png"])
def test_one_photo_with_two_endings_is_broken(data, place):
    picture = data / place
    shutil.copy(picture, picture.with_suffix(".jpeg"))
    broken = {kind: names for report in judge(data) for kind, names in report.broken.items()}
    ((kind, (name,)),) = broken.items()
    assert kind == "one photo twice" and all(f"{picture.stem}.{end}" in name for end in ("jpeg", picture.suffix[1:]))


def test_a_file_that_is_there_twice_is_said_and_no_fault(data):
    for suffix in (".jpg", ".mat"):
        shutil.copy(data / "bench" / f"image00000{suffix}", data / "bench" / f"image00009{suffix}")
    reports = judge(data / "bench")
    assert reports[0].repeated == [["image00000.jpg", "image00009.jpg"]] and not is_wrong(reports, [])


def test_the_role_is_the_parameters_where_they_say_it(data):
    found = find_sets(data / "bench", role="training")
    assert found == [Found("aflw2000", data / "bench", "training")]
    reports = check.check([*found, *find_sets(data / "bench")])
    assert len(shared(reports)[0].same_file) == 3


def sample(**changes):
    return Sample("x", lambda: None, **({"landmarks": POINTS} | changes))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, None),
        ({"landmarks": POINTS - 50}, None),  # a chin or a forehead that was cut off
        ({"landmarks": POINTS - 75}, "landmarks outside the picture"),
        ({"landmarks": POINTS * 0.05 + 50}, "face too small"),
        ({"landmarks": POINTS * [1, 0.01]}, "landmarks span no face"),
        ({"landmarks": np.where(np.arange(68)[:, None] == 3, np.nan, POINTS)}, "landmarks not finite"),
        ({"nearness": np.full(68, np.inf)}, "nearness not finite"),
        ({"points21": np.full((21, 2), np.nan)}, None),
        ({"points21": np.full((21, 2), np.inf)}, "points21 not finite"),
        ({"pose_degrees": np.array([np.nan, 168, np.nan])}, None),
        ({"pose_degrees": np.full(3, np.nan)}, "pose not finite"),
        ({"pose_degrees": np.array([0, 200, 0])}, "pose out of range"),
        ({"confidence": np.full(68, 1.5)}, "confidence outside [0, 1]"),
        ({"agreement": float("nan")}, "agreement not finite"),
        ({"bfm": BfmFit(np.zeros(199), np.zeros(29), np.zeros(3), -1e-3)}, "BFM fit's scale not positive"),
        ({"landmarks": None, "box": Box(200, 0, 50, 50)}, "box without area in the picture"),
        ({"landmarks": None, "box": Box(-20, -20, 200, 200)}, None),
    ],
)
def test_problems_of_one_sample(changes, kind):
    found = [trouble.kind for trouble in problems(sample(**changes), noise(0))]
    assert found == ([kind] if kind else [])


def test_problems_of_the_picture():
    assert problems(sample(landmarks=None), np.full((99, 99, 3), 7, np.uint8)) == [Trouble("picture of one colour")]
    assert problems(sample(landmarks=None), noise(0, 20)) == [Trouble("picture too small", "20 x 20")]


def test_the_command(data, capsys):
    assert main(["data", "check", str(data), "--json", str(data / "out.json")]) == 0
    out = capsys.readouterr().out
    assert "all whole" in out and "toy, 357 vertices" in out
    cut(data / "bench" / "image00001.jpg")
    assert main(["data", "check", str(data / "bench"), str(data / "toy.npz"), "--json", str(data / "out.json")]) == 1
    out = capsys.readouterr().out
    assert "1 broken, not a readable picture: image00001.jpg" in out and "WRONG" in out
    record = json.loads((data / "out.json").read_text())
    assert record["wrong"] and [one["whole"] for one in record["sets"]] == [2, 1]
    assert main(["data", "check", str(data / "nothing")]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_a_layout_without_a_reader_is_said(data, capsys, monkeypatch):
    monkeypatch.delitem(inventory.READERS, "crops")
    assert main(["data", "check", str(data)]) == 0
    out = capsys.readouterr().out
    assert "crops: NOT LOOKED INTO" in out and "all that was looked into is whole" in out


def test_nothing_known_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="nothing that is known"):
        find_sets(tmp_path)


def test_real_data_are_whole(shared_data):
    """The small real sets; the whole folder takes a minute: `mlanet data check FOLDER`."""
    reports = [*judge(shared_data / "300W_LP_samples"), *judge(shared_data / "AFLW2000_dev")]
    assert [(len(report.names), report.n_broken) for report in reports] == [(8, 0), (200, 0)]
    assert "972 degrees" in reports[1].notes[0]


def test_the_detector_s_file_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.delenv("MLANET_MODELS", raising=False)
    shutil.copy(ROOT / "weights" / YUNET_FILE, tmp_path)
    (report,) = check.check(find_sets(tmp_path))
    assert (
        report.found.layout == "detector"
        and report.notes == ["YuNet, as it was published"]
        and not is_wrong([report], [])
    )
    with (tmp_path / YUNET_FILE).open("ab") as file:
        file.write(b"more")
    (report,) = check.check(find_sets(tmp_path))
    assert is_wrong([report], []) and "was altered" in report.failed
