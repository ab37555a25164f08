"""300W-LP: the real files' traps, what the `landmarks` folder adds, and every way the folder can be wrong."""

import shutil

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from mlanet_lib.data.sets.aflw2000 import read_mat
from mlanet_lib.data.sets.w300lp import original, read_folder
from mlanet_lib.errors import UserError
from mlanet_lib.geometry.crops import ONE_BASED, crop_box_from_landmarks, from_index


@pytest.fixture
def samples(shared_data, tmp_path):
    """A copy of the real samples that a test may change."""
    return shutil.copytree(shared_data / "300W_LP_samples", tmp_path / "300W_LP")


def by_name(folder):
    return {sample.name: sample for sample in read_folder(folder)}


def test_the_eight_real_samples(samples):
    for distraction in ("Code/face.jpg", "landmarks/AFW/face.jpg", "AFW/.AFW_134212_1_0.ab12.part.jpg"):
        (samples / distraction).parent.mkdir(parents=True, exist_ok=True)
        (samples / distraction).write_bytes(b"no photo of the set")
    found = by_name(samples)
    assert list(found)[:4] == [f"AFW{flip}/AFW_134212_1_{turn}.jpg" for flip in ("", "_Flip") for turn in (0, 1)]
    assert len(found) == 8 and list(found)[4].startswith("HELEN/")
    for name, sample in found.items():
        image, crop = sample.image(), sample.crop()
        assert image.shape == (450, 450, 3) and 100 < crop.w < 350
        assert sample.bfm.shape.shape == (199,) and np.isfinite(sample.pose_degrees).all()
        assert (sample.landmarks is None) == name.endswith("_1.jpg")


def test_pt2d_of_a_turned_picture_is_the_originals(samples):
    """Equal to the bit, while the nose has moved by pixels: it must not pass for this picture's landmarks."""
    for subset, moved in (("AFW", 4), ("HELEN", 7)):
        first, second = sorted((samples / subset).glob("*.mat"))
        assert np.array_equal(loadmat(first)["pt2d"], loadmat(second)["pt2d"])
        before, after = (by_name(samples)[f"{subset}/{path.stem}.jpg"] for path in (first, second))
        assert abs(after.pose_degrees[1] - before.pose_degrees[1]) == pytest.approx(5, abs=1e-3)
        x, y = before.landmarks[30].astype(int)
        patch = before.image()[y - 14 : y + 15, x - 14 : x + 15].astype(float)
        grey, likeness = after.image().astype(float), {}
        for dy in range(-8, 9):
            for dx in range(-14, 15):
                there = grey[y + dy - 14 : y + dy + 15, x + dx - 14 : x + dx + 15]
                likeness[dx, dy] = np.corrcoef(patch.ravel(), there.ravel())[0, 1]
        assert np.hypot(*max(likeness, key=likeness.get)) > moved


def test_mirrored_landmarks_are_mirrored_and_reordered(samples):
    """The subject's right (jaw's start, right eye's corner) is on the image's left, in a mirrored photo too."""
    found = by_name(samples)
    for name in ("AFW_134212_1_0", "HELEN_232194_1_0"):
        subset = name.split("_")[0]
        plain, mirrored = found[f"{subset}/{name}.jpg"], found[f"{subset}_Flip/{name}.jpg"]
        for sample in (plain, mirrored):
            assert (np.diff(sample.landmarks[[0, 8, 16], 0]) > 0).all()
            assert sample.landmarks[36, 0] < sample.landmarks[45, 0] and sample.confidence[[0, 16, 17]].tolist() == [
                0,
                0,
                1,
            ]
        assert np.allclose(
            mirrored.landmarks[[16, 45, 42, 64, 67]], plain.landmarks[[0, 36, 39, 60, 65]] * [-1, 1] + [450, 0]
        )
        stored = from_index(loadmat(samples / f"{subset}_Flip" / f"{name}.mat")["pt2d"].T, ONE_BASED)
        assert stored[36, 0] > stored[45, 0]  # as published: not reordered


def test_the_landmarks_folder_is_preferred(samples):
    rng = np.random.default_rng(0)
    points = rng.uniform(100, 300, (68, 2))
    (samples / "landmarks" / "AFW").mkdir(parents=True)
    savemat(samples / "landmarks" / "AFW" / "AFW_134212_1_1_pts.mat", {"pts_2d": points + 9, "pts_3d": points})
    found = by_name(samples)
    plain, mirrored = (found[f"AFW{flip}/AFW_134212_1_1.jpg"] for flip in ("", "_Flip"))
    assert np.allclose(plain.landmarks, points - 0.5) and plain.confidence is None and plain.box is None
    assert np.allclose(
        mirrored.landmarks[[16, 45, 30]],
        (451 - points[[0, 36, 30], 0])[:, None] * [1, 0] - [0.5, 0] + points[[0, 36, 30]] * [0, 1] - [0, 0.5],
    )
    box = crop_box_from_landmarks(read_mat(samples / "HELEN" / "HELEN_232194_1_1.mat")["landmarks"])
    assert found["HELEN/HELEN_232194_1_1.jpg"].box == box
    savemat(samples / "landmarks" / "AFW" / "AFW_134212_1_1_pts.mat", {"pts_3d": points.T})
    with pytest.raises(UserError, match=r"AFW_134212_1_1_pts\.mat.*'pts_3d' has shape"):
        read_folder(samples)


def test_original():
    same = ["AFW/AFW_134212_1_0.jpg", "AFW/AFW_134212_1_17.jpg", "AFW_Flip/AFW_134212_2_3.jpg", "AFW_134212_1_4"]
    assert {original(name) for name in same} == {"AFW_134212"}
    assert original("IBUG/IBUG_image_014_01_2.jpg") == "IBUG_image_014"
    assert original("LFPW_Flip/LFPW_image_train_0737_13.jpg") == "LFPW_image_train_0737"
    assert original("LFPW/LFPW_image_test_0001_3.jpg") != original("LFPW/LFPW_image_test_0002_3.jpg")
    with pytest.raises(UserError, match="image00002"):
        original("image00002.jpg")


def test_folders_and_files_that_are_wrong(tmp_path, samples):
    for folder, message in ((tmp_path / "nothing", "no such folder"), (tmp_path, "no photos")):
        with pytest.raises(UserError, match=message):
            read_folder(folder)
    mat = samples / "AFW_Flip" / "AFW_134212_1_0.mat"
    mat.write_bytes(mat.read_bytes()[:300])
    with pytest.raises(UserError, match=r"AFW_Flip.AFW_134212_1_0\.mat"):
        read_folder(samples)
    mat.unlink()
    with pytest.raises(UserError, match=r"AFW_Flip.AFW_134212_1_0\.mat"):
        read_folder(samples)
