"""Reading `.npz` files from untrusted sources: nothing is unpickled, every header is checked."""

import math
import sys
import zipfile
from pathlib import Path

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
