"""The fuzzing of `make fuzz`, a little of it: that it sees what is wrong, and that nothing is on a few of its files."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from fuzz import faults, mutate, worker
from fuzz.readers import Reader, readers
from fuzz.run import Tally, fuzz

from mlanet_lib.errors import UserError
from mlanet_lib.files.records import write_json

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts a process's memory")


def by_content(path: Path) -> None:
    """What the file's first letter says."""
    what = path.read_text()[:1]
    if what == "r":
        raise UserError("no")
    if what == "e":
        raise KeyError("x")
    if what == "d":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "h":
        while True:
            pass
    if what == "m":
        np.ones(40_000_000)


def test_the_fuzzing_sees_whatever_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "STOPPED", 4)
    monkeypatch.setattr(worker, "MEGABYTES", 200)
    letters = iter("vrredhmrv")
    contents = [(f"{letter}.txt", letter.encode()) for letter in letters]
    reader = Reader(by_content, [])
    crew = worker.Worker(reader, tmp_path / "x", lambda first: list(enumerate(contents))[first:], 0, len(contents))
    tally = Tally()
    while not crew.done:
        crew.pipe.poll(0.2)
        for index, outcome in crew.step():
            tally.add(index, outcome)
    crew.close()
    assert tally.counts == {"read": 2, "refused": 3, "failed": 4}
    texts = sorted(text for found in tally.failures.values() for _, text in found)
    assert [text.split(":")[0] for text in texts] == ["KeyError at test_fuzz.py", "dead", "hangs", "memory"]
    assert "SIGSEGV" in texts[1]


@pytest.mark.parametrize("text", ["two\nlines", "x" * 2000, "\x1b[31m", "\ud800"])
def test_what_is_not_one_line_fails(text, monkeypatch):
    assert worker.unclear("one line") == (worker.REFUSED, "one line")
    assert worker.unclear(text)[0] == worker.FAILED


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return readers(tmp_path_factory.mktemp("made"))


def test_whole_files_are_read_and_a_few_damaged_ones_read_or_refused(known, tmp_path):
    for name, reader in known.items():
        reader.check(tmp_path / "whole")
        one, other = (reader.damaged(worker.generator(3, name, 5)) for _ in range(2))
        assert one == other
        tally = fuzz(name, reader, tmp_path, count=4, seed=7, workers=1)
        assert tally.counts.total() == 4 and not tally.failures, (name, tally.failures)


def test_mutators_change_files_and_the_repairs_hold():
    rng, data = np.random.default_rng(0), bytes(range(256)) * 4
    for mutator in (*mutate.BINARY, *mutate.TEXT, mutate.json_text):
        assert sum(mutator(rng, data) != data for _ in range(20)) > 10, mutator
    text = b'{"a": [1, 2, {"b": null}], "c": "d"}'
    assert len({mutate.json_text(rng, text) for _ in range(50)}) > 30


@pytest.mark.skipif(bool(faults.available()), reason="strace is not here, or may not trace")
def test_faults_in_a_write_are_seen(tmp_path, monkeypatch):
    calls = {"disk full": ("write", "fsync"), "SIGKILL": ("write", "rename")}
    monkeypatch.setattr(faults, "FAULTS", {name: (calls[name], faults.FAULTS[name][1]) for name in calls})
    whole = faults.Writer(lambda folder, version: write_json(folder / "a.json", {"version": version}), most=1)
    tally = faults.hunt(whole, tmp_path / "whole")
    assert tally.faults == tally.old == 8 and tally.left == 4 and not tally.third, tally

    def carelessly(folder: Path, version: int) -> None:
        (folder / "b.txt").write_text(f"{version}" * 9)

    tally = faults.hunt(faults.Writer(carelessly), tmp_path / "careless")
    assert any("SIGKILL at write 1" in text and "b.txt" in text for text in tally.third), tally
