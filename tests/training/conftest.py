"""The toy data and the finished training that several tests share."""

import pytest
from toy_data import striped, write_toy_split
from toy_training import run


@pytest.fixture(scope="session")
def model(toy_model):
    return striped(toy_model)


@pytest.fixture(scope="session")
def folders(model, tmp_path_factory):
    """A training split with all kinds of samples, and a labelled validation split."""
    root = tmp_path_factory.mktemp("toy")
    train = write_toy_split(model, root / "train", 28, seed=0, kinds=(0, 0, 1, 2))
    return train, write_toy_split(model, root / "validation", 10, seed=1)


@pytest.fixture(scope="session")
def whole(model, folders, tmp_path_factory):
    """A training of 9 steps with seed 5 that nobody stopped."""
    return run(model, folders, tmp_path_factory.mktemp("whole"), seed=5)
