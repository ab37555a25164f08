"""Faults in the middle of a write: strace breaks off a forked child at a system call of our choice, or refuses it.

A child of this process, which has everything imported, waits until strace holds it, then writes.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlanet_lib.errors import UserError

DATA = ("write", "pwrite64", "writev", "pwritev", "copy_file_range", "sendfile", "ftruncate", "fallocate")
DATA += ("fsync", "fdatasync", "mkdir", "mkdirat")
NAMES = ("openat", "open", "creat", "rename", "renameat", "renameat2", "link", "unlink", "unlinkat", "rmdir", "chmod")
NAMES += ("fchmod", "fchmodat")
PATIENCE = 120.0
FAULTS = {  # name -> the system calls that are hit, and strace's words for it; `+`: that call and all later ones
    "disk full": (DATA, "error=ENOSPC:when={}+"),
    "no permission": ((*NAMES, "mkdir", "mkdirat", "fsync"), "error=EACCES:when={}"),
    "SIGTERM": (DATA + NAMES, "signal=SIGTERM:when={}"),
    "SIGKILL": (DATA + NAMES, "signal=SIGKILL:when={}"),
}
WROTE, REFUSED, ESCAPED = 0, 2, 70


@dataclass(frozen=True)
class Writer:
    """write(folder, version): writes all its files below the folder, other ones for another version. prepare(folder):
    what must be there before. part: a hidden file that a killed write leaves for the next to go on from. apart: its
    files are written one after the other, and a failure may come between two; else it leaves all of them as they were.
    """

    write: Callable[[Path, int], object]
    prepare: Callable[[Path], object] = lambda folder: None
    part: str = ""
    apart: bool = False
    most: int = 20  # faults of a kind at one system call


@dataclass
class Tally:
    """Of one writer. left: hidden folders that a fault left, which the next write removed."""

    faults: int = 0
    old: int = 0
    new: int = 0
    mixed: int = 0
    left: int = 0
    third: list[str] = field(default_factory=list)


def available() -> str:
    """Why faults cannot be injected here; empty where they can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    done = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip().splitlines()[-1]}"


def write(writer: Writer, folder: Path, version: int, strace: list[str] | None = None) -> int:
    """Write in a child, under strace with these options; its exit code, -N where signal N ended it."""
    ours, theirs = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = ESCAPED
        with contextlib.suppress(BaseException):
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1), os.dup2(null, 2)
            warnings.simplefilter("ignore")
            os.close(theirs)
            os.read(ours, 1)
            try:
                writer.write(folder, version)
                code = WROTE
            except UserError:
                code = REFUSED
        os._exit(code)
    os.close(ours)
    tracer = None
    if strace:
        tracer = subprocess.Popen(["strace", "-f", "-p", str(child), *strace], stderr=subprocess.PIPE, text=True)
        said = tracer.stderr.readline()
        assert "attached" in said, said
    os.close(theirs)
    _, status = os.waitpid(child, 0)
    if tracer:
        tracer.communicate(timeout=PATIENCE)
    return os.waitstatus_to_exitcode(status)


def wanted(calls: tuple[str, ...]) -> str:
    return ",".join(f"?{name}" for name in calls)  # some are not on every processor


def counts(writer: Writer, folder: Path) -> Counter:
    """How often a write makes each of the system calls that may be hit."""
    with tempfile.NamedTemporaryFile("r") as log:
        code = write(writer, folder, 1, ["-o", log.name, "-e", f"trace={wanted(DATA + NAMES)}"])
        assert code == WROTE, code
        return Counter(words[1].split("(")[0] for words in map(str.split, log) if len(words) > 1 and "(" in words[1])


def visible(folder: Path) -> dict[str, bytes]:
    """Every file that is not hidden, nor in a hidden folder, by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            found[str(name)] = _content(path)
    return found


def _content(path: Path) -> bytes:
    """A file's bytes, but for what is of one moment: SciPy's time of day, the order of safetensors' metadata."""
    content = path.read_bytes()
    if path.suffix == ".safetensors" and len(content) > 8:
        length = int.from_bytes(content[:8], "little")
        with contextlib.suppress(ValueError):
            header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True)
            return header.encode() + content[8 + length :]
    return content[128:] if path.suffix == ".mat" else content


