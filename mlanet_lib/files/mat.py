"""Reading MATLAB 5 files (`.mat`) from untrusted sources: no object is made, every size is checked."""

import math
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy.io import loadmat

from mlanet_lib.errors import UserError

_COMPRESSED, _MATRIX, _COMPLEX = 15, 14, 0x800  # tags of a MATLAB 5 file, and a flag
_PLAIN_CLASSES = {4, *range(6, 16)}  # text, and numbers of every size
_PLAIN_DATA = {*range(1, 8), 9, 12, 13, 16, 17, 18}
_LONGEST_HEAD, _PIECE = 1 << 16, 1 << 20


def load_mat(path: str | Path, names: Collection[str] | None = None, largest: int = 1 << 26) -> dict[str, np.ndarray]:
    """The fields of a MATLAB 5 file that hold numbers or text; cells, structs, functions and objects are left unread.

    names: the fields that are wanted (default: all); largest: bytes that the file may unpack to. A missing, foreign,
    damaged or larger file is a UserError that names it; neither a claimed size nor what its compressed parts would
    unpack to is believed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        shapes = {name: shape for name, shape in mat_fields(path).items() if shape is not None}
        if (size := _unpacked_size(path, largest)) > largest:
            raise ValueError(f"it unpacks to more than {largest >> 20} MB")
        for name, shape in shapes.items():
            if math.prod(shape) > size:
                raise ValueError(f"field '{name}' claims the shape {shape}")
        wanted = [name for name in shapes if names is None or name in names]
        loaded = loadmat(path, variable_names=wanted)
        return {name: np.asarray(loaded[name]) for name in wanted}
    except Exception as error:  # scipy's reader raises whatever the broken bytes lead it to
        raise UserError(f"{path}: not a readable .mat file ({error or type(error).__name__})") from error


def numbers(path: Path, mat: Mapping[str, np.ndarray], field: str, shape: tuple[int, ...]) -> np.ndarray:
    """Field `field` of a `.mat` file as finite float64 of `shape` (a vector may lie or stand); else a UserError."""
    if field not in mat:
        raise UserError(f"{path}: field '{field}' is missing")
    value = np.asarray(mat[field])
    if value.dtype.kind not in "iuf":
        raise UserError(f"{path}: field '{field}' does not hold numbers")
    if not (value.shape == shape if len(shape) > 1 else value.size == shape[0]):
        wanted = shape if len(shape) > 1 else (1, *shape)
        raise UserError(f"{path}: field '{field}' has shape {value.shape}, not {wanted}")
    value = value.astype(np.float64).reshape(shape)
    if not np.isfinite(value).all():
        raise UserError(f"{path}: field '{field}' holds numbers that are not finite")
    return value


def mat_fields(path: str | Path) -> dict[str, tuple[int, ...] | None]:
    """Shapes of the fields of a MATLAB 5 file by name; None: neither real numbers nor text (a cell, a struct, ...).

    SciPy's reader takes the type of a field's data for an index into a table without looking, and a damaged file ends
    the process: only fields that have a shape here may be given to it. A damaged file is a ValueError, struct.error or
    zlib.error. Only the heads of the fields are read and unpacked.
    """
    found: dict[str, tuple[int, ...] | None] = {}
    with Path(path).open("rb") as file:
        for order, kind, length in _elements(file):
            head = file.read(min(length, _LONGEST_HEAD))
            if kind == _COMPRESSED:
                head = zlib.decompressobj().decompress(head, _LONGEST_HEAD)
            else:
                head = struct.pack(f"{order}II", kind, length) + head
            name, shape = _field(head, order)
            if name in found:
                raise ValueError(f"field '{name}' is there twice")
            found[name] = shape
    return found


def _elements(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Byte order (of `struct`), type and length of each element of a file, which stands where its content begins."""
    said = file.read(128)[124:]
    if said not in (b"\0\1IM", b"\1\0MI"):
        raise ValueError("not of MATLAB's version 5; save it with -v7")
    order = "<" if said.endswith(b"IM") else ">"
    while len(tag := file.read(8)) == 8:
        kind, length = struct.unpack(f"{order}II", tag)
        after = file.tell() + length
        yield order, kind, length
        file.seek(after)


def _unpacked_size(path: Path, largest: int) -> int:
    """Bytes of a MATLAB 5 file with its compressed elements unpacked, counted until it is more than `largest`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for _, kind, left in _elements(file):
            unpacking = zlib.decompressobj()
            while kind == _COMPRESSED and size <= largest and (piece := file.read(min(left, _LONGEST_HEAD))):
                left -= len(piece)
                while piece and size <= largest:
                    size += len(unpacking.decompress(piece, _PIECE))
                    piece = unpacking.unconsumed_tail
    return size


def _field(head: bytes, order: str) -> tuple[str, tuple[int, ...] | None]:
    """Name and shape of the matrix that begins with `head`; no shape where it holds neither real numbers nor text."""
    if struct.unpack_from(f"{order}I", head)[0] != _MATRIX:
        raise ValueError("a part is no matrix")
    flags = struct.unpack_from(f"{order}I", head, 16)[0]
    _, sizes, at = _element(head, order, 24)
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    _, name, at = _element(head, order, at)
    plain = flags & 0xFF in _PLAIN_CLASSES and not flags & _COMPLEX
    if plain and (_element(head, order, at)[0] not in _PLAIN_DATA or min(shape, default=0) < 0):
        raise ValueError(f"field {name[:60].decode('latin-1')!r} holds neither numbers nor text")
    return name.decode("latin-1"), shape if plain else None


def _element(head: bytes, order: str, at: int) -> tuple[int, bytes, int]:
    """Type and content of the element at an offset, and where the next begins; of up to 4 bytes the tag is short."""
    kind, length = struct.unpack_from(f"{order}II", head, at)
    if kind >> 16:
        return kind & 0xFFFF, head[at + 4 : at + 4 + min(kind >> 16, 4)], at + 8
    return kind, head[at + 8 : at + 8 + length], at + 8 + length + -length % 8
