"""AFLW2000-3D's layout: the real files, what is written and read back, and every way a file can be wrong."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from mlanet_lib.data.sets import aflw2000
from mlanet_lib.data.sets.aflw2000 import SyntheticTruth, read_folder, read_sample, write_sample
from mlanet_lib.errors import UserError
from mlanet_lib.geometry.camera import euler_to_matrix, project, to_camera


@pytest.fixture
def written(tmp_path, toy_model):
    """One synthetic face of a known pose, written in the published layout."""
    degrees, truth = torch.tensor([[12.0, -35.0, 8.0]]), torch.tensor([[20.0, -30.0, 1500.0]])
    vertices = toy_model.mean[None]
    points = torch.cat([toy_model.landmarks(vertices), torch.zeros(1, 1, 3)], 1)
    projected = project(to_camera(points, euler_to_matrix(degrees), truth), torch.tensor([4.5]), 450, 450)[0].numpy()
    image = np.random.default_rng(0).integers(0, 256, (450, 450, 3), dtype=np.uint8)
    known = SyntheticTruth("abc123", np.arange(5.0), np.linspace(0, 1, 4), occluded=True)
    scale = 4.5 * 450 / 1500
    photo = write_sample(
        tmp_path, "image00002", image, projected[:68], degrees[0].numpy(), scale, projected[68], truth=known
    )
    return photo, projected, degrees[0].numpy(), scale, known


def broken(photo, **changes):
    """Rewrite the .mat with some fields exchanged, or left out (None)."""
    path = photo.with_suffix(".mat")
    fields = {k: v for k, v in loadmat(path).items() if not k.startswith("__")} | changes
    savemat(path, {k: v for k, v in fields.items() if v is not None})
    return path


def test_written_and_read_back(written):
    photo, projected, degrees, scale, known = written
    for leftover in (".image00002.ab12.part.jpg", "._image00002.jpg", "._image00002.mat"):
        (photo.parent / leftover).write_bytes(b"not a photo, and no part of the set")
    (sample,) = read_folder(photo.parent)
    assert sample.name == photo.name and sample.image().shape == (450, 450, 3)
    assert np.allclose(sample.landmarks, projected[:68, :2], atol=1e-4)
    assert np.allclose(sample.pose_degrees, degrees, atol=1e-4)
    order = np.argsort(projected[:68, 2])
    assert (np.diff(sample.nearness[order]) >= -1e-3).all() and sample.nearness.std() > 5
    assert sample.truth.face_model == known.face_model and sample.truth.occluded is True
    assert np.allclose(sample.truth.identity, known.identity)
    assert np.allclose(sample.truth.expression, known.expression)
    assert np.isclose(sample.bfm.scale, scale / 1000) and not sample.bfm.shape.any()


def test_pose_para_is_the_published_formula(written, toy_model):
    """x = s (R X)_x + tx and y = H + 1 - (s (R X)_y + ty) give pt3d_68, up to the camera's perspective."""
    photo, *_ = written
    mat = loadmat(photo.with_suffix(".mat"))
    pitch, yaw, roll, tx, ty, tz, scale = mat["Pose_Para"][0].astype(float)
    c, s = np.cos, np.sin
    rx = np.array([[1, 0, 0], [0, c(pitch), s(pitch)], [0, -s(pitch), c(pitch)]])
    ry = np.array([[c(yaw), 0, -s(yaw)], [0, 1, 0], [s(yaw), 0, c(yaw)]])
    rz = np.array([[c(roll), s(roll), 0], [-s(roll), c(roll), 0], [0, 0, 1]])
    micrometres = toy_model.landmarks(toy_model.mean[None])[0].double().numpy() * 1000
    moved = scale * micrometres @ (rx @ ry @ rz).T + [tx, ty, tz]
    moved[:, 1] = 450 + 1 - moved[:, 1]
    error = np.linalg.norm(moved - mat["pt3d_68"].T, axis=1)
    size = np.ptp(mat["pt3d_68"][:2], axis=1).max()
    # perspective at 1.5 m: 100 mm of depth are 7 % of magnification, so a point 100 px out moves 7 px
    assert error.max() < 0.08 * size and error.mean() < 0.03 * size
    assert {k: v.shape for k, v in mat.items() if k in ("pt2d", "roi", "Shape_Para", "Exp_Para", "Tex_Para")} == {
        "pt2d": (2, 21),
        "roi": (1, 4),
        "Shape_Para": (199, 1),
        "Exp_Para": (29, 1),
        "Tex_Para": (199, 1),
    }
    assert mat["pt3d_68"].dtype == np.float32 and mat["roi"].dtype == np.int16