def hidden(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*"))


def numbers(total: int, most: int) -> list[int]:
    """1 to total, where these are too many: the first, the last and some between."""
    if total <= most:
        return list(range(1, total + 1))
    edge = most // 3
    step = max(1, (total - 2 * edge) // (most - 2 * edge))
    return sorted({*range(1, edge + 1), *range(edge + 1, total - edge, step), *range(total - edge, total + 1)})


def cases(total: Counter, most: int) -> Iterator[tuple[str, str, int, bool]]:
    """Kind of fault, which system call, its number (strace counts each by itself), whether an older file is there."""
    for fault, (calls, _) in FAULTS.items():
        for name in calls:
            for there in (True, False) if fault in ("SIGKILL", "disk full") else (True,):
                for number in numbers(total[name], most):
                    yield fault, name, number, there


def hunt(writer: Writer, scratch: Path) -> Tally:
    """All faults of one writer: after each the files are the old or the new ones, and the next write is as any."""
    states, tally = [], Tally()
    for version, name in enumerate(("old", "new")):
        (scratch / name).mkdir(parents=True)
        writer.prepare(scratch / name)
        writer.write(scratch / name, version)  # here, so that everything is imported
        states.append(visible(scratch / name))
    empty = scratch / "empty"
    empty.mkdir()
    writer.prepare(empty)
    assert states[0] != states[1] and not hidden(scratch / "new")
    shutil.copytree(scratch / "old", scratch / "count")
    total = counts(writer, scratch / "count")
    assert visible(scratch / "count") == states[1], "the same content is not written as the same bytes"
    folder = scratch / "folder"
    for fault, call, number, there in cases(total, writer.most):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(scratch / "old" if there else empty, folder)
        before = visible(folder)
        with tempfile.NamedTemporaryFile("r") as log:
            inject = f"inject={call}:{FAULTS[fault][1].format(number)}"
            code = write(writer, folder, 1, ["-o", log.name, "-e", f"trace={call}", "-e", inject])
            refused = [line for line in log if "(INJECTED)" in line]
        if code == ESCAPED and all("O_RDONLY" in line for line in refused):
            continue  # a file of the library could not be read: no fault of a write
        if code < 0 or refused:
            where = f"{fault} at {call} {number}, {'over an older one' if there else 'into an empty folder'}"
            judge(tally, writer, folder, before, states[1], code, where)
    return tally


def judge(tally: Tally, writer: Writer, folder: Path, before: dict, after: dict, code: int, where: str) -> None:
    """Count what a fault left, then write once more without one."""
    found, left = visible(folder), [name for name in hidden(folder) if not (writer.part and name == writer.part)]
    tally.faults += 1
    strange = [name for name, content in found.items() if content not in (before.get(name), after.get(name))]
    strange += [f"{name} is gone" for name in before if name not in found]
    if strange:
        tally.third.append(f"{where}: {', '.join(strange)}")
    elif found == after:
        tally.new += 1
    elif found == before:
        tally.old += 1
    else:
        tally.mixed += 1
        if code >= 0 and not writer.apart:
            new = [name for name, content in found.items() if content == after.get(name) != before.get(name)]
            tally.third.append(
                f"{where}: exit code {code}, and of {len(after)} files {', '.join(new)} are the new ones"
            )
    if code == WROTE and found != after:
        tally.third.append(f"{where}: it says that it wrote, and did not")
    if code not in (WROTE, REFUSED) and code >= 0:
        tally.third.append(f"{where}: an exception escaped (exit code {code})")
    if left:
        tally.left += 1
    if found == after:
        write(writer, folder, 0)  # a file that is as it should be may be left alone
    again, rest = write(writer, folder, 1), hidden(folder)
    if again != WROTE or visible(folder) != after or rest:
        tally.third.append(f"{where}: the next write ends with {again} and leaves {', '.join(rest) or 'other files'}")
