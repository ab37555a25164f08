import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from mlanet_lib.data.synthetic import workers
from mlanet_lib.data.synthetic.workers import run_tasks, worker_pool
from mlanet_lib.errors import UserError


def threads_and_task(model, task):
    """At module level, so that a process that is started anew finds it."""
    return model.name, torch.get_num_threads(), task


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_come_back_in_order_each_computed_with_one_thread(toy_model, request, workers):
    before = torch.get_num_threads()
    with worker_pool(toy_model, 1) as alone:
        assert alone is None
    pool = None if workers == 1 else request.getfixturevalue("two_workers")
    results = list(run_tasks(threads_and_task, toy_model, [(k,) for k in range(5)], pool, "testing"))
    assert results == [("toy", 1, k) for k in range(5)]
    assert torch.get_num_threads() == before


ORPHAN = """
import os, sys
from mlanet_lib.data.synthetic.workers import worker_pool

if __name__ == "__main__":
    os.environ["MLANET_PROCESSES"] = "2"
    with worker_pool(None, 2) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        sys.stdin.read()
"""


def alive(pid):
    """Whether the process runs; one that has ended and waits to be looked at does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_workers_end_with_the_process_that_started_them_however_it_ends(tmp_path):
    (tmp_path / "orphan.py").write_text(ORPHAN)
    command = [sys.executable, str(tmp_path / "orphan.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        worker = int(starter.stdout.readline())
        assert alive(worker)
        os.kill(starter.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    survived = alive(worker)
    if survived:
        os.kill(worker, signal.SIGKILL)
    assert not survived


def test_more_workers_than_cores_are_refused_before_any_starts(monkeypatch):
    def started(*arguments):
        raise AssertionError("a pool was made")

    monkeypatch.delenv("MLANET_PROCESSES", raising=False)
    monkeypatch.setattr(workers, "ProcessPoolExecutor", started)
    monkeypatch.setattr(workers, "cores", lambda: 4)
    with pytest.raises(UserError, match=r"^workers 9999 is more than the 4 cores here"), worker_pool(None, 9999):
        pass
