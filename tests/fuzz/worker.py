"""One process that reads damaged files, one after the other, within bounds; and what becomes of it, as its parent sees.

Time is the processor's, so that a busy machine fails nobody. Memory is what the process grows by while it reads one
file, at its highest. What takes either beyond the limits is stopped by the kernel.
"""

import faulthandler
import gc
import math
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlanet_lib.errors import UserError

SECONDS, MEGABYTES = 5.0, 1024
STOPPED, PATIENCE, ROOM = 10, 120, 3 << 30  # s of the processor, s of the clock, bytes: nothing goes on beyond
LONGEST = 1000  # characters of "one line"
READ, REFUSED, FAILED = "read", "refused", "failed"


@dataclass(frozen=True)
class Outcome:
    """Of one input. text: what was said, or how it failed, which starts with the failure's kind."""

    kind: str
    text: str
    seconds: float
    megabytes: float
    chatter: str = ""


def generator(seed: int, name: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), index])


def attempt(read: Callable, path: Path) -> tuple[str, str]:
    """What a reader makes of a file: its outcome and text."""
    try:
        read(path)
        return READ, ""
    except UserError as error:
        return unclear(str(error))
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "mlanet_lib" in frame.filename] or frames
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        return FAILED, f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:200]!a}"


def unclear(text: str) -> tuple[str, str]:
    """Refused, if that was said in one line that can be printed."""
    if len(text.splitlines()) != 1 or len(text) > LONGEST:
        return FAILED, f"not one line: {len(text.splitlines())} lines, {len(text)} characters: {text[:80]!a}"
    try:
        text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # NumPy makes such texts of damaged bytes
        return FAILED, "not one line: no text, but numbers beyond Unicode"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        return FAILED, f"not one line: control characters in {text[:300]!a}"
    return REFUSED, text


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process, MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def measured(read: Callable, path: Path, noise) -> Outcome:
    """`attempt`, with its time and memory, and what else was written on stderr."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest is counted from here
    before, start = resident("VmRSS"), time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(start) + STOPPED, resource.RLIM_INFINITY))
    kind, text = attempt(read, path)
    seconds, megabytes = time.process_time() - start, resident("VmHWM") - before
    if seconds > SECONDS:
        kind, text = FAILED, f"slow: {seconds:.1f} s"
    elif megabytes > MEGABYTES:
        kind, text = FAILED, f"memory: {megabytes:.0f} MB"
    said = ""
    if noise.tell() or os.fstat(noise.fileno()).st_size:
        noise.seek(0)
        said = noise.read(200).decode(errors="replace")
        noise.seek(0)
        noise.truncate()
    return Outcome(kind, text, seconds, megabytes, said)


def _serve(pipe, reader, folder: Path, inputs: Iterable[tuple[int, tuple[str, bytes]]]) -> None:
    """The child: reads every input and sends what came of it."""
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    faulthandler.disable()
    warnings.simplefilter("ignore")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(folder.with_name(f"{folder.name}.stderr"), "w+b", buffering=0) as noise:
        os.dup2(noise.fileno(), 2)
        for index, (name, content) in inputs:
            (folder / name).write_bytes(content)
            outcome = measured(reader.read, folder / name, noise)
            pipe.send((index, outcome))
            if name in reader.beside:
                (folder / name).write_bytes(reader.beside[name])
            if outcome.megabytes > 64:
                gc.collect()


class Worker:
    """A child that reads `inputs` (index, (name, content)); `step` gives what came of some of them since the last."""

    def __init__(self, reader, folder: Path, inputs: Callable[[int], Iterable], first: int, last: int):
        self.reader, self.folder, self.inputs, self.next, self.last = reader, folder, inputs, first, last
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in reader.beside.items():
            (folder / name).write_bytes(content)
        self._begin()

    def _begin(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe(duplex=False)
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            try:
                self.pipe.close()
                _serve(theirs, self.reader, self.folder, self.inputs(self.next))
                os._exit(0)
            except BaseException:  # of a mutator
                theirs.send(ascii(traceback.format_exc()))
            os._exit(1)
        theirs.close()
        self.heard = time.monotonic()

    @property
    def done(self) -> bool:
        return self.next >= self.last

    def step(self) -> list[tuple[int, Outcome]]:
        """Results that are here; a child that died or hangs is one, too, and another child takes over."""
        results = []
        try:
            while self.pipe.poll():
                if isinstance(told := self.pipe.recv(), str):
                    raise RuntimeError(f"input {self.next} cannot be made:\n{told}")
                index, outcome = told
                results.append((index, outcome))
                self.next, self.heard = index + 1, time.monotonic()
        except (EOFError, OSError):
            results += self._buried()
        if not self.done and time.monotonic() - self.heard > PATIENCE:
            os.kill(self.pid, signal.SIGKILL)
            results += self._buried(f"hangs: nothing heard for {PATIENCE} s")
        return results

    def _buried(self, why: str = "") -> list[tuple[int, Outcome]]:
        _, status = os.waitpid(self.pid, 0)
        self.pipe.close()
        if self.done:
            self.pid = 0
            return []
        ended = os.waitstatus_to_exitcode(status)
        name = signal.Signals(-ended).name if ended < 0 else f"exit code {ended}"
        why = why or (f"hangs: more than {STOPPED} s" if name == "SIGXCPU" else f"dead: {name}")
        lost = (self.next, Outcome(FAILED, why, float(STOPPED), 0.0))
        self.next += 1
        if not self.done:
            self._begin()
        else:
            self.pid = 0
        return [lost]

    def close(self) -> None:
        """End the child, where it still lives, and remove its folder."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        shutil.rmtree(self.folder, ignore_errors=True)


def once(reader, folder: Path, name: str, content: bytes) -> Outcome:
    """What comes of one file, in a process of its own."""
    worker = Worker(reader, folder, lambda first: [(0, (name, content))][first:], 0, 1)
    try:
        while True:
            if results := worker.step():
                return results[0][1]
            worker.pipe.poll(0.5)
    finally:
        worker.close()
