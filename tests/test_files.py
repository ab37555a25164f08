import pytest

from mlanet_lib.errors import UserError
from mlanet_lib.files import atomic_path


def test_a_success_replaces_and_a_failure_leaves_the_old_file(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic_path(target) as path:
        path.write_text("one")
    assert path.suffix == ".txt" and target.read_text() == "one"
    with pytest.raises(RuntimeError), atomic_path(target) as path:
        path.write_text("half of tw")
        raise RuntimeError("killed")
    assert target.read_text() == "one"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_what_the_disk_refuses_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*b\.txt"), atomic_path(tmp_path / "file" / "b.txt") as path:
        path.write_text("never")
    with pytest.raises(UserError, match="cannot write"), atomic_path(tmp_path / "c.txt"):
        raise OSError(28, "No space left on device")
    assert not (tmp_path / "c.txt").exists()
