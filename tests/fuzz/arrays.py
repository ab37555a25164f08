"""Files of arrays with one array exchanged for another that nobody expects: .npz, .mat and safetensors."""

import io
import json
import struct

import numpy as np
from fuzz.mutate import binary, json_text, several, word
from scipy import sparse
from scipy.io import loadmat, savemat

from mlanet_lib.network.checkpoint import FORMAT


def odd_array(rng, array: np.ndarray) -> np.ndarray:
    """An array of another shape, type or content than `array`."""
    flat = array.ravel()
    kinds = ("<f2", ">f4", "<f8", "<i1", "<u8", ">i4", "?", "<c8", "S3", "U2", "<M8[s]", "<m8[s]", "V5", "<f16")
    if array.dtype.kind in "fiu" and rng.random() < 0.5:  # the right form, a wrong number
        changed = array.copy().reshape(-1)
        values = (np.nan, np.inf, -np.inf, -1, 0, 1e38, -1e300, 2**31, 2**63, 1e-320)
        with np.errstate(all="ignore"):
            wrong = np.array(values[rng.integers(len(values))]).astype(array.dtype)
        if changed.size:
            changed[slice(None) if rng.random() < 0.2 else rng.integers(changed.size)] = wrong
        return changed.reshape(array.shape)
    choice = rng.integers(9)
    if choice < 3:
        with np.errstate(all="ignore"):
            try:
                return array.astype(kinds[rng.integers(len(kinds))])
            except (TypeError, ValueError):
                return flat.view(np.uint8)
    if choice < 7:
        rows = np.atleast_1d(array)
        shapes = (rows[:0], array[None], flat, array.T, rows[..., :1], np.concatenate([flat, flat]), rows[:-1])
        return shapes[rng.integers(len(shapes))]
    return np.array(["", "x" * 300, "\0", "\n", 7, 1.5, True][rng.integers(7)]) if choice == 7 else np.float64(0)


def npz(rng, data: bytes) -> bytes:
    """A whole .npz, one field of which is another."""
    with np.load(io.BytesIO(data)) as file:
        fields = dict(file)
    for _ in range(rng.integers(1, 3)):
        name = list(fields)[rng.integers(len(fields))]
        value = fields.pop(name)
        if rng.random() < 0.85:
            fields[name] = odd_array(rng, value)
    buffer = io.BytesIO()
    np.savez(buffer, **fields)
    return buffer.getvalue()


def npy(rng, data: bytes) -> bytes:
    """The bytes of one .npy: mostly its header, which is text of the length that stands before it."""
    if rng.random() < 0.4:
        return binary(rng, data)
    length = int.from_bytes(data[8:10], "little")
    header = several(rng, [word], data[10 : 10 + length])[:65535]
    return data[:8] + struct.pack("<H", len(header)) + header + data[10 + length :]


def mat(rng, data: bytes) -> bytes:
    """A .mat file changed in its bytes, or one of whose fields is another."""
    if rng.random() < 0.5:
        return binary(rng, data)
    fields = {name: value for name, value in loadmat(io.BytesIO(data)).items() if not name.startswith("__")}
    name = list(fields)[rng.integers(len(fields))]
    value, choice = fields.pop(name), rng.integers(8)
    odd = (sparse.csc_matrix(np.eye(3)), {"a": value}, np.array([value, "x"], object), "text", value)
    if choice:
        fields[name if choice < 7 else name[:-1]] = odd_array(rng, value) if choice < 5 else odd[rng.integers(5)]
    buffer = io.BytesIO()
    try:
        savemat(buffer, fields, do_compression=bool(rng.random() < 0.5))
    except (TypeError, ValueError):  # a type that MATLAB has not
        return binary(rng, data)
    content = buffer.getvalue()
    return content if rng.random() < 0.5 else binary(rng, content)


def safetensors(rng, data: bytes) -> bytes:
    """A safetensors file changed in its bytes, or in its header, whose length is right, or in mlanet's part of that."""
    if rng.random() < 0.3:
        return binary(rng, data)
    length = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.6:
        record = json.loads(header)
        record["__metadata__"][FORMAT] = json_text(rng, record["__metadata__"][FORMAT].encode()).decode(
            errors="replace"
        )
        header = json.dumps(record).encode()
    else:
        header = json_text(rng, header)
    return struct.pack("<Q", len(header)) + header + tensors