def test_no_face_model_field_no_truth(written):
    photo, *_ = written
    broken(photo, mlanet_face_model=None)
    assert read_sample(photo).truth is None


def test_invisible_points_are_minus_one():
    points = np.arange(136.0).reshape(68, 2)
    visible = np.ones(68, bool)
    visible[[30, 37]] = False
    twenty_one = aflw2000._aflw_points(points, visible)
    assert (twenty_one[:, [12, 16, 14, 7]] == -1).all()
    assert np.array_equal(twenty_one[:, 0], points[17]) and np.array_equal(twenty_one[:, 20], points[8])
    assert (twenty_one != -1).sum() == 2 * 17


def test_real_files(shared_data):
    samples = read_folder(shared_data / "AFLW2000_dev", limit=12)
    assert len(samples) == 12 and samples[0].name == "image00019.jpg"
    for sample in samples:
        assert sample.image().shape == (450, 450, 3)
        assert sample.landmarks.shape == (68, 2) and sample.nearness.shape == (68,) and sample.truth is None
        assert sample.landmarks.min() > 0 and sample.landmarks.max() < 450
        assert 5e-4 < sample.bfm.scale < 3e-3 and np.abs(sample.bfm.shape).max() > 1e4


def test_21_points_of_the_real_files_match_the_writers(shared_data):
    """Our map from the 68 points to AFLW's 21 agrees with the annotated 21, where these are visible."""
    distances = []
    for path in sorted((shared_data / "AFLW2000_dev").glob("*.mat"))[:40]:
        mat = loadmat(path)
        ours = aflw2000._aflw_points(mat["pt3d_68"][:2].T, np.ones(68, bool))
        both = (mat["pt2d"] != -1).all(0) & (ours != -1).all(0)
        size = np.sqrt(np.ptp(mat["pt3d_68"][:2], axis=1).prod())
        distances.extend(np.linalg.norm(ours - mat["pt2d"], axis=0)[both] / size)
    assert np.median(distances) < 0.05 and np.quantile(distances, 0.95) < 0.15


def test_signs_of_the_real_files(shared_data):
    """Larger is nearer, positive yaw turns the nose to the image's left: turned back by their own angles, in the
    frames that the docstrings claim, all heads look alike and into the camera. With a sign changed they do not."""

    def disagreement(signs, depth):
        shapes = []
        for sample in samples:
            up = np.column_stack([sample.landmarks[:, 0], -sample.landmarks[:, 1], depth * sample.nearness])
            turn = euler_to_matrix(torch.as_tensor(sample.pose_degrees) * torch.tensor(signs)).numpy()
            shape = (up - up.mean(0)) @ turn
            shapes.append(shape / np.sqrt((shape**2).sum(1).mean()))
        mean = np.mean(shapes, 0)
        return np.sqrt(((np.array(shapes) - mean) ** 2).sum(2).mean()), mean

    samples = [s for s in read_folder(shared_data / "AFLW2000_dev") if np.abs(s.pose_degrees).max() < 99]
    right, mean = disagreement([1.0, 1.0, 1.0], -1)
    assert right < 0.12
    assert mean[30, 2] > mean[[0, 16], 2].max() + 0.5 and mean[42:48, 0].min() > mean[36:42, 0].max()
    for signs, depth in (([-1.0, 1, 1], -1), ([1.0, -1, 1], -1), ([1.0, 1, -1], -1), ([1.0, 1, 1], 1)):
        assert disagreement(signs, depth)[0] > 1.3 * right


