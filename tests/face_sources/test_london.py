"""The folder of portraits with points placed by hand: what is read, what is refused, and whose photos serve what."""

import hashlib
from collections import Counter

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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three people, of whom "002" and "010" are to be learned from, the latter first."""
    write_folder(tmp_path, PEOPLE, POINTS, PHOTOS)
    people = [{"person": "001", "use": "portrait", "ethnicity": "x", "sha256": ""}]
    for name in ("010", "002"):
        digest = hashlib.sha256((tmp_path / f"{name}_neutral.jpg").read_bytes()).hexdigest()
        people.append({"person": name, "use": "skin", "ethnicity": f"of {name}", "sha256": digest})
    monkeypatch.setattr(london, "people", lambda: people)
    return tmp_path


def test_nobody_is_both_learned_from_and_judged_on():
    people = london.people()
    assert Counter(row["use"] for row in people) == {"skin": 42, "portrait": 20}
    assert len({row["person"] for row in people}) == 62
    assert all((len(row["sha256"]) == 64) == (row["use"] == "skin") for row in people)
    assert len({row["sha256"] for row in people if row["use"] == "skin"}) == 42


def test_each_group_that_is_judged_on_is_learned_from():
    groups = {
        use: {(r["gender"], r["ethnicity"]) for r in london.people() if r["use"] == use} for use in ("skin", "portrait")
    }
    assert groups["portrait"] <= groups["skin"] and len(groups["portrait"]) >= 8


def test_the_points_around_the_face_are_a_closed_line_that_hair_takes_a_part_of():
    assert len(set(london.OUTLINE)) == len(london.OUTLINE) and set(london.HAIR_SIDE) <= set(london.OUTLINE)
    start = london.OUTLINE.index(london.HAIR_SIDE[0])
    around = london.OUTLINE[start:] + london.OUTLINE[:start]
    assert around[: len(london.HAIR_SIDE)] == london.HAIR_SIDE


def test_the_neutral_photos_of_those_to_learn_from_are_read_in_the_tables_order(folder):
    found = london.read_skin(folder)
    assert found.names == ["010", "002"] and found.groups.tolist() == ["of 010", "of 002"]
    assert np.allclose(found.points, POINTS[[2, 1]], atol=1e-5)
    assert [round(float(picture.mean()), -1) for picture in found.pictures] == [160, 80]


def test_other_photos_are_refused(folder):
    (folder / "001_neutral.jpg").write_bytes((folder / "001_smiling.jpg").read_bytes())
    london.read_skin(folder)  # nothing is learned from that one
    with (folder / "002_neutral.jpg").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"002_neutral\.jpg: not the photo .*sha256"):
        london.read_skin(folder)


def test_missing_photos_people_and_labels_are_named(folder, tmp_path):
    write_folder(tmp_path / "fewer", ["001", "003", "010"], POINTS, PHOTOS)
    with pytest.raises(UserError, match=r"fewer: no person 002 in labels\.npz"):
        london.read_skin(tmp_path / "fewer")
    (folder / "010_neutral.jpg").unlink()
    with pytest.raises(UserError, match=r"010_neutral\.jpg"):
        london.read_skin(folder)
    (folder / "labels.npz").unlink()
    with pytest.raises(UserError, match=r"labels\.npz: no such file"):
        london.read_skin(folder)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        london.read_skin(folder / "nowhere")


def test_the_sets_own_photos_are_those_of_the_table(shared_data):
    found = london.read_skin(shared_data / "london")
    assert len(found.names) == 42 and {picture.shape for picture in found.pictures} == {(675, 675, 3)}
    told = {row["person"]: row["ethnicity"] for row in london.people()}
    assert found.groups.tolist() == [told[name] for name in found.names]
    for points in found.points:  # the irises lie between the lids, the lids within the outline
        for eye in london.IRIS:
            iris, lids = points[list(london.IRIS[eye])].mean(0), points[list(london.LIDS[eye])]
            assert (lids.min(0) < iris).all() and (iris < lids.max(0)).all()
            assert (points[list(london.OUTLINE)].min(0) < lids.min(0)).all()
