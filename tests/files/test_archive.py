"""Reading folders and archives in memory: what is wanted comes, and nothing hostile is followed, believed or run."""

import io
import lzma
import tarfile
import zipfile

import pytest

from mlanet_lib.errors import UserError
from mlanet_lib.files import archive

FILES = {"a.obj": b"v 1 2 3\n", "b.json": b"{}", "c.obj": b"x" * 1500}
WANTED = {"a.obj", "c.obj"}


def tar_bytes(entries) -> bytes:
    """entries: (name or TarInfo, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, content in entries:
            info = info if isinstance(info, tarfile.TarInfo) else tarfile.TarInfo(info)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write(path, kind: str, files=None, folder="FaceXModel/"):
    files = [(folder + name, content) for name, content in files or FILES.items()]
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in files:
                packed.writestr(name, content)
    else:
        content = tar_bytes(files)
        path.write_bytes(lzma.compress(content) if kind == "tar.xz" else content)
        if kind == "tar.gz":
            with tarfile.open(path, "w:gz") as tar:
                for name, data in files:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return path


def read(path) -> dict[str, bytes]:
    return dict(archive.members(path, WANTED))


def refused(path, *words):
    with pytest.raises(UserError) as caught:
        read(path)
    for word in (path.name, *words):
        assert word in str(caught.value), caught.value


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_the_wanted_files_come_whatever_the_archive(tmp_path, kind):
    assert read(write(tmp_path / "any.name", kind)) == {name: FILES[name] for name in WANTED}


def test_a_folder_reads_alike(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "inside").mkdir()
    assert read(tmp_path) == {name: FILES[name] for name in WANTED}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize(
    "name", ["../a.obj", "/etc/a.obj", "x/../../a.obj", "C:/a.obj", "..\\a.obj", "x/nul", "a\n.obj"]
)
def test_names_that_lead_out_are_refused(tmp_path, kind, name):
    refused(write(tmp_path / "trick", kind, [(name, b"")], folder=""), "cannot be a file's name")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.xz"])
def test_a_file_that_comes_twice_is_refused(tmp_path, kind):
    path = write(tmp_path / "twice", kind, [("one/a.obj", b"1"), ("two/a.obj", b"2")])
    refused(path, "two files a.obj")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("a.obj")
    info.type, info.linkname = kind, "/etc/passwd"
    (tmp_path / "link.tar").write_bytes(tar_bytes([(info, b"")]))
    refused(tmp_path / "link.tar", "link")


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("a.obj")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as packed:
        packed.writestr(info, "/etc/passwd")
    refused(tmp_path / "link.zip", "link")


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_absurd_sizes_in_a_header_are_refused_before_they_are_read(tmp_path, kind):
    info = tarfile.TarInfo("a.obj")
    info.type, info.size = kind, 7 << 30
    (tmp_path / "huge.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096)
    refused(tmp_path / "huge.tar", "64 MB")


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "LARGEST", 1 << 16)
    for kind in ("zip", "tar.gz", "tar.xz"):
        path = write(tmp_path / f"bomb.{kind}", kind, [("a.obj", b"\0" * (1 << 20))])
        assert path.stat().st_size < 1 << 16
        refused(path, "more than")
    monkeypatch.setattr(archive, "TOTAL", 1 << 17)
    for kind in ("zip", "tar.gz", "tar.xz"):
        refused(write(tmp_path / f"many.{kind}", kind, [(f"{k}", b"\0" * 60_000) for k in range(9)]), "more than")
    monkeypatch.setattr(archive, "COUNT", 3)
    for kind in ("zip", "tar"):
        refused(write(tmp_path / f"count.{kind}", kind, [(f"{k}", b"") for k in range(9)]), "more than 3 files")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_no_cut_or_flipped_archive_crashes(tmp_path, kind):
    whole = write(tmp_path / "whole", kind).read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 40)):
        for damaged in (whole[:cut], whole[:cut] + bytes([whole[cut] ^ 0x5A]) + whole[cut + 1 :]):
            (tmp_path / "damaged").write_bytes(damaged)
            try:
                found = read(tmp_path / "damaged")
            except UserError as error:
                assert "damaged" in str(error)
            else:
                assert set(found) <= WANTED


def test_what_is_no_archive_is_said(tmp_path):
    refused(tmp_path / "missing.zip", "No such file")
    (tmp_path / "page.zip").write_text("<html>not found</html>" * 99)
    refused(tmp_path / "page.zip", "cannot be read as a folder or an archive")


def test_a_member_without_a_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("x", b"")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    directory, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    content[end + 12 : end + 16] = (46).to_bytes(4, "little")  # the directory's length
    content[directory + 28 : directory + 30] = bytes(2)  # the name's
    del content[end - 1]
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match="cannot be a file's name"):
        list(archive.members(tmp_path / "a.zip", {"x"}))
