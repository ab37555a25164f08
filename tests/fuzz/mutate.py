"""Whole files made damaged or hostile: bytes, words, JSON values, and the parts of packed formats.

Every mutator takes a `numpy.random.Generator` and gives bytes; the same generator gives the same bytes.
"""

import gzip
import io
import json
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

Mutator = Callable[[np.random.Generator, bytes], bytes]
NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS += (2**32, 2**62, 2**63 - 1, 2**64 - 1)
LARGEST = 1 << 20  # bytes that a mutation may grow a file to
TIMES = 10_000  # that a word is repeated
WORDS = """
NaN nan -nan Infinity -inf .nan .inf 1e999 -1e999 1e-999 1e308 -1 0 -0 -0.0 00 1_0 0x7f 0o17 1e4 +1 . - / // \\ true
false null ~ yes {} [] "" '' ? : , ; | > & * ! % @ ` # <<: !!python/object/apply:os.getcwd !!binary !!timestamp
2001-01-01 &a *a --- ... ../../x /etc/hostname C:\\x CON v vt f mtllib map_Kd usemtl __import__ None lambda
"""
WORDS = (*WORDS.split(), "9" * 400, "9" * 5000, "x" * 3000, "\0", "\x1b[31m", "\u2028", "\x85", "\ufeff", *"\r\n\té")
ROTTEN = (b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x00", b"\x80", b"\xef\xbb\xbf")


def several(rng, choices: list[Mutator], data: bytes) -> bytes:
    """One to four of the mutators, one after the other."""
    for _ in range(min(rng.geometric(0.5), 4)):
        data = choices[rng.integers(len(choices))](rng, data)[:LARGEST]
    return data


def place(rng, size: int) -> int:
    """An offset; half of them in the first or last 300 bytes, where headers and directories are."""
    if size < 1:
        return 0
    if rng.random() < 0.5:
        return int(rng.integers(size))
    near = int(rng.integers(min(300, size)))
    return near if rng.random() < 0.6 else size - 1 - near


def span(rng, size: int) -> tuple[int, int]:
    """Start and end of a block, short ones the likelier."""
    start = place(rng, size)
    return start, min(size, start + int(2 ** rng.uniform(0, np.log2(max(size, 2)))))


def flip(rng, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9) if data else 0):
        changed[place(rng, len(data))] ^= 1 << rng.integers(8)
    return bytes(changed)


def cut(rng, data: bytes) -> bytes:
    return data[: place(rng, len(data))]


def drop(rng, data: bytes) -> bytes:
    start, end = span(rng, len(data))
    return data[:start] + data[end:]


def double(rng, data: bytes) -> bytes:
    start, end = span(rng, len(data))
    return data[:end] + data[start:end] * int(rng.integers(1, 4)) + data[end:]


def swap(rng, data: bytes) -> bytes:
    (a, b), (c, d) = sorted((span(rng, len(data)), span(rng, len(data))))
    return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def number(rng, data: bytes) -> bytes:
    """A number that breaks arithmetic, in 1 to 8 bytes of either order, over what stood there."""
    size, order = int(rng.choice([1, 2, 4, 8], p=[0.2, 0.3, 0.4, 0.1])), ("little", "big")[rng.integers(2)]
    start = place(rng, len(data))
    value = NUMBERS[rng.integers(len(NUMBERS))] % 256**size
    return data[:start] + value.to_bytes(size, order) + data[start + size :]


def noise(rng, data: bytes) -> bytes:
    start, end = span(rng, len(data))
    return data[:start] + (rng.bytes(end - start) if rng.random() < 0.7 else bytes(end - start)) + data[end:]


BINARY: list[Mutator] = [flip, cut, drop, double, swap, number, number, noise]


def splice(rng, one: bytes, other: bytes) -> bytes:
    """The beginning of one file and the end of another, of the same kind."""
    return one[: place(rng, len(one))] + other[place(rng, len(other)) :]


def binary(rng, data: bytes) -> bytes:
    return several(rng, BINARY, data)


def words(data: bytes) -> list[bytes]:
    return re.findall(rb"[\w.+-]+|\s|[^\w\s]", data)


def word(rng, data: bytes) -> bytes:
    """One word exchanged, repeated, moved or left out."""
    found = words(data)
    if not found:
        return data
    at, other = rng.integers(len(found), size=2)
    new = WORDS[rng.integers(len(WORDS))].encode()
    choice = rng.integers(7)
    if choice < 3:
        found[at] = new
    elif choice == 3:
        found[at] += new
    elif choice == 4:
        found[at] = (found[at] + (b" " if rng.random() < 0.5 else b"")) * TIMES
    elif choice == 5:
        found[at], found[other] = found[other], found[at]
    else:
        del found[at]
    return b"".join(found)


def line(rng, data: bytes) -> bytes:
    """One line repeated, moved or left out; or all line ends changed."""
    found = data.splitlines(keepends=True)
    if not found:
        return data
    at, other = rng.integers(len(found), size=2)
    choice = rng.integers(5)
    if choice == 0:
        found[at] *= int(rng.choice([2, TIMES], p=[0.9, 0.1]))
    elif choice == 1:
        found[at], found[other] = found[other], found[at]
    elif choice == 2:
        del found[at]
    elif choice == 3:
        found[at] = found[at].rstrip(b"\n")
    else:
        return data.replace(b"\n", (b"\r\n", b"\r", b"", b"\n\n")[rng.integers(4)])
    return b"".join(found)


