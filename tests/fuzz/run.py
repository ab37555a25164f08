"""Readers against damaged files, writers against faults: `make fuzz`, minutes, in no test run.

    python tests/fuzz/run.py [--reader NAME] [--count 10000] [--seed 0] [--keep FOLDER] [--workers 2] [--no-writers]

Every reader gets so many damaged files (`fuzz.mutate`). Right is a value that keeps the reader's promise, or a
`UserError` of one line; wrong is any other exception, more than 5 s of the processor, more than 1 GB of memory, or a
dead process. One table, then what was wrong, a line for each kind. With --keep, inputs that failed are written, the
first of a kind without what the failure does not need. The same seed makes the same files. Exit code 1 where anything
was wrong.
"""

import argparse
import multiprocessing.connection
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "helpers"))

import torch
from fuzz import writers
from fuzz.readers import Reader, readers
from fuzz.worker import FAILED, READ, REFUSED, Outcome, Worker, generator, once

KEPT, SHRINKING = 3, 5.0  # inputs of each kind of failure, and seconds to make the first smaller


@dataclass
class Tally:
    """What came of one reader's inputs. failures: by kind, the inputs' numbers and the first's text."""

    counts: Counter = field(default_factory=Counter)
    seconds: float = 0.0
    megabytes: float = 0.0
    failures: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    chatter: list[str] = field(default_factory=list)

    def add(self, index: int, outcome: Outcome) -> None:
        self.counts[outcome.kind] += 1
        self.seconds, self.megabytes = max(self.seconds, outcome.seconds), max(self.megabytes, outcome.megabytes)
        if outcome.kind == FAILED:
            self.failures.setdefault(signature(outcome.text), []).append((index, outcome.text))
        if outcome.chatter:
            self.chatter.append(outcome.chatter)

    def row(self, name: str) -> str:
        counts = "".join(f"{self.counts[kind]:10,}" for kind in (READ, REFUSED, FAILED))
        return f"{name:14}{self.counts.total():10,}{counts}{self.seconds:10.2f}{self.megabytes:10.0f}"


HEADER = f"{'reader':14}{'inputs':>10}{'read':>10}{'refused':>10}{'failures':>10}{'worst s':>10}{'worst MB':>10}"


def signature(text: str) -> str:
    """The kind of a failure: the exception and where, without numbers that differ."""
    return text.split(":")[0] if text.startswith(("slow", "memory", "not one")) else ":".join(text.split(":")[:2])


def fuzz(name: str, reader: Reader, folder: Path, count: int, seed: int, workers: int) -> Tally:
    """Read `count` damaged files in so many processes."""

    def inputs(last: int):
        return lambda first: ((k, reader.damaged(generator(seed, name, k))) for k in range(first, last))

    edges = [count * k // workers for k in range(workers + 1)]
    spans = list(pairwise(edges))
    crew = [Worker(reader, folder / f"{name}-{a}", inputs(b), a, b) for a, b in spans if b > a]
    tally = Tally()
    try:
        while any(not worker.done for worker in crew):
            multiprocessing.connection.wait([worker.pipe for worker in crew if not worker.done], timeout=1)
            for worker in crew:
                for index, outcome in worker.step() if not worker.done else ():
                    tally.add(index, outcome)
    finally:
        for worker in crew:
            worker.close()
    return tally


def keep(name: str, reader: Reader, tally: Tally, seed: int, scratch: Path, folder: Path) -> None:
    """Write some inputs of every kind of failure, the first as small as cutting makes it in a while."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, found in tally.failures.items():
        for number, (index, _) in enumerate(found[:KEPT]):
            file, content = reader.damaged(generator(seed, name, index))
            if number == 0:
                content = shrunk(reader, scratch, file, content, kind)
            label = re.sub(r"\W+", "_", f"{name} {index} {kind}")[:80]
            (folder / f"{label}{Path(file).suffix}").write_bytes(content)


def shrunk(reader: Reader, scratch: Path, file: str, content: bytes, kind: str) -> bytes:
    """`content` without blocks that the failure does not need."""
    end, block = time.monotonic() + SHRINKING, len(content) // 2
    while block:
        at = 0
        while at < len(content) and time.monotonic() < end:
            less = content[:at] + content[at + block :]
            outcome = once(reader, scratch / "shrink", file, less)
            if outcome.kind == FAILED and signature(outcome.text) == kind:
                content = less
            else:
                at += block
        block //= 2
    return content


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", metavar="NAME", action="append", help="only this one; may be given again")
    parser.add_argument("--count", type=int, default=10_000, help="damaged files of each reader (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write what failed there")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--no-writers", action="store_true", help="readers only")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        (Path(place) / "made").mkdir()
        known = readers(Path(place) / "made")
        if strange := set(options.reader or ()) - known.keys():
            parser.error(f"no reader {', '.join(strange)}; there are {', '.join(known)}")
        for name in options.reader or known:
            known[name].check(Path(place) / "whole")
        print(HEADER, flush=True)
        tallies = {}
        for name in options.reader or known:
            began = time.monotonic()
            tallies[name] = fuzz(name, known[name], Path(place), options.count, options.seed, options.workers)
            print(f"{tallies[name].row(name)}   ({time.monotonic() - began:.0f} s)", flush=True)
        for name, tally in tallies.items():
            for kind, found in sorted(tally.failures.items()):
                print(f"{name}: {len(found)} x {kind}, first no. {found[0][0]}: {found[0][1]}")
            if tally.chatter:
                print(f"{name}: {len(tally.chatter)} inputs made a library write on stderr, as {tally.chatter[0]!r}")
            if options.keep:
                keep(name, known[name], tally, options.seed, Path(place), options.keep)
    wrong = any(tally.failures for tally in tallies.values())
    if not (options.no_writers or options.reader):
        wrong |= bool(writers.report([], most=20))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
