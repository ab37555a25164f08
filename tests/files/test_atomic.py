import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlanet_lib.errors import UserError
from mlanet_lib.files import atomic
from mlanet_lib.files.atomic import atomic_path, together
from mlanet_lib.files.outputs import MARK, check_target


def test_a_success_replaces_and_a_failure_leaves_the_old_file(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic_path(target) as path:
        path.write_text("one")
    assert path.suffix == ".txt" and target.read_text() == "one"
    with atomic_path(tmp_path / "w.safetensors") as path:
        path.touch()
    assert path.suffix == ".safetensors"
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
        atomic._sweep.cache_clear()
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
        safe = atomic.safe_name(name)
        assert safe == atomic.safe_name(safe) and "/" not in safe and safe.strip(". ")
        assert os.path.normpath(f"/folder/{safe}") == f"/folder/{safe}"
        assert safe.encode("utf-8") and len(safe.encode()) <= 200
        with pytest.raises(UserError, match="variant"):
            atomic.check_name(name, "variant")
    assert atomic.safe_name("é" * 300) == "é" * 100 and len(atomic.safe_name("a" * 10**7)) == 200  # at once
    for name in ("full", "no_attention", "photo 1", "Zoë", "a.b-c", "..a"):
        assert atomic.check_name(name, "variant") == name


def write(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real/a.txt")
    (tmp_path / "dangling.txt").symlink_to("real/b.txt")
    for name in ("link.txt", "dangling.txt"):
        write(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink() and (tmp_path / name).read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["a.txt", "b.txt"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "loop", "new")


def test_a_device_and_a_fifo_are_written_through(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_text("can be used here")
    except OSError:  # no right to make one, or to use it: the system's own, which nobody but root could break
        device = Path("/dev/null")
    write(device, "gone")
    assert device.is_char_device()
    os.mkfifo(tmp_path / "fifo")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "fifo").read_text()))
    reader.start()
    write(tmp_path / "fifo", "through")
    reader.join(10)
    assert read == ["through"] and (tmp_path / "fifo").is_fifo()
    with pytest.raises(UserError, match="No space left"):
        write("/dev/full", "x" * 100_000)


def test_what_stdout_is_redirected_to_is_not_replaced(tmp_path):
    code = "from mlanet_lib.files.atomic import atomic_path\nprint('before', flush=True)\n"
    code += "with atomic_path('/dev/stdout') as path: path.write_text('json\\n')\nprint('after')"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\njson\nafter\n"


def test_targets_are_judged_before_the_work(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    (given / "labels.json").write_text("{}")
    (tmp_path / "link.json").symlink_to(given / "labels.json")
    for path, words in (
        (tmp_path, "it is a folder"),
        (given / "labels.json" / "x.json", "is not a folder"),
        (given / "labels.json", "is an input"),
        (tmp_path / "link.json", "is an input"),
    ):
        with pytest.raises(UserError, match=words):
            check_target(path, [given])
    for path in (given / "new.json", tmp_path / "other" / "x.json", Path("/dev/null")):
        check_target(path, [given])
    assert not (tmp_path / "other").exists()
    (tmp_path / "notes.txt").write_text("somebody's")
    with pytest.raises(UserError, match=r"notes\.txt is there already, and mlanet did not write it"):
        check_target(tmp_path / "notes.txt")
    (tmp_path / "own.json").write_text(f'{{"generator": "{MARK}"}}')
    (tmp_path / "empty.json").touch()
    check_target(tmp_path / "own.json")
    check_target(tmp_path / "empty.json")


def test_files_that_belong_together_replace_all_or_none(tmp_path):
    def place(text, **options):
        with together(tmp_path, **options) as folder:
            for name in ("a.obj", "a.json"):
                (folder / name).write_text(text)

    place("old")
    with pytest.raises(UserError, match=r"a\.obj is there already"):
        place("new", may_replace=lambda path: path.suffix == ".json")
    (tmp_path / "a.obj").unlink()
    (tmp_path / "a.obj").symlink_to("/dev/null")
    with pytest.raises(UserError, match=r"a\.obj is there already"):
        place("new")
    assert (tmp_path / "a.json").read_text() == "old" and sorted(os.listdir(tmp_path)) == ["a.json", "a.obj"]
    (tmp_path / "a.obj").unlink()
    place("new")
    assert {(tmp_path / name).read_text() for name in os.listdir(tmp_path)} == {"new"}


def test_where_one_file_cannot_be_moved_the_old_ones_are_put_back(tmp_path, monkeypatch):
    """Some were there before, some not; with and without hard links."""

    def place(text, *names):
        with together(tmp_path) as folder:
            for name in names:
                (folder / name).write_text(text)

    def no_links(*_):
        raise OSError(1, "Operation not permitted")

    def third_fails(path, goal):
        if Path(goal).name == "c.obj":
            raise OSError(28, "No space left on device")
        return replace(path, goal)

    replace = Path.replace
    place("old", "a.obj", "c.obj")
    for link in (os.link, no_links):
        monkeypatch.setattr(os, "link", link)
        monkeypatch.setattr(Path, "replace", third_fails)
        with pytest.raises(UserError, match="No space left"):
            place("new", "a.obj", "b.obj", "c.obj", "d.json")
        monkeypatch.setattr(Path, "replace", replace)
        assert {name: (tmp_path / name).read_text() for name in os.listdir(tmp_path)} == {
            "a.obj": "old",
            "c.obj": "old",
        }
    place("new", "a.obj", "b.obj", "c.obj")
    assert {(tmp_path / name).read_text() for name in os.listdir(tmp_path)} == {"new"}


def test_long_names_are_written(tmp_path):
    write(tmp_path / f"{'x' * 250}.txt", "text")
    assert (tmp_path / f"{'x' * 250}.txt").read_text() == "text"
