"""Pictures of folders: each photo once, whatever the layout, and limits that mean what they say."""

import shutil
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image
from red_squares import RedSquares, photo
from scipy.io import savemat

from mlanet_lib.data import sources
from mlanet_lib.data.sets import aflw2000, florence, photos, w300lp
from mlanet_lib.data.sets.scans import Scan
from mlanet_lib.errors import UserError
from mlanet_lib.files import folders


def aflw(folder):
    points = np.column_stack([np.random.default_rng(0).uniform(20, 60, (68, 2)), np.full(68, 900.0)])
    image, middle = np.zeros((80, 80, 3), np.uint8), np.array([40.0, 40, 900])
    for name in ("b", "a"):
        aflw2000.write_sample(folder, name, image, points, np.zeros(3), 0.5, middle)
    return folder / "a.jpg"


def lp(folder):
    (folder / "AFW").mkdir()
    fields = {"pt2d": np.random.default_rng(0).uniform(20, 60, (2, 68)), "Pose_Para": np.zeros((1, 7))}
    fields |= {"Shape_Para": np.zeros((199, 1)), "Exp_Para": np.zeros((29, 1))}
    for name in ("AFW_2_1_0", "AFW_1_1_0"):
        savemat(folder / "AFW" / f"{name}.mat", fields)
        Image.new("RGB", (80, 80)).save(folder / "AFW" / f"{name}.jpg")
    return folder / "AFW" / "AFW_1_1_0.jpg"


def people(folder):
    (folder / "anna").mkdir()
    for name in ("anna/x_2.jpg", "anna/x_1.jpg", "ben_1.jpg"):
        photo((8, 10, 16)).save(folder / name)
    return folder / "anna" / "x_1.jpg"


def subject(folder):
    scan = Scan(np.eye(3), np.array([[0, 1, 2]]), {k: np.eye(3)[i] for i, k in enumerate((30, 36, 45))})
    image = np.zeros((8, 8, 3), np.uint8)
    for name in ("subject_02", "subject_01"):
        florence.write_subject(folder, name, scan, [("indoor", image, None), ("indoor", image, None)])
    return folder / "subject_01" / "Images" / "indoor" / "frame_000.jpg"


def find(folder):
    return photos.read_folder(folder, RedSquares())


LAYOUTS = {
    "aflw2000": (aflw, aflw2000.read_folder),
    "300w_lp": (lp, w300lp.read_folder),
    "photos": (people, find),
    "florence": (subject, florence.read_folder),
}


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path):
    """A folder in a layout, one of its pictures, and the layout's reader."""
    make, read = LAYOUTS[request.param]
    return tmp_path, make(tmp_path), read


@pytest.mark.parametrize("ending", [".png", ".jpeg", ".JPG"])
def test_a_photo_that_is_there_twice_is_refused_and_both_are_named(layout, ending):
    folder, picture, read = layout
    whole = len(read(folder))
    shutil.copy(picture, picture.with_suffix(ending))
    with pytest.raises(UserError) as caught:
        read(folder)
    assert all(name in str(caught.value) for name in (picture.name, picture.with_suffix(ending).name))
    picture.with_suffix(ending).rename(picture.with_name(f".{picture.name}"))  # hidden ones are no pictures
    assert len(read(folder)) == whole


@pytest.mark.parametrize("limit", [0, -1])
@pytest.mark.parametrize("layout", ["aflw2000", "florence"], indirect=True)
def test_a_limit_below_one_is_refused(layout, limit):
    folder, _, read = layout
    assert len(read(folder, limit=1)) == 1 and len(read(folder, limit=99)) == len(read(folder))
    with pytest.raises(UserError, match=f"1 or more, not {limit}"):
        read(folder, limit=limit)


def test_the_limit_of_a_source(tmp_path):
    aflw(tmp_path)
    assert len(sources.read(sources.Source("aflw2000", str(tmp_path), limit=1))) == 1
    with pytest.raises(UserError, match="limit = -1: must be at least 1"):
        sources.read(sources.Source("aflw2000", str(tmp_path), limit=-1))


def test_pictures_of_one_name_in_two_folders_are_two(tmp_path):
    for name in ("a/x.jpg", "b/x.png", "x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "y.jpg").mkdir()
    assert [p.relative_to(tmp_path).as_posix() for p in folders.listed(tmp_path, deep=True)] == [
        "a/x.jpg",
        "b/x.png",
        "x.jpg",
    ]
    assert folders.pictures(tmp_path) == [tmp_path / "x.jpg"]
    folders.once(map(PurePosixPath, ("x.0.jpg", "x.1.jpg")), "names")
    with pytest.raises(UserError, match="cannot be listed"):
        folders.pictures(Path(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["../out", "a/b", "nul", "..", "a\nb", "x" * 300])
def test_no_name_leads_out_of_the_folder_that_is_written(tmp_path, name):
    inside = tmp_path / "data"
    points, image = np.random.default_rng(0).uniform(1, 9, (68, 3)), np.zeros((9, 9, 3), np.uint8)
    scan = Scan(np.eye(3), np.array([[0, 1, 2]]), {30: np.zeros(3)})
    for write in (
        lambda: aflw2000.write_sample(inside, name, image, points, np.zeros(3), 0.5, points[0]),
        lambda: florence.write_subject(inside, name, scan, []),
        lambda: florence.write_subject(inside, "subject_01", scan, [(name, image, None)]),
    ):
        with pytest.raises(UserError, match="cannot be a file's name"):
            write()
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == []
