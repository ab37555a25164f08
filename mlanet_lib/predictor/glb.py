"""Morph targets for a binary glTF file, which trimesh reads and writes without them.

The glTF 2.0 specification: chapters 3.7.2.2 (morph targets), 3.6.2.3 (sparse accessors) and 4.4 (the binary container).
"""

import json
import struct
from collections.abc import Mapping

import numpy as np

_JSON, _BINARY = 0x4E4F534A, 0x004E4942  # types of the two chunks
_UINT, _FLOAT = 5125, 5126
STILL = 1e-6  # m; a vertex that a target moves less is not listed
STEADY = 1e-2  # of a normal's length: one that a target turns by less than half a degree is not listed


def read(data: bytes) -> tuple[dict, bytes]:
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


def write(tree: dict, binary: bytes) -> bytes:
    """A GLB file of the two chunks."""
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<II", len(text), _JSON) + text + struct.pack("<II", len(binary), _BINARY) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def signed(data: bytes, generator: str) -> bytes:
    """The file with `generator` in the field that glTF has for it, at its beginning."""
    tree, binary = read(data)
    return write({"asset": tree.pop("asset") | {"generator": generator}} | tree, binary)


def with_targets(
    data: bytes, targets: Mapping[str, tuple[np.ndarray, np.ndarray]], weights: Mapping[str, float]
) -> bytes:
    """The file `data`, of one mesh of one primitive, with named morph targets.

    targets: by name how far each vertex goes at weight 1, (V, 3) in the file's metres, and how its normal changes,
    (V, 3); weights: by the same names how far it has gone when the file is opened, [0, 1]. Names go where viewers look
    for them, `mesh.extras.targetNames`.
    """
    tree, binary = read(data)
    (mesh,) = tree["meshes"]
    (primitive,) = mesh["primitives"]
    count = tree["accessors"][primitive["attributes"]["POSITION"]]["count"]
    views, parts = tree["bufferViews"], [binary + b"\0" * (-len(binary) % 4)]
    end = len(parts[0])

    def view(values: np.ndarray) -> int:
        nonlocal end
        content = values.tobytes()
        views.append({"buffer": 0, "byteOffset": end, "byteLength": len(content)})
        parts.append(content)
        end += len(content)
        return len(views) - 1

    def accessor(name: str, values: np.ndarray, still: float) -> int:
        """The index of a sparse accessor: an accessor without a buffer is zero but for what is listed."""
        values = np.asarray(values, "<f4")
        if values.shape != (count, 3):
            raise ValueError(f"target {name}: {values.shape} for {count} vertices")
        rows = np.flatnonzero(np.linalg.norm(values, axis=1) > still).astype("<u4")
        kept = np.zeros_like(values)
        kept[rows] = values[rows]
        bounds = {"min": kept.min(0).tolist(), "max": kept.max(0).tolist()}
        entry = {"componentType": _FLOAT, "count": count, "type": "VEC3"} | bounds
        if len(rows):
            entry["sparse"] = {
                "count": len(rows),
                "indices": {"bufferView": view(rows), "componentType": _UINT},
                "values": {"bufferView": view(kept[rows])},
            }
        tree["accessors"].append(entry)
        return len(tree["accessors"]) - 1

    primitive["targets"] = [
        {"POSITION": accessor(name, moves, STILL), "NORMAL": accessor(name, turns, STEADY)}
        for name, (moves, turns) in targets.items()
    ]
    mesh["weights"] = [float(weights[name]) for name in targets]
    mesh["extras"] = mesh.get("extras", {}) | {"targetNames": list(targets)}
    tree["buffers"][0]["byteLength"] = end
    return write(tree, b"".join(parts))
