"""Reading `.npz` and `.mat` files that nobody vouches for: nothing is unpickled, no header believed unchecked."""

import math
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

from mlanet_lib.errors import UserError

LARGEST = 1 << 30
"""Bytes that the arrays of one file may take."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_COMPRESSED, _MATRIX, _COMPLEX = 15, 14, 0x800  # tags of a MATLAB 5 file, and a flag
_PLAIN_CLASSES = {4, *range(6, 16)}  # text, and numbers of every size
_PLAIN_DATA = {*range(1, 8), 9, 12, 13, 16, 17, 18}
_LONGEST_HEAD = 1 << 16


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
            if len({info.filename for info in members}) < len(members):
                raise ValueError("it holds a field twice")
            if sum(info.file_size for info in members) > largest:
                raise ValueError(f"it claims to hold more than {largest >> 20} MB")
            return {info.filename.removesuffix(".npy"): _read(archive, info) for info in members}
    except Exception as error:  # zipfile and numpy raise whatever the broken bytes lead them to
        raise UserError(f"{path} is not a readable {what}: {error or type(error).__name__}") from error


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"field '{info.filename}' is packed in a way that NumPy does not write")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"field '{info.filename}' is of the unknown .npy version {version}")
        shape, _, dtype = _HEADERS[version](stream)
        if dtype.hasobject:
            raise ValueError(f"field '{info.filename}' holds pickled Python objects")
        claimed = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or claimed != info.file_size - stream.tell():
            raise ValueError(f"field '{info.filename}' claims {shape} {dtype}, which is not what it holds")
    with archive.open(info) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    if dtype.kind == "U" and array.nbytes:
        codes = np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(-1).view(np.uint32)
        if codes.max() > sys.maxunicode:  # a str that Python itself stumbles over
            raise ValueError(f"field '{info.filename}' holds text that is not Unicode")
    return array


def mat_fields(path: str | Path) -> dict[str, tuple[int, ...] | None]:
    """Shapes of the fields of a MATLAB 5 file by name; None: neither real numbers nor text (a cell, a struct, ...).

    SciPy's reader takes the type of a field's data for an index into a table without looking, and a damaged file ends
    the process: only fields that have a shape here may be given to it. A damaged file is a ValueError, struct.error or
    zlib.error. Only the heads of the fields are read and unpacked.
    """
    found: dict[str, tuple[int, ...] | None] = {}
    with Path(path).open("rb") as file:
        said = file.read(128)[124:]
        if said not in (b"\0\1IM", b"\1\0MI"):
            raise ValueError("not of MATLAB's version 5; save it with -v7")
        order = "<" if said.endswith(b"IM") else ">"
        while len(tag := file.read(8)) == 8:
            kind, length = struct.unpack(f"{order}II", tag)
            after = file.tell() + length
            head = tag + file.read(min(length, _LONGEST_HEAD))
            if kind == _COMPRESSED:
                head = zlib.decompressobj().decompress(head[8:], _LONGEST_HEAD)
            name, shape = _mat_head(head, order)
            if name in found:
                raise ValueError(f"field '{name}' is there twice")
            found[name] = shape
            file.seek(after)
    return found


def _mat_head(head: bytes, order: str) -> tuple[str, tuple[int, ...] | None]:
    """Name and shape of the matrix that begins with `head`; no shape where it holds neither real numbers nor text."""
    if struct.unpack_from(f"{order}I", head)[0] != _MATRIX:
        raise ValueError("a part is no matrix")
    flags = struct.unpack_from(f"{order}I", head, 16)[0]
    _, sizes, at = _mat_element(head, order, 24)
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    _, name, at = _mat_element(head, order, at)
    plain = flags & 0xFF in _PLAIN_CLASSES and not flags & _COMPLEX
    if plain and (_mat_element(head, order, at)[0] not in _PLAIN_DATA or min(shape, default=0) < 0):
        raise ValueError(f"field {name[:60].decode('latin-1')!r} holds neither numbers nor text")
    return name.decode("latin-1"), shape if plain else None


def _mat_element(head: bytes, order: str, at: int) -> tuple[int, bytes, int]:
    """Type and content of the element at an offset, and where the next begins; of up to 4 bytes the tag is short."""
    kind, length = struct.unpack_from(f"{order}II", head, at)
    if kind >> 16:
        return kind & 0xFFFF, head[at + 4 : at + 4 + min(kind >> 16, 4)], at + 8
    return kind, head[at + 8 : at + 8 + length], at + 8 + length + -length % 8
