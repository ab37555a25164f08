"""What the tests of the synthetic faces share."""

import pytest

from mlanet_lib.data.synthetic.workers import worker_pool


@pytest.fixture(scope="package")
def two_workers(toy_model):
    """A pool of two processes with the toy face model: starting one takes seconds."""
    with worker_pool(toy_model, 2) as pool:
        yield pool
