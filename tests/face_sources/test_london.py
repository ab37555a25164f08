"""The folder of portraits with points placed by hand: what is read, and what is refused."""

import numpy as np
import pytest
from toy_portraits import write_folder

from mlanet_lib.errors import UserError
from mlanet_lib.face_sources import london
from mlanet_lib.geometry.crops import Box

PEOPLE = ["001", "002", "010"]
POINTS = np.random.default_rng(0).uniform(0, 30, (3, 189, 2))
PHOTOS = np.arange(6, dtype=np.uint8).reshape(3, 2, 1, 1, 1).repeat(30, 2).repeat(40, 3).repeat(3, 4) * 40


def test_what_is_read(tmp_path):
    crops = np.arange(24, dtype=np.float32).reshape(3, 2, 4) + 1
    found = london.read_folder(write_folder(tmp_path, PEOPLE, POINTS, PHOTOS, crops=crops))
    assert found.people == PEOPLE and found.gender.tolist() == ["female", "male", "female"]
    np.testing.assert_allclose(found.points189, POINTS, atol=1e-5)
    assert found.crops["smiling"][1] == Box(13, 14, 15, 16) and found.crops["neutral"][0] == Box(1, 2, 3, 4)
    assert found.photo("010", "smiling").shape == (30, 40, 3)
    assert abs(int(found.photo("010", "smiling")[0, 0, 0]) - 200) < 3
    write_folder(tmp_path / "without", PEOPLE, POINTS, PHOTOS, age=np.full(3, np.nan))
    assert london.read_folder(tmp_path / "without").crops is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"points189": None}, "no field points189"),
        ({"points189": POINTS[:, :68]}, r"'points189' is float64 \(3, 68, 2\), not numbers \(3, 189, 2\)"),
        ({"points189": np.full((3, 189, 2), np.nan)}, "'points189' holds numbers that are not finite"),
        ({"points189": POINTS * 1e9}, "or no pixels"),
        ({"points189": np.full((3, 189, 2), "x")}, "'points189' is <U1"),
        ({"people": np.array([1, 2, 10])}, "'people' is int64"),
        ({"people": np.array(["001", "001", "002"])}, "3 people, 2 of them different; 3 or more are needed"),
        ({"people": np.array(["../1", "002", "010"])}, "cannot be a file's name"),
        ({"ethnicity": np.array(["white"])}, "'ethnicity' is"),
        ({"crops": np.zeros((3, 2, 4))}, "boxes without area"),
        ({"crops": np.ones((3, 4))}, "'crops' is"),
        ({"people": np.array(["001", "002", "011"])}, r"2 photos are missing \(011_neutral.jpg, 011_smiling.jpg"),
    ],
)
def test_what_is_wrong_is_a_user_error(tmp_path, changes, words):
    write_folder(tmp_path, PEOPLE, POINTS, PHOTOS, **changes)
    with pytest.raises(UserError, match=words):
        london.read_folder(tmp_path)


def test_folders_without_labels(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        london.read_folder(tmp_path / "none")
    with pytest.raises(UserError, match=r"labels\.npz: no such file"):
        london.read_folder(tmp_path)
    (tmp_path / "labels.npz").write_bytes(b"PK no zip")
    with pytest.raises(UserError, match="not a readable file of labels"):
        london.read_folder(tmp_path)


def test_the_set_itself(shared_data):
    """Points lie on the face they were placed on: the pupils are darker than the cheeks."""
    found = london.read_folder(shared_data / "london")
    assert len(found.people) == 62 and found.people[0] == "001" and set(found.gender) == {"female", "male"}
    photo = found.photo("001", "neutral").mean(2)
    at = [photo[int(y), int(x)] for x, y in found.points189[0, [0, 1, 165, 169]]]
    assert max(at[:2]) < min(at[2:]) - 40
