"""The files of a folder or an archive, read one after the other in memory: nothing is extracted, no link followed."""

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mlanet_lib.errors import UserError
from mlanet_lib.files.atomic import check_name

LARGEST, TOTAL, COUNT = 64 << 20, 2 << 30, 20_000  # bytes of one member and of all, and their number
Stream = BinaryIO | gzip.GzipFile | lzma.LZMAFile
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # an encrypted .zip; NotImplementedError: an unknown compression
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


def members(source: str | Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of the wanted file names, in the order of the source.

    source: a folder (its own files, not those of folders inside), a .zip, or a .tar, plain or packed by gzip or xz;
    recognised by its first bytes. Folders inside an archive are left out of the name.

    A source that is missing, no archive or damaged, and a member that is a link or a device, has no file's name
    (`files.check_name`), comes twice or is absurdly large, are UserErrors that name it. Memory: one member at a time.
    """
    source = Path(source)
    try:
        found: Iterator[tuple[str, bytes]]
        if source.is_dir():
            found = ((name, (source / name).read_bytes()) for name in sorted(wanted) if (source / name).is_file())
        else:
            found = _packed(source, wanted)
        seen = set()
        for path, content in found:
            name = PurePosixPath(path).name
            if name in seen:
                raise UserError(f"{source}: holds two files {name}")
            seen.add(name)
            yield name, content
    except _BROKEN as error:
        raise UserError(f"{source}: cannot be read as a folder or an archive ({error})") from error


def _packed(source: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with source.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"PK"):
            yield from _zip_members(source, file, wanted)
        elif magic == b"\xfd7zXZ\0":
            with lzma.open(file) as stream:
                yield from _tar_members(source, stream, wanted)
        elif magic.startswith(b"\x1f\x8b"):
            with gzip.open(file) as stream:
                yield from _tar_members(source, stream, wanted)
        else:
            yield from _tar_members(source, file, wanted)


def _zip_members(source: Path, file: BinaryIO, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if len(infos) > COUNT or sum(info.file_size for info in infos) > TOTAL:
            raise UserError(f"{source}: more than {COUNT} files or {TOTAL >> 20} MB unpacked")
        for info in infos:
            _check(source, info.orig_filename, info.file_size, info.external_attr >> 28 in (0, 4, 8))
            if not info.is_dir() and PurePosixPath(info.filename).name in wanted:
                yield info.filename, archive.read(info)


def _tar_members(source: Path, stream: Stream, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=_Bounded(stream, source), mode="r:") as archive:
        for number, info in enumerate(archive):
            if number == COUNT:
                raise UserError(f"{source}: more than {COUNT} files")
            _check(source, info.name, info.size, (info.isreg() or info.isdir()) and not info.issparse())
            if PurePosixPath(info.name).name in wanted and (file := archive.extractfile(info)):
                yield info.name, file.read()
            archive.members = []  # type: ignore[attr-defined]  # tarfile would remember every header


def _check(source: Path, name: str, size: int, plain: bool) -> None:
    for part in PurePosixPath(name).parts or ("",):
        check_name(part, f"{source}: member {name[:80]!r}: its part")
    if not plain:
        raise UserError(f"{source}: member {name[:80]!r} is a link or no plain file")
    if size > LARGEST:
        raise UserError(f"{source}: member {name[:80]!r} claims {size:,} bytes, more than {LARGEST >> 20} MB")


class _Bounded(io.RawIOBase):
    """An unpacked stream for tarfile, which trusts the sizes that headers claim: here they may not be absurd."""

    def __init__(self, stream: Stream, source: Path):
        super().__init__()
        self.stream, self.source = stream, source

    def tell(self) -> int:
        return self.stream.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._allow(offset - self.stream.tell())
        return self.stream.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        self._allow(size if size >= 0 else TOTAL + 1)
        return self.stream.read(size)

    def _allow(self, step: int) -> None:
        if step > LARGEST + tarfile.BLOCKSIZE or self.stream.tell() + step > TOTAL:
            raise UserError(f"{self.source}: claims more than {TOTAL >> 20} MB, or {LARGEST >> 20} MB in one file")
