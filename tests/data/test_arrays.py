"""The format of the training arrays: what is written is read, and every way the two files can be wrong."""

import numpy as np
import pytest
from toy_data import write_toy_split

from mlanet_lib.data import arrays
from mlanet_lib.errors import UserError
from mlanet_lib.geometry.camera import DEFAULT_FOCAL
from mlanet_lib.parameters import FaceParameters

COUNT, SIDE = 6, 16
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)


def labels(**changes) -> dict[str, np.ndarray]:
    fields = {"kind": np.arange(COUNT) % 2 + 1, "landmarks": np.zeros((COUNT, 68, 2)), "visible": np.ones((COUNT, 68))}
    return {name: value for name, value in (fields | changes).items() if value is not None}


def write(folder, **changes):
    with arrays.writing(folder, SIDE) as writer:
        writer.put(3, IMAGES[3:])  # in any order, by any process
        writer.put(0, IMAGES[:3])
        writer.finish(labels(**changes))
    return folder


def test_what_is_written_is_read(tmp_path, toy_model):
    images, fields = arrays.read(write(tmp_path, names=np.array(list("abcdef"))))
    assert np.array_equal(images, IMAGES) and np.array_equal(fields["kind"], labels()["kind"])
    assert (fields["confidence"] == 1).all() and not fields["points_set"].any() and fields["names"][5] == "f"
    mapped = arrays.read_for(tmp_path, toy_model)
    fields = mapped.labels
    assert np.array_equal(mapped.images, IMAGES) and not mapped.images.flags.writeable
    assert not fields["landmarks"].flags.owndata and fields["identity"].strides == (0, 0)  # neither is in memory
    assert fields["identity"].shape == (COUNT, toy_model.n_identity) and np.isnan(fields["identity"]).all()
    assert (fields["focal"] == DEFAULT_FOCAL).all() and set(FaceParameters.names()) < set(fields)
    assert fields["known"].shape == (COUNT, toy_model.n_identity + toy_model.n_expression)
    assert (fields["known"] == 1).all() and (fields["person"] == -1).all()  # all is told, and nobody is named
    arrays.write_labels(tmp_path, labels(kind=np.ones(COUNT, int)))
    assert arrays.read(tmp_path)[1]["kind"].all()


def test_rows_are_repeated(tmp_path):
    arrays.repeat(write(tmp_path, names=np.array(list("abcdef"))), 3)
    images, fields = arrays.read(tmp_path)
    assert np.array_equal(images, np.concatenate([IMAGES] * 3))
    assert "".join(fields["names"]) == "abcdef" * 3 and fields["kind"].tolist() == [1, 2] * 9


def test_a_failure_leaves_the_older_arrays_both(tmp_path):
    before = {path.name: path.read_bytes() for path in write(tmp_path).iterdir()}
    with pytest.raises(UserError, match="no more"), arrays.writing(tmp_path, 2 * SIDE) as writer:
        writer.put(0, IMAGES)
        raise UserError("no more")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": None, "other": np.zeros(COUNT)}, r"labels\.npz: no field 'kind'"),
        ({"visible": np.ones((COUNT, 67))}, r"'visible' has shape \(6, 67\), not \(6, 68\)"),
        ({"landmarks": np.zeros((COUNT - 1, 68, 2))}, r"'landmarks' has shape \(5, 68, 2\), not \(6, 68, 2\)"),
        ({"visible": np.full((COUNT, 68), "x")}, "'visible' has the wrong type"),
        ({"points_set": np.full(COUNT, 2)}, r"'points_set' holds other numbers than 0 \(3ddfa\), 1 \(ibug\)"),
        ({"landmarks": np.full((COUNT, 68, 2), np.nan)}, "'landmarks' holds numbers that are not finite"),
        ({"identity": np.zeros((COUNT, 99))}, r"'identity' has shape \(6, 99\), but 6 crops and the face model 'toy'"),
        ({"kind": np.zeros(COUNT, int)}, "no field 'identity'"),
        ({"known": np.ones((COUNT, 8))}, r"'known' has shape \(6, 8\), not \(6, 9\)"),
        ({"person": np.zeros((COUNT, 1), int)}, r"'person' has shape \(6, 1\), not \(6,\)"),
        ({"person": np.array(list("abcdef"))}, "'person' has the wrong type"),
        ({"rotation_bfm": np.zeros((COUNT, 9))}, r"'rotation_bfm' has shape \(6, 9\), not \(6, 3, 3\)"),
    ],
)
def test_labels_that_are_wrong(tmp_path, toy_model, changes, message):
    write(tmp_path)
    arrays.write_labels(tmp_path, labels(**changes))
    with pytest.raises(UserError, match=message):
        arrays.read_for(tmp_path, toy_model)


def test_pictures_that_are_wrong(tmp_path):
    with pytest.raises(UserError, match=r"training data not found: .*images\.npy"):
        arrays.read(tmp_path)
    write(tmp_path)
    for array in (IMAGES[..., :2], IMAGES[:, 1:], IMAGES.astype(float)):
        np.save(tmp_path / "images.npy", array)
        with pytest.raises(UserError, match=r"images\.npy: not uint8 \(N, S, S, 3\)"):
            arrays.read(tmp_path)
    (tmp_path / "images.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"images\.npy: not a readable array"):
        arrays.read(tmp_path)


def test_numbers_that_a_row_needs_must_be_finite(tmp_path, toy_model):
    folder = write_toy_split(toy_model, tmp_path, COUNT, kinds=(0, 1))
    fields = dict(np.load(folder / "labels.npz"))
    fields["albedo"][0] = np.nan  # a fit does not know it
    fields["identity"][1] = np.nan  # nor a row with landmarks alone
    arrays.write_labels(folder, fields)
    arrays.read_for(folder, toy_model)
    fields["identity"][0] = np.nan
    arrays.write_labels(folder, fields)
    with pytest.raises(UserError, match="'identity' holds numbers that are not finite"):
        arrays.read_for(folder, toy_model)
