import os
import socket
import subprocess

import pytest

from mlanet_lib import files
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


def test_what_a_killed_process_left_is_removed_and_what_others_write_is_not(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    host = socket.gethostname()
    parts = {
        "dead": f".a.txt.{host}.{gone.pid}.{'0' * 16}.part",
        "alive": f".a.txt.{host}.{os.getppid()}.{'0' * 16}.part",
        "reused": f".a.txt.{host}.{os.getpid()}.{'0' * 16}.part",  # this process's number, but not this process
        "elsewhere": f".a.txt.x{host}.{gone.pid}.{'0' * 16}.part",
        "a user's": f".a.txt.{gone.pid}.part",
    }
    for name in parts.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / ".tmpXYZ").write_text("half")  # as a library calls its own temporary file
    with atomic_path(tmp_path / "b.txt") as outer:
        outer.write_text("outer")
        with atomic_path(tmp_path / "a.txt") as inner:
            inner.write_text("inner")
        files._sweep.cache_clear()
        with atomic_path(tmp_path / "c.txt") as other:  # the sweep leaves alone what this process is writing
            other.write_text("other")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.txt", "b.txt", "c.txt", *(parts[name] for name in ("alive", "elsewhere", "a user's"))}


def test_the_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "a.txt") as path:
        path.touch(mode=0o600)
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_names_from_outside_lead_nowhere():
    for name in (
        "..",
        ".",
        "",
        "../../evil",
        "a/b",
        "a\\b",
        "C:evil",
        "nul",
        "COM1.txt",
        "a\nb",
        "a\0b",
        "x" * 300,
        "\udcff",
    ):
        safe = files.safe_name(name)
        assert safe == files.safe_name(safe) and "/" not in safe and safe.strip(". ")
        assert os.path.normpath(f"/folder/{safe}") == f"/folder/{safe}"
        assert safe.encode("utf-8") and len(safe.encode()) <= 200
        with pytest.raises(UserError, match="variant"):
            files.check_name(name, "variant")
    for name in ("full", "no_attention", "photo 1", "Zoë", "a.b-c", "..a"):
        assert files.check_name(name, "variant") == name
