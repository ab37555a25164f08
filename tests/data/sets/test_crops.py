"""Zips of crops: what is read, in which pixels, and every way the two files can be wrong."""

import io
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from mlanet_lib.data.sets import crops
from mlanet_lib.data.sets.crops import read_archive
from mlanet_lib.errors import UserError


def jpeg(seed: int, side: int = 24) -> bytes:
    stream = io.BytesIO()
    colour = np.random.default_rng(seed).integers(0, 256, 3)
    Image.new("RGB", (side, side), tuple(int(c) for c in colour)).save(stream, "JPEG")
    return stream.getvalue()


def labels(count: int = 3, **changes) -> dict:
    rng = np.random.default_rng(0)
    fields = {
        "names": np.array([f"face{i}.jpg" for i in range(count)]),
        "landmarks68": rng.uniform(0, 24, (count, 68, 3)).astype(np.float16),
        "landmarks21": rng.uniform(0, 24, (count, 21, 2)).astype(np.float16),
        "visible21": rng.random((count, 21)) < 0.7,
        "yaw_degrees": np.linspace(-60, 60, count).astype(np.float16),
        "agreement": np.linspace(2, 9, count).astype(np.float16),
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


def write(folder, fields=None, members=None, compression=zipfile.ZIP_STORED):
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / "labels.npz", **(fields or labels()))
    with zipfile.ZipFile(folder / "images.zip", "w", compression) as archive:
        for name, data in members or [(f"face{i}.jpg", jpeg(i)) for i in range(3)]:
            archive.writestr(name, data)
    return folder


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_is_read(tmp_path, compression):
    fields = labels()
    samples = read_archive(write(tmp_path / "crops", fields, compression=compression))
    assert [sample.name for sample in samples] == ["face0.jpg", "face1.jpg", "face2.jpg"]
    for i, sample in enumerate(samples):
        assert np.array_equal(sample.landmarks, fields["landmarks68"][i, :, :2].astype(float) + 0.5)
        assert np.array_equal(sample.nearness, -fields["landmarks68"][i, :, 2].astype(float))
        assert np.array_equal(np.isnan(sample.points21), np.repeat(~fields["visible21"][i][:, None], 2, 1))
        assert np.array_equal(sample.points21[fields["visible21"][i]], fields["landmarks21"][i][fields["visible21"][i]])
        assert np.isnan(sample.pose_degrees[[0, 2]]).all() and sample.pose_degrees[1] == fields["yaw_degrees"][i]
        assert sample.agreement == fields["agreement"][i] and sample.rotation is None
        expected = np.asarray(Image.open(io.BytesIO(jpeg(i))))
        assert np.array_equal(sample.image(), expected)
        assert np.array_equal(pickle.loads(pickle.dumps(sample)).image(), expected)  # into a worker process


def test_a_jaw_on_the_contour_is_not_believed(tmp_path):
    flat = labels()["landmarks68"][..., :2].astype(np.float32)
    fields = labels(landmarks68=flat, landmarks21=None, visible21=None, yaw_degrees=None, agreement=None)
    (sample, *_) = read_archive(write(tmp_path / "crops", fields))
    assert sample.confidence.tolist() == [0.0] * 17 + [1.0] * 51
    assert np.array_equal(sample.landmarks, flat[0] - 0.5)
    assert sample.nearness is None and sample.points21 is None and sample.pose_degrees is None


ENOUGH = [(f"face{i}.jpg", jpeg(i)) for i in range(5)]