def test_300w_lp_files(shared_data):
    sample = read_sample(shared_data / "300W_LP_samples" / "AFW" / "AFW_134212_1_0.jpg")
    assert sample.nearness is None and sample.points21 is None and np.isfinite(sample.landmarks).all()
    mirrored = read_sample(shared_data / "300W_LP_samples" / "AFW_Flip" / "AFW_134212_1_0.jpg")
    assert np.allclose(np.sort(sample.landmarks[:, 0]), np.sort(450 - mirrored.landmarks[:, 0]), atol=1e-4)
    assert np.abs(sample.pose_degrees - mirrored.pose_degrees * [1, -1, -1]).max() < 1.5


@pytest.mark.parametrize("field", ["pt3d_68", "Pose_Para", "Exp_Para", "mlanet_identity", "mlanet_occluded"])
def test_a_missing_field_is_named(written, field):
    path = broken(written[0], **{field: None})
    with pytest.raises(UserError, match=rf"image00002\.mat.*'{field}' is missing"):
        read_folder(path.parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pt3d_68": np.ones((68, 3))}, r"'pt3d_68' has shape \(68, 3\)"),
        ({"pt3d_68": np.full((3, 68), np.nan)}, "'pt3d_68' holds numbers that are not finite"),
        ({"pt3d_68": np.ones((3, 68))}, "span no box"),
        ({"Pose_Para": np.ones((1, 6))}, "'Pose_Para' has shape"),
        ({"Pose_Para": "text"}, "'Pose_Para' does not hold numbers"),
        ({"Shape_Para": np.ones((198, 1))}, "'Shape_Para' has shape"),
    ],
)
def test_a_bad_field_is_named(written, changes, message):
    path = broken(written[0], **changes)
    with pytest.raises(UserError, match=rf"image00002\.mat.*{message}"):
        read_sample(path.with_suffix(".jpg"))


def test_bad_files_are_named(written, tmp_path):
    photo = written[0]
    mat = photo.with_suffix(".mat")
    whole = mat.read_bytes()
    for content in (b"", b"not a mat file", whole[: len(whole) // 2], whole[:200], b"\x89HDF\r\n\x1a\n" + bytes(600)):
        mat.write_bytes(content)
        with pytest.raises(UserError, match=r"image00002\.mat"):
            read_folder(tmp_path)
    mat.unlink()
    with pytest.raises(UserError, match=r"no image00002\.mat beside"):
        read_folder(tmp_path)
    mat.write_bytes(whole)
    data = photo.read_bytes()
    for content in (b"a text file", data[: len(data) // 3], b""):
        photo.write_bytes(content)
        with pytest.raises(UserError, match=r"image00002\.jpg"):
            read_folder(tmp_path)[0].image()
    photo.unlink()
    with pytest.raises(UserError, match="no photo of that name"):
        read_folder(tmp_path)
    mat.unlink()
    with pytest.raises(UserError, match="no photos"):
        read_folder(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read_folder(tmp_path / "nothing")


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="landmarks68"):
        write_sample(
            tmp_path / "new", "a", np.zeros((9, 9, 3), np.uint8), np.full((68, 3), np.nan), np.zeros(3), 1, np.zeros(3)
        )
    assert not (tmp_path / "new").exists()


def test_a_dot_in_the_photo_is_where_the_label_says(tmp_path):
    """Picture and label through the writer and the reader: the drawn dot's centre of mass is the landmark."""
    rng = np.random.default_rng(1)
    points = np.column_stack([rng.uniform(100, 350, (68, 2)), rng.uniform(1400, 1500, 68)])
    y, x = np.mgrid[:450, :450] + 0.5
    dot = 255 * np.exp(-((x - points[30, 0]) ** 2 + (y - points[30, 1]) ** 2) / 18)
    image = np.repeat(dot[..., None], 3, -1).astype(np.uint8)
    sample = read_sample(write_sample(tmp_path, "dot", image, points, np.zeros(3), 1.3, np.array([225, 225, 1450.0])))
    weight = np.where(sample.image()[..., 0] > 30, sample.image()[..., 0].astype(float), 0)
    centre = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    assert np.abs(centre - sample.landmarks[30]).max() < 0.1
    with Image.open(tmp_path / sample.name) as opened:
        assert opened.format == "JPEG"