def nest(rng, data: bytes) -> bytes:
    """Brackets in brackets, closed or not."""
    start, depth = place(rng, len(data)), int(10 ** rng.uniform(1, 5))
    opened, closed = ((b"[", b"]"), (b'{"a":', b"}"), (b"(", b")"), (b"- ", b""), (b"-", b""))[rng.integers(5)]
    return data[:start] + opened * depth + closed * (depth if rng.random() < 0.7 else 0) + data[start:]


def encoding(rng, data: bytes) -> bytes:
    """Bytes that are not UTF-8, a mark of the byte order, or all of it in another encoding."""
    if rng.random() < 0.6:
        start = place(rng, len(data))
        return data[:start] + ROTTEN[rng.integers(len(ROTTEN))] + data[start:]
    if rng.random() < 0.5:
        return b"\xef\xbb\xbf" + data
    return data.decode("utf-8", "replace").encode(("utf-16", "utf-16-be", "utf-32", "utf-7")[rng.integers(4)])


TEXT: list[Mutator] = [word, word, word, line, nest, encoding, drop, double, swap, cut, flip]


def text(rng, data: bytes) -> bytes:
    return several(rng, TEXT, data)


def odd_value(rng):
    """A JSON value that nobody expects."""
    values = (None, True, False, 0, -1, 1.5, 2**31, 2**63, 10**400, -1e308, 1e308, float("nan"), float("inf"))
    values += ("", "0", "\0", "\ud800", "a\nb", "x" * 3000, "../x", [], {}, [[]], {"a": {}}, [0] * 5000, {"": None})
    return values[rng.integers(len(values))]


def json_value(rng, data: bytes) -> bytes:
    """One value or name of a JSON text exchanged, left out or doubled; what is no JSON is changed as text."""
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return text(rng, data)
    at, step = whole, None
    while isinstance(at, dict | list) and at and (step is None or rng.random() < 0.8):
        holder, step = at, list(at)[rng.integers(len(at))] if isinstance(at, dict) else int(rng.integers(len(at)))
        at = holder[step]
    if step is None:
        return json.dumps(odd_value(rng)).encode()
    choice = rng.integers(5)
    if choice < 3:
        holder[step] = odd_value(rng)
    elif choice == 3:
        holder.pop(step)
    elif isinstance(holder, dict):
        holder[WORDS[rng.integers(len(WORDS))]] = holder.pop(step)
    else:
        holder.insert(step, at)
    return json.dumps(whole, ensure_ascii=bool(rng.random() < 0.9)).encode("utf-8", "surrogatepass")


def json_text(rng, data: bytes) -> bytes:
    return several(rng, [json_value, json_value, text], data)


def png(rng, data: bytes) -> bytes:
    """A PNG changed anywhere, the check sums of its chunks put right half of the time."""
    data, at = binary(rng, data), 8
    if rng.random() < 0.5:
        return data
    changed = bytearray(data)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(changed)


def zipped(inner: Mutator) -> Mutator:
    """A mutator of zip files: of the bytes, or of one member, or of its name, in a zip that is whole."""

    def mutate(rng, data: bytes) -> bytes:
        if rng.random() < 0.5:
            return binary(rng, data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
        at, choice = rng.integers(len(members)), rng.integers(8)
        name, content, packing = members[at]
        if choice == 0:
            members[at] = (WORDS[rng.integers(len(WORDS))], content, packing)
        elif choice == 1:
            members.append(members[at])
        elif choice == 2:
            del members[at]
        else:
            members[at] = (name, inner(rng, content), packing)
        return zip_of(members)

    return mutate


def zip_of(members: list[tuple[str, bytes, int]]) -> bytes:
    """A zip of (name, content, packing), names twice too."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content, packing in members:
            info = zipfile.ZipInfo(name[:60000].encode("utf-8", "replace").decode() or "x")
            archive.NameToInfo.pop(info.filename, None)  # it would warn of a name that is there twice
            archive.writestr(info, content, packing)
    return buffer.getvalue()


def tar(rng, data: bytes) -> bytes:
    """A tar changed anywhere, the check sums of its headers put right half of the time."""
    changed = bytearray(binary(rng, data))
    for at in range(0, len(changed) - 511, 512) if rng.random() < 0.5 else ():
        if changed[at + 257 : at + 262] == b"ustar":
            total = sum(changed[at : at + 148]) + 8 * 32 + sum(changed[at + 156 : at + 512])
            changed[at + 148 : at + 156] = f"{total:06o}\0 ".encode()
    return bytes(changed)


def packed(rng, data: bytes) -> bytes:
    """An archive, whatever its packing, changed outside or inside."""
    for magic, unpack, pack in ((b"\x1f\x8b", gzip.decompress, gzip.compress), (b"\xfd7z", lzma.decompress, squeeze)):
        if data.startswith(magic):
            return binary(rng, data) if rng.random() < 0.5 else pack(tar(rng, unpack(data)))
    return zipped(binary)(rng, data) if data.startswith(b"PK") else tar(rng, data)


def squeeze(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)
