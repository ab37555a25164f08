"""The manifest of licensed data: what it says, and that it notices what changed."""

import json
import os

import pytest

from mlanet_lib.data import manifest
from mlanet_lib.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set" / "sub").mkdir(parents=True)
    (tmp_path / "set" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "set" / "sub" / "b.mat").write_bytes(b"labels")
    return tmp_path / "set"


def test_it_counts_and_hashes_and_is_the_same_again(folder, tmp_path):
    record = manifest.write(tmp_path / "m.json", {"set": folder}, progress=False)
    assert (record["set"]["files"], record["set"]["bytes"]) == (2, 13)
    assert json.loads((tmp_path / "m.json").read_text()) == record
    (folder / "sub" / ".hidden").write_bytes(b"of no part")
    assert manifest.write(tmp_path / "n.json", {"set": folder}, progress=False) == record
    manifest.verify(tmp_path / "m.json", {"set": folder})
    (folder / "a.jpg").write_bytes(b"another")  # of the same size
    assert (
        manifest.write(tmp_path / "n.json", {"set": folder}, progress=False)["set"]["sha256"] != record["set"]["sha256"]
    )


def test_what_changed_is_said(folder, tmp_path):
    path = tmp_path / "m.json"
    with pytest.raises(UserError, match=r"not here yet.*mlanet data check"):
        manifest.verify(path, {"set": folder})
    manifest.write(path, {"set": folder}, progress=False)
    with pytest.raises(UserError, match="yaml names other"):
        manifest.verify(path, {"set": folder, "other": folder})
    (folder / "c.jpg").write_bytes(b"one more")
    with pytest.raises(UserError, match=r"no longer what.*3 files, 21 bytes"):
        manifest.verify(path, {"set": folder})
    for text in ("not JSON", "[]", '{"set": 1}'):
        path.write_text(text)
        with pytest.raises(UserError, match="is no manifest"):
            manifest.verify(path, {"set": folder})
    with pytest.raises(UserError, match="no such folder"):
        manifest.write(path, {"set": folder / "nothing"}, progress=False)


def test_a_file_that_cannot_be_read_is_named(folder, tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hashlib.file_digest", denied)
    with pytest.raises(UserError, match=r"a\.jpg: cannot be read \(Permission denied\)"):
        manifest.write(tmp_path / "m.json", {"set": folder}, progress=False)
    assert not (tmp_path / "m.json").exists()


def test_a_folder_that_cannot_be_read_is_not_passed_over(folder, tmp_path, monkeypatch):
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", denied)
    with pytest.raises(UserError, match=r"sub: cannot be read \(Permission denied\)"):
        manifest.write(tmp_path / "m.json", {"set": folder}, progress=False)
