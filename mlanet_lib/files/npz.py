"""Reading `.npz` files from untrusted sources: nothing is unpickled, every header is checked."""

import math
import mmap
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from mlanet_lib.errors import UserError

LARGEST = 1 << 30
"""Bytes that the arrays of one file may take."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: str | Path, what: str = ".npz file", largest: int = LARGEST) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` by name; `what`: the kind of file in messages.

    A file that is missing, damaged, or holds Python objects, text that is none, a field twice, more than `largest`
    bytes unpacked, or an array whose header claims another size than the file holds, is a UserError that names it.
    Memory stays in proportion to what is really there: a claim of 10^12 rows is refused before anything is reserved.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_twice(members)
            if sum(info.file_size for info in members) > largest:
                raise ValueError(f"it claims to hold more than {largest >> 20} MB")
            return {_name(info): _read(archive, info) for info in members}
    except Exception as error:  # zipfile and numpy raise whatever the broken bytes lead them to
        raise UserError(f"{path} is not a readable {what}: {error or type(error).__name__}") from error


class Mapped(NamedTuple):
    """Arrays by name that stay on the disk until they are looked at, read-only. `release` takes what was looked at out
    of this process's memory again; the system keeps it as long as it has room."""

    arrays: dict[str, np.ndarray]
    release: Callable[[], None]


def map_npz(path: str | Path, what: str = ".npz file") -> Mapped:
    """`read_npz` of a file of any size: fields that are not packed (`numpy.savez`) are mapped from the disk.

    The file is read once in pieces, so that damage is found as there. Packed fields, text, and those in Fortran's order
    are read whole, and together may not hold more than `LARGEST` bytes. A file that is replaced later is not followed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_twice(members)
            headers = {_name(info): (info, *_header(archive, info)) for info in members}
            kept = {name: _is_plain(*header) for name, header in headers.items()}
            if sum(info.file_size for name, (info, *_) in headers.items() if not kept[name]) > LARGEST:
                raise ValueError(f"its packed fields claim to hold more than {LARGEST >> 20} MB")
            whole = {name: _read(archive, info) for name, (info, *_) in headers.items() if not kept[name]}
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            arrays = {}
            for name, (info, header, begin) in headers.items():
                if kept[name]:
                    with archive.open(info) as stream:
                        while stream.read(1 << 20):  # zipfile compares the checksum at the end
                            pass
                    arrays[name] = _at(mapped, header, _data_of(mapped, info) + begin)
            return Mapped(whole | arrays, lambda: mapped.madvise(mmap.MADV_DONTNEED))
    except Exception as error:  # zipfile and numpy raise whatever the broken bytes lead them to
        raise UserError(f"{path} is not a readable {what}: {error or type(error).__name__}") from error


def map_npy(path: Path) -> Mapped:
    """The array of an `.npy` file, under the name "", mapped from the disk.

    FileNotFoundError if it is not there, ValueError if it is damaged, holds Python objects, or less than it claims.
    """
    with path.open("rb") as file:
        shape, fortran, dtype = _header_of(file, path.name)
        begin = file.tell()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header = _Header(shape, fortran, dtype)
    if fortran or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > len(mapped) - begin:
        raise ValueError(f"its header claims {shape} {dtype}, which it does not hold")
    return Mapped({"": _at(mapped, header, begin)}, lambda: mapped.madvise(mmap.MADV_DONTNEED))


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _check_twice(members: list[zipfile.ZipInfo]) -> None:
    if len({info.filename for info in members}) < len(members):
        raise ValueError("it holds a field twice")


def _header_of(stream: IO[bytes], name: str) -> _Header:
    """The header that an array begins with; ValueError for Python objects and versions that NumPy does not write."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"field '{name}' is of the unknown .npy version {version}")
    header = _Header(*_HEADERS[version](stream))
    if header.dtype.hasobject:
        raise ValueError(f"field '{name}' holds pickled Python objects")
    return header


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[_Header, int]:
    """A member's header, checked against the member's size, and the byte in the member at which its data begin."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"field '{info.filename}' is packed in a way that NumPy does not write")
    with archive.open(info) as stream:
        header = _header_of(stream, info.filename)
        begin = stream.tell()
    shape, dtype = header.shape, header.dtype
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed != info.file_size - begin:
        raise ValueError(f"field '{info.filename}' claims {shape} {dtype}, which is not what it holds")
    return header, begin


def _is_plain(info: zipfile.ZipInfo, header: _Header, begin: int) -> bool:
    """Whether a field can be mapped: neither packed nor text, whose characters are to be checked, nor empty."""
    return (
        info.compress_type == zipfile.ZIP_STORED
        and info.compress_size == info.file_size
        and header.dtype.kind != "U"
        and not header.fortran
        and info.file_size > begin
    )


def _data_of(mapped: mmap.mmap, info: zipfile.ZipInfo) -> int:
    """The byte of the file at which a member's content begins: after its local header, name and extra field."""
    name, extra = struct.unpack_from("<HH", mapped, info.header_offset + 26)
    return info.header_offset + 30 + name + extra


def _at(mapped: mmap.mmap, header: _Header, begin: int) -> np.ndarray:
    return np.ndarray(header.shape, header.dtype, mapped, begin)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    (_, _, dtype), _ = _header(archive, info)
    with archive.open(info) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    if dtype.kind == "U" and array.nbytes:
        codes = np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(-1).view(np.uint32)
        if codes.max() > sys.maxunicode:  # a str that Python itself stumbles over
            raise ValueError(f"field '{info.filename}' holds text that is not Unicode")
    return array
