"""Morph targets for a binary glTF file, which trimesh reads and writes without them.

The glTF 2.0 specification: chapters 3.7.2.2 (morph targets), 3.6.2.3 (sparse accessors) and 4.4 (the binary container).
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_JSON, _BINARY = 0x4E4F534A, 0x004E4942  # types of the two chunks
_UINT, _FLOAT = 5125, 5126
STILL = 1e-6  # m; a vertex that a target moves less is not listed
STEADY = 1e-2  # of a normal's length: one that a target turns by less than half a degree is not listed


def read(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON and the binary chunk of a GLB file; ValueError for another file."""
    magic, version, length = struct.unpack_from("<4sII", data)
    if magic != b"glTF" or version != 2 or length != len(data):
        raise ValueError("not a binary glTF 2.0 file")
    chunks, at = {}, 12
    while at < length:
        size, kind = struct.unpack_from("<II", data, at)
        chunks[kind] = data[at + 8 : at + 8 + size]
        at += 8 + size
    return json.loads(chunks[_JSON]), chunks.get(_BINARY, b"")


def write(tree: dict[str, Any], binary: bytes) -> bytes:
    """A GLB file of the two chunks."""
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<II", len(text), _JSON) + text + struct.pack("<II", len(binary), _BINARY) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


class Target(NamedTuple):
    """A morph target of V vertices: how far each goes at weight 1, (V, 3) in the file's metres, how its normal changes,
    (V, 3), and the weight with which the file is opened, [0, 1]."""

    moves: np.ndarray
    turns: np.ndarray
    weight: float


def add_targets(tree: dict[str, Any], binary: bytes, targets: Mapping[str, Target]) -> bytes:
    """Add morph targets by name to a file's tree, of one mesh of one primitive; returns its new binary chunk.

    Names go where viewers look for them, `mesh.extras.targetNames`.
    """
    (mesh,) = tree["meshes"]
    (primitive,) = mesh["primitives"]
    content = bytearray(binary)
    primitive["targets"] = [
        {
            "POSITION": _sparse(tree, content, target.moves, STILL),
            "NORMAL": _sparse(tree, content, target.turns, STEADY),
        }
        for target in targets.values()
    ]
    mesh["weights"] = [float(target.weight) for target in targets.values()]
    mesh["extras"] = mesh.get("extras", {}) | {"targetNames": list(targets)}
    tree["buffers"][0]["byteLength"] = len(content)
    return bytes(content)


def _sparse(tree: dict[str, Any], content: bytearray, values: np.ndarray, still: float) -> int:
    """The index of a new sparse accessor for (V, 3) values: an accessor without a buffer is zero but for what is
    listed, here the rows that are longer than `still`. The list goes to the end of the binary chunk."""
    values = np.asarray(values, "<f4")
    rows = np.flatnonzero(np.linalg.norm(values, axis=1) > still).astype("<u4")
    kept = np.zeros_like(values)
    kept[rows] = values[rows]
    bounds = {"min": kept.min(0).tolist(), "max": kept.max(0).tolist()}
    entry = {"componentType": _FLOAT, "count": len(values), "type": "VEC3"} | bounds
    if len(rows):
        entry["sparse"] = {
            "count": len(rows),
            "indices": {"bufferView": _append(tree, content, rows), "componentType": _UINT},
            "values": {"bufferView": _append(tree, content, kept[rows])},
        }
    tree["accessors"].append(entry)
    return len(tree["accessors"]) - 1


def _append(tree: dict[str, Any], content: bytearray, values: np.ndarray) -> int:
    """The index of a new view of values at the end of the binary chunk, whose parts begin at multiples of 4 bytes."""
    content += b"\0" * (-len(content) % 4)
    tree["bufferViews"].append({"buffer": 0, "byteOffset": len(content), "byteLength": values.nbytes})
    content += values.tobytes()
    return len(tree["bufferViews"]) - 1