def test_many_threads_read_the_same_zip(tmp_path):
    members = [(f"face{i}.jpg", jpeg(i)) for i in range(40)]
    samples = read_archive(write(tmp_path / "crops", labels(40), members)) * 10
    with ThreadPoolExecutor(8) as pool:
        colours = list(pool.map(lambda sample: sample.image()[0, 0], samples))
    assert np.array_equal(colours, [sample.image()[0, 0] for sample in samples])
    assert len(np.unique(colours, axis=0)) == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": None}, "'names' is missing"),
        ({"landmarks68": None}, "'landmarks68' is missing"),
        ({"visible21": None}, "'visible21' is missing"),
        ({"names": np.array(["face0.jpg", "face1.jpg", "face0.jpg"])}, "'face0.jpg' more than once"),
        ({"names": np.array(["face0.jpg", "face1.jpg", "face7.jpg"])}, r"images\.zip: no picture 'face7.jpg'"),
        ({"names": np.arange(3)}, "'names' is not a list of names"),
        ({"names": np.array([b"a", b"b", b"c"], object)}, "labels.*pickle"),
        ({"landmarks68": np.zeros((3, 68))}, r"'landmarks68' has shape \(3, 68\)"),
        ({"landmarks68": np.zeros((2, 68, 3))}, r"'landmarks68' has shape \(2, 68, 3\), not \(3, 68, 3\)"),
        ({"landmarks68": np.zeros((3, 68, 3), complex)}, "'landmarks68' has the wrong type"),
        ({"yaw_degrees": np.array(["a", "b", "c"])}, "'yaw_degrees' has the wrong type"),
        ({"visible21": np.ones((3, 21))}, "'visible21' has the wrong type"),
        ({"agreement": np.zeros(4)}, r"'agreement' has shape \(4,\)"),
    ],
)
def test_a_bad_field_is_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read_archive(write(tmp_path / "crops", labels(**changes)))


@pytest.mark.parametrize(
    "name", ["../face0.jpg", "/face0.jpg", "a/../../face0.jpg", "C:\\face0.jpg", "a\\..\\b.jpg", "a/con.jpg", "."]
)
def test_a_name_that_leaves_the_folder(tmp_path, name):
    members = [(f"face{i}.jpg", jpeg(i)) for i in range(3)] + [(name, jpeg(4))]
    with pytest.raises(UserError, match=r"images\.zip: member .* cannot be a file's name"):
        read_archive(write(tmp_path / "crops", members=members))


def test_a_photo_that_is_there_with_two_endings(tmp_path):
    names = ["a/face.jpg", "face.jpg", "a/face.png"]
    members = [(name, jpeg(k)) for k, name in enumerate(names)]
    with pytest.raises(UserError, match=r"labels\.npz: field 'names': face\.jpg and face\.png are one photo"):
        read_archive(write(tmp_path / "crops", labels(names=np.array(names)), members))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_doubles_lies_and_encryption_in_the_zip(tmp_path):
    members = [(f"face{i}.jpg", jpeg(i)) for i in (0, 1, 2, 1)]
    with pytest.raises(UserError, match=r"member 'face1.jpg' is there more than once"):
        read_archive(write(tmp_path / "crops", members=members))
    archive = write(tmp_path / "crops") / "images.zip"
    whole = archive.read_bytes()
    entry = whole.index(b"PK\1\2")
    for place, value, message in (
        (24, (10**9).to_bytes(4, "little"), "'face0.jpg' claims 1,000,000,000 bytes"),
        (8, b"\1\0", "'face0.jpg' is encrypted"),
        (10, b"\x0c\0", "'face0.jpg' is packed in an unknown way"),
    ):
        archive.write_bytes(whole[: entry + place] + value + whole[entry + place + len(value) :])
        with pytest.raises(UserError, match=message):
            read_archive(archive.parent)


