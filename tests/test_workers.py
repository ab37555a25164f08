import pytest
import torch

from mlanet_lib.datasets.workers import run_tasks, worker_pool


def threads_and_task(model, task):
    """At module level, so that a process that is started anew finds it."""
    return model.name, torch.get_num_threads(), task


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_come_back_in_order_each_computed_with_one_thread(toy_model, workers):
    before = torch.get_num_threads()
    with worker_pool(toy_model, workers) as pool:
        assert (pool is None) == (workers == 1)
        results = list(run_tasks(threads_and_task, toy_model, list(range(5)), pool, "testing", progress=False))
    assert results == [("toy", 1, k) for k in range(5)]
    assert torch.get_num_threads() == before
