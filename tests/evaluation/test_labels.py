"""The reannotated label set: matched to photos by name, refused where it cannot be."""

import io

import numpy as np
import pytest

from mlanet_lib.data.sets import aflw2000
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation import labels
from mlanet_lib.evaluation.labels import Reannotated, read_points

RIGHT = np.array([2.0, 0.0])


@pytest.fixture
def labelled(tmp_path):
    """Five photos, and their points 2 pixels to the right in 3DDFA's layout; the folder, the samples, the rows."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "aflw"
    for k in range(5):
        points = np.column_stack([rng.uniform(40, 160, (68, 2)), rng.uniform(900, 1000, 68)])
        image, origin = np.zeros((200, 200, 3), np.uint8), np.array([100.0, 100, 950])
        aflw2000.write_sample(folder, f"image{k:05d}", image, points, np.zeros(3), 0.5, origin)
    samples = aflw2000.read_folder(folder)
    rows = np.stack([sample.landmarks.T for sample in samples]) + 0.5  # counted from 1
    return folder, samples, np.concatenate([rows + RIGHT[:, None], np.ones((5, 1, 68))], 1).astype(np.float32)


def read_reannotated(path, folder, samples, names=None):
    """With a list of names, or the file that holds it."""
    if isinstance(names, list):
        (path.parent / "names.list").write_text("\n".join(names))
        names = path.parent / "names.list"
    return labels.read_reannotated(Reannotated(path, names), folder, samples)


def saved(tmp_path, rows):
    np.save(tmp_path / "re.npy", rows)
    return tmp_path / "re.npy"


@pytest.mark.parametrize("dimensions", [2, 3])
def test_rows_follow_the_sorted_names(labelled, tmp_path, dimensions):
    folder, samples, rows = labelled
    points = read_reannotated(saved(tmp_path, rows[:, :dimensions]), folder, samples[1:3])
    assert np.allclose(points, [sample.landmarks + RIGHT for sample in samples[1:3]], atol=1e-3)


def test_a_list_of_names_says_the_order(labelled, tmp_path):
    folder, samples, rows = labelled
    order = [3, 1, 4, 0, 2]
    path, names = saved(tmp_path, rows[order]), [samples[k].name for k in order]
    wanted = [sample.landmarks + RIGHT for sample in samples]
    assert np.allclose(read_reannotated(path, folder, samples, names), wanted, atol=1e-3)
    (tmp_path / "crop.list").write_text("\n".join(f"crops/{name}" for name in names) + "\n")
    assert np.allclose(read_reannotated(path, folder, samples, tmp_path / "crop.list"), wanted, atol=1e-3)
    more = np.concatenate([rows[order], rows[:1]])
    extended = read_reannotated(saved(tmp_path, more), folder, samples, [*names, "image99999.jpg"])
    assert np.allclose(extended, wanted, atol=1e-3)
    with pytest.raises(UserError, match=r"no row for image00002\.jpg"):
        read_reannotated(saved(tmp_path, rows[:4]), folder, samples, names[:4])
    with pytest.raises(UserError, match="a name twice"):
        read_reannotated(saved(tmp_path, rows), folder, samples, [*names[:4], names[0]])
    with pytest.raises(UserError, match="rows are of other photos"):
        read_reannotated(saved(tmp_path, rows), folder, samples, names)


def test_points_of_another_system_are_matched_by_name_and_once(labelled, tmp_path):
    _, samples, _ = labelled
    names, points = np.array([s.name for s in samples]), np.stack([s.landmarks for s in samples])
    path = tmp_path / "points.npz"
    np.savez(path, names=names[::-1], landmarks68=points[::-1] + 0.5)
    assert np.allclose(read_points(path, samples), points)
    far = np.where(np.arange(5)[:, None, None] == 2, np.inf, points)
    for more, said in (
        ({"names": np.append(names, names[:1]), "landmarks68": np.append(points, points[:1], 0)}, "photo twice"),
        ({"names": names[:4], "landmarks68": points[:4]}, f"no points for {names[4]}"),
        ({"names": np.array("a.jpg"), "landmarks68": points}, "landmarks68 is"),
        ({"names": names, "landmarks68": far}, "not finite"),
        ({"names": names}, "no field 'landmarks68'"),
    ):
        np.savez(path, **more)
        with pytest.raises(UserError, match=said):
            read_points(path, samples)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # numpy leaves a broken zip open
def test_names_with_spaces_and_broken_files_of_labels(labelled, tmp_path):
    folder, samples, rows = labelled
    lines = [f"crops of faces/{sample.name}" for sample in samples]
    (tmp_path / "list.txt").write_text("\ufeff" + "\r\n".join([*lines, "", ""]))
    points = read_reannotated(saved(tmp_path, rows), folder, samples, tmp_path / "list.txt")
    assert np.allclose(points, [sample.landmarks + RIGHT for sample in samples], atol=1e-3)
    for content in (b"PK\3\4 no zip", b"\x93NUMPY\1\0", rows_that_claim(10**12), b""):
        (tmp_path / "broken.npy").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            read_reannotated(tmp_path / "broken.npy", folder, samples)


def rows_that_claim(count):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (count, 2, 68)})
    return stream.getvalue() + b"\0" * 64


def test_what_cannot_be_matched_is_refused(labelled, tmp_path):
    folder, samples, rows = labelled
    with pytest.raises(UserError, match=r"has 4 rows, aflw has 5 photos"):
        read_reannotated(saved(tmp_path, rows[:4]), folder, samples)
    with pytest.raises(UserError, match=r"has 5 rows, the list names 1 photos"):
        read_reannotated(saved(tmp_path, rows), folder, samples, ["a.jpg"])
    for wrong, said in ((rows[:, :, :21], "68"), (np.where(rows > 100, np.nan, rows), "finite"), (rows[0], "2000")):
        with pytest.raises(UserError, match=said):
            read_reannotated(saved(tmp_path, wrong), folder, samples)
    np.save(tmp_path / "object.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        read_reannotated(tmp_path / "object.npy", folder, samples)
    np.savez(tmp_path / "many.npz", a=rows)
    with pytest.raises(UserError, match="an archive"):
        read_reannotated(tmp_path / "many.npz", folder, samples)
    with pytest.raises(UserError, match="cannot be read"):
        read_reannotated(tmp_path / "nowhere.npy", folder, samples)


def test_the_real_folder_of_200_is_not_the_list_of_2000(shared_data, tmp_path):
    folder = shared_data / "AFLW2000_dev"
    samples = aflw2000.read_folder(folder, limit=3)
    with pytest.raises(UserError, match=r"2,000 rows, AFLW2000_dev has 200 photos"):
        read_reannotated(saved(tmp_path, np.ones((2000, 2, 68), np.float32)), folder, samples)