def test_damaged_pictures_are_found_when_they_are_read(tmp_path):
    archive = write(tmp_path / "crops") / "images.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:200] + b"\0" * 50 + whole[250:])
    with pytest.raises(UserError, match=r"images\.zip: 'face0.jpg': damaged"):
        read_archive(archive.parent)[0].image()
    entry = whole.index(b"PK\1\2")
    archive.write_bytes(whole[: entry + 42] + b"\7" + whole[entry + 43 :])  # where the member is said to begin
    with pytest.raises(UserError, match=r"images\.zip"):
        read_archive(archive.parent)[0].image()
    members = [(f"face{i}.jpg", b"no picture") for i in range(3)]
    with pytest.raises(UserError, match=r"images\.zip: 'face0.jpg': not a readable picture"):
        read_archive(write(tmp_path / "text", members=members))[0].image()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_files_that_are_missing_damaged_or_huge(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"labels\.npz: no such file"):
        read_archive(tmp_path)
    for name in ("labels.npz", "images.zip"):
        folder = write(tmp_path / "crops")
        whole = (folder / name).read_bytes()
        for content in (b"", b"no zip", whole[: len(whole) // 2], whole[len(whole) // 2 :]):
            (folder / name).write_bytes(content)
            with pytest.raises(UserError, match=name):
                read_archive(folder)
    folder = write(tmp_path / "crops")
    with zipfile.ZipFile(folder / "labels.npz", "a") as archive:  # a header that claims 10^12 rows
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
        archive.writestr("agreement.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(UserError, match=r"labels\.npz.*twice"):
        read_archive(folder)
    with zipfile.ZipFile(folder / "labels.npz", "w") as archive:
        archive.writestr("names.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(UserError, match=r"labels\.npz.*claims"):
        read_archive(folder)
    monkeypatch.setattr(crops, "LARGEST_LABELS", 100)
    with pytest.raises(UserError, match=r"labels\.npz.*claims to hold more"):
        read_archive(write(folder))


def test_single_rows_are_not_judged_here(tmp_path):
    """A NaN is the data check's to report: the other rows are whole."""
    marks = labels()["landmarks68"]
    marks[1] = np.nan
    samples = read_archive(write(tmp_path / "crops", labels(landmarks68=marks)))
    assert np.isnan(samples[1].landmarks).all() and np.isfinite(samples[2].landmarks).all()


@pytest.mark.parametrize(("name", "count"), [("aflw_crops", 17_757), ("youtube_faces", 3_462)])
def test_real_archives(shared_data, name, count):
    samples = read_archive(shared_data / name)
    assert len(samples) == count
    for sample in samples[:: count // 20]:
        height, width = sample.image().shape[:2]
        assert sample.landmarks.min() > -0.35 * width and sample.landmarks.max() < 1.35 * height
        assert (sample.nearness is None) == (name == "youtube_faces") == (sample.rotation is None)
        assert (sample.confidence[:17] == (name == "aflw_crops")).all()
        assert set(sample.confidence[17:36]) in ({1.0}, {crops.BESIDE})


def test_estimated_and_annotated_points_are_counted_alike(shared_data):
    """What the docstring says of the pixels: read so, the two label sets of near-frontal crops agree in x, on average.

    Left and right points are judged together, and both directions of yaw alike, so that what the two sets understand
    by an eye or a mouth cancels. Read as if they were counted alike, they are half a pixel apart.
    """
    offsets = {-1: [], 1: []}
    for sample in read_archive(shared_data / "aflw_crops"):
        points, yaw = sample.points21[[7, 10, 6, 11, 17, 19]], sample.pose_degrees[1]
        if abs(yaw) < 20 and np.isfinite(points).all():
            eyes = [sample.landmarks[[37, 38, 40, 41]].mean(0), sample.landmarks[[43, 44, 46, 47]].mean(0)]
            estimated = np.array([*eyes, *sample.landmarks[[36, 45, 48, 54]]])
            offsets[1 if yaw > 0 else -1].append((estimated - points)[:, 0].mean())
    offset = np.mean([np.mean(side) for side in offsets.values()])
    assert min(map(len, offsets.values())) > 1000
    assert abs(offset) < 0.3 < abs(offset - 0.5)


def ibug(folder, count: int = 3, **changes):
    """Writes `labels_ibug68.npz`; returns its fields."""
    rng = np.random.default_rng(1)
    fields = {
        "names": np.array([f"face{i}.jpg" for i in range(count)]),
        "landmarks68": rng.uniform(0, 24, (count, 68, 2)).astype(np.float32),
        "spread": np.zeros((count, 68), np.float16),
        "disagreement": np.full(count, 2.0, np.float32),
    }
    fields = {name: value for name, value in (fields | changes).items() if value is not None}
    np.savez(folder / crops.IBUG_LABELS, **fields)
    return fields


def test_ibug_points_take_the_place_of_3ddfas(tmp_path):
    turned = labels(5)["landmarks68"].astype(np.float32)
    turned[:, 0], turned[:, 16] = (2, 3, 0), (22, 3, 0)
    turned[:, 16, 2] = 20 * np.tan(np.deg2rad([-50, -13, 0, 11, 30]))
    folder = write(tmp_path / "crops", labels(5, landmarks68=turned, yaw_degrees=np.full(5, 90.0)), ENOUGH)
    spread, marks = np.zeros((5, 68)), np.random.default_rng(0).uniform(0, 24, (5, 68, 2))
    marks[0] = np.nan
    size = np.sqrt(np.ptp(marks, axis=1).prod(1))
    spread[2, 20], spread[3, 3] = crops.SPREAD * size[2], 3 * crops.SPREAD * size[3]
    ibug(folder, 5, landmarks68=marks, spread=spread, disagreement=np.array([np.nan, 6.0, 1.0, 2.0, 6.5]))
    plain, samples = read_archive(folder), read_archive(folder, "ibug")
    assert [sample.name for sample in samples] == ["face1.jpg", "face2.jpg", "face3.jpg"]
    assert [len(read_archive(folder, "ibug", limit)) for limit in (0.5, 5.0, 9.0)] == [0, 2, 4]
    for sample, k in zip(samples, (1, 2, 3), strict=True):
        assert np.allclose(sample.landmarks, marks[k] + 0.5) and sample.nearness is None
        assert np.array_equal(sample.points21, plain[k].points21, equal_nan=True)
        assert np.array_equal(sample.image(), plain[k].image())
    side, straight, edge = (sample.confidence for sample in samples)
    assert side.tolist() == [0.1] * 17 + [1.0] * 51
    assert straight[20] == pytest.approx(0.5) and straight.sum() == pytest.approx(67.5)
    assert edge[3] == pytest.approx(0.1) and edge.sum() == pytest.approx(67.1)


def test_3ddfas_eyes_and_lips_count_less_and_all_but_the_jaw_little_beside_ibugs(tmp_path):
    folder = write(tmp_path / "crops", labels(5), ENOUGH)
    worth = np.stack([sample.confidence for sample in read_archive(folder)])
    assert (worth[:, :36] == 1).all() and (worth[:, 36:] == crops.ALONE).all() and crops.BESIDE < crops.ALONE < 1
    marks = np.random.default_rng(0).uniform(0, 24, (5, 68, 2))
    marks[0, 5] = np.nan
    ibug(folder, 5, landmarks68=marks, disagreement=np.array([1.0, 6.0, 6.5, np.nan, 2.0]))
    for limit, beside in ((6.0, [1, 4]), (7.0, [1, 2, 4])):
        worth = np.stack([sample.confidence for sample in read_archive(folder, "3ddfa", limit)])
        expected = np.ones((5, 68))
        expected[:, 36:] = crops.ALONE
        expected[beside, 17:] = crops.BESIDE
        assert np.array_equal(worth, expected)


def poses(folder, **changes):
    """Writes `pose_3ddfa_v2.npz` of heads turned by -40, 0 and 40 degrees; returns their rotations."""
    rotation = Rotation.from_euler("y", [[-40], [0], [40]], degrees=True).as_matrix().astype(np.float32)
    fields = {"names": np.array([f"face{i}.jpg" for i in range(3)]), "rotation": rotation} | changes
    np.savez(folder / crops.POSES, **{name: value for name, value in fields.items() if value is not None})
    return rotation


def test_known_poses_are_read(tmp_path):
    folder = write(tmp_path / "crops")
    rotation = poses(folder)
    assert np.array_equal([sample.rotation for sample in read_archive(folder)], rotation)
    ibug(folder)
    assert np.array_equal([sample.rotation for sample in read_archive(folder, "ibug")], rotation)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotation": None}, "field 'rotation' is missing"),
        ({"names": np.array(["face0.jpg", "face2.jpg", "face1.jpg"])}, "other pictures than labels.npz"),
        ({"rotation": np.zeros((2, 3, 3))}, r"'rotation' has shape \(2, 3, 3\), not \(3, 3, 3\)"),
        ({"rotation": np.zeros((3, 3, 3), int)}, "'rotation' has the wrong type"),
        ({"rotation": 1.1 * np.tile(np.eye(3), (3, 1, 1))}, "'rotation' holds matrices that are no rotations"),
        ({"rotation": np.tile(np.diag([1.0, 1, -1]), (3, 1, 1))}, "'rotation' holds matrices that are no rotations"),
        ({"rotation": np.full((3, 3, 3), np.nan)}, "'rotation' holds matrices that are no rotations"),
    ],
)
def test_a_wrong_file_of_poses_is_named(tmp_path, changes, message):
    folder = write(tmp_path / "crops")
    poses(folder, **changes)
    with pytest.raises(UserError, match=rf"pose_3ddfa_v2\.npz: .*{message}"):
        read_archive(folder)


def test_without_depth_the_labelled_yaw_says_whether_the_jaw_is_believed(tmp_path):
    flat = labels()["landmarks68"][..., :2]
    folder = write(tmp_path / "known", labels(landmarks68=flat, yaw_degrees=np.array([-11, 12.5, 60])))
    ibug(folder)
    assert [sample.confidence[:17].max() for sample in read_archive(folder, "ibug")] == [1, 0.1, 0.1]
    folder = write(tmp_path / "unknown", labels(landmarks68=flat, yaw_degrees=None))
    ibug(folder)
    assert [sample.confidence[:17].max() for sample in read_archive(folder, "ibug")] == [0.1] * 3


def test_points_on_the_picture_are_ibugs_as_they_are(tmp_path):
    flat = labels()["landmarks68"][..., :2].astype(np.float32)
    folder = write(tmp_path / "crops", labels(landmarks68=flat))
    for sample, other in zip(read_archive(folder, "ibug"), read_archive(folder), strict=True):
        assert np.array_equal(sample.landmarks, other.landmarks)
        assert np.array_equal(sample.confidence, other.confidence)


def test_points_with_depth_are_not_ibugs(tmp_path):
    with pytest.raises(UserError, match=r"no labels_ibug68\.npz, and labels\.npz holds 3DDFA's"):
        read_archive(write(tmp_path / "crops"), "ibug")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spread": None}, "field 'spread' is missing"),
        ({"names": np.array(["face0.jpg", "face2.jpg", "face1.jpg"])}, "other pictures than labels.npz"),
        ({"landmarks68": np.zeros((3, 68, 3))}, r"'landmarks68' has shape \(3, 68, 3\), not \(3, 68, 2\)"),
        ({"disagreement": np.array(["a", "b", "c"])}, "'disagreement' has the wrong type"),
    ],
)
def test_a_wrong_file_of_ibug_points_is_named(tmp_path, changes, message):
    folder = write(tmp_path / "crops")
    ibug(folder, **changes)
    with pytest.raises(UserError, match=rf"labels_ibug68\.npz: .*{message}"):
        read_archive(folder, "ibug")


def test_real_ibug_points(shared_data):
    samples = read_archive(shared_data / "aflw_crops", "ibug")
    own = {sample.name: sample for sample in read_archive(shared_data / "aflw_crops")}
    assert 12_000 < len(samples) < 13_344
    assert all(np.isfinite(sample.landmarks).all() for sample in samples)
    worth = np.stack([sample.confidence for sample in samples])
    with np.load(shared_data / "aflw_crops" / "pose_3ddfa_v2.npz") as poses:
        known = dict(zip(poses["names"].tolist(), poses["rotation"], strict=True))
    yaw = np.degrees(np.arcsin(np.abs([known[sample.name][0, 2] for sample in samples])))
    assert worth.min() > 0 and worth.max() <= 1 and np.median(worth[:, 17:]) > 0.8
    assert np.median(worth[yaw <= 11, :17]) > 0.5
    assert (worth[yaw > 15, :17].max(1) <= 0.1).mean() > 0.99  # the jaw of a turned head is not believed
    inner = [np.linalg.norm(s.landmarks[17:] - own[s.name].landmarks[17:], axis=1).mean() for s in samples]
    sizes = [np.sqrt(np.ptp(own[s.name].landmarks, axis=0).prod()) for s in samples]
    assert 2 < 100 * np.median(np.array(inner) / sizes) < 4
