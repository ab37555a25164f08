"""Files of arrays mapped from the disk: what is read, what is mapped, and damage."""

import zipfile

import numpy as np
import pytest

from mlanet_lib.errors import UserError
from mlanet_lib.files.npz import map_npy, map_npz, read_npz

FIELDS = {
    "a": np.arange(12.0).reshape(4, 3),
    "names": np.array(["x", "yy"]),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 5), np.float32),
    "one": np.float64(0.5),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_is_mapped_is_what_is_read(save, tmp_path):
    save(tmp_path / "f.npz", **FIELDS)
    mapped, read = map_npz(tmp_path / "f.npz"), read_npz(tmp_path / "f.npz")
    assert mapped.arrays.keys() == read.keys() == FIELDS.keys()
    for name, value in FIELDS.items():
        assert np.array_equal(mapped.arrays[name], value) and mapped.arrays[name].dtype == value.dtype
    assert mapped.arrays["a"].flags.writeable == (save is np.savez_compressed)
    mapped.release()
    assert np.array_equal(mapped.arrays["a"], FIELDS["a"])


def test_damage_is_found_when_a_file_is_mapped(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, a=np.zeros(1000))
    content = bytearray(path.read_bytes())
    for change, message in (
        (slice(4000, 4001), "CRC"),  # in the data
        (slice(len(content) - 30, len(content)), "zip"),  # in the directory
    ):
        damaged = bytearray(content)
        damaged[change] = b"\x55" * (change.stop - change.start)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"f.npz is not a readable labels file: .*{message}"):
            map_npz(path, "labels file")
    with pytest.raises(UserError, match="no such file"):
        map_npz(tmp_path / "none.npz")


def test_what_is_refused_when_read_is_refused_when_mapped(tmp_path):
    objects = tmp_path / "objects.npz"
    np.savez(objects, a=np.array([{}], object))
    with pytest.raises(UserError, match="pickled Python objects"):
        map_npz(objects)
    twice = tmp_path / "twice.npz"
    np.savez(twice, a=np.zeros(3))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("a.npy", archive.read("a.npy"))
    with pytest.raises(UserError, match="a field twice"):
        map_npz(twice)
    claims = tmp_path / "claims.npz"
    np.savez(claims, a=np.zeros(1000))  # more than zipfile reads at once, so that no checksum is compared before
    claims.write_bytes(claims.read_bytes().replace(b"(1000,)", b"(9999,)"))
    with pytest.raises(UserError, match="which is not what it holds"):
        map_npz(claims)


def test_one_array(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, FIELDS["a"])
    assert np.array_equal(map_npy(path).arrays[""], FIELDS["a"])
    np.save(path, FIELDS["empty"])
    assert map_npy(path).arrays[""].shape == (0, 5)
    np.save(path, FIELDS["a"])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="does not hold"):
        map_npy(path)
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickled"):
        map_npy(path)
