"""The photographs that the face model's skin is learned from: whose they are, and which are refused."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from toy_portraits import write_folder

from mlanet_lib.errors import UserError
from mlanet_lib.face_sources.ict import people as london

PEOPLE = ["001", "002", "010"]
POINTS = np.random.default_rng(0).uniform(0, 30, (3, 189, 2))
PHOTOS = np.arange(6, dtype=np.uint8).reshape(3, 2, 1, 1, 1).repeat(30, 2).repeat(40, 3).repeat(3, 4) * 40


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
    found = london.read(folder)
    assert found.names == ["010", "002"] and found.groups.tolist() == ["of 010", "of 002"]
    assert np.allclose(found.points, POINTS[[2, 1]], atol=1e-5)
    assert [round(float(picture.mean()), -1) for picture in found.pictures] == [160, 80]


def test_other_photos_are_refused(folder):
    (folder / "001_neutral.jpg").write_bytes((folder / "001_smiling.jpg").read_bytes())
    london.read(folder)  # nothing is learned from that one
    with (folder / "002_neutral.jpg").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"002_neutral\.jpg: not the photo .*sha256"):
        london.read(folder)


def test_missing_photos_people_and_labels_are_named(folder, tmp_path):
    write_folder(tmp_path / "fewer", ["001", "003", "010"], POINTS, PHOTOS)
    with pytest.raises(UserError, match=r"fewer: no person 002 in labels\.npz"):
        london.read(tmp_path / "fewer")
    (folder / "010_neutral.jpg").unlink()
    with pytest.raises(UserError, match=r"010_neutral\.jpg"):
        london.read(folder)
    (folder / "labels.npz").unlink()
    with pytest.raises(UserError, match=r"labels\.npz: no such file"):
        london.read(folder)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        london.read(folder / "nowhere")


def test_the_sets_own_photos_are_those_of_the_table(shared_data):
    found = london.read(shared_data / "london")
    assert len(found.names) == 42 and {picture.shape for picture in found.pictures} == {(675, 675, 3)}
    told = {row["person"]: row["ethnicity"] for row in london.people()}
    assert found.groups.tolist() == [told[name] for name in found.names]
    for points in found.points:  # the irises lie between the lids, the lids within the outline
        for eye in london.IRIS:
            iris, lids = points[list(london.IRIS[eye])].mean(0), points[list(london.LIDS[eye])]
            assert (lids.min(0) < iris).all() and (iris < lids.max(0)).all()
            assert (points[list(london.OUTLINE)].min(0) < lids.min(0)).all()
