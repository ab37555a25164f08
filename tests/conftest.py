"""Fixtures that several tests share, and which files begin first."""

import contextlib
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # every core has a worker, and the processes that tests start are many

import pytest
import torch
import toy_model as toy
from paths import ROOT

from mlanet_lib.face_model import MorphableModel

pytest_plugins = ["toy_report"]
torch.set_num_threads(1)

LONGEST = ("test_pipeline", "test_paper_profile", "test_processes", "test_start", "test_browser")
"""Files that take a minute begin first, so that no worker ends long after the others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(autouse=True)
def back_in_the_folder():
    """Every test begins in the project's root: the program's verbs work in their project's folder, and stay there."""
    with contextlib.chdir(ROOT):
        yield


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory):
    """The whole study at a tiny size, reproduced by DVC in a clean clone: `tiny_project.TinyStudy`."""
    import tiny_project

    return tiny_project.reproduce(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def paper_study(tmp_path_factory, toy_model):
    """A clone of profile `paper` with tiny files of the published structure: `paper_study.PaperStudy`."""
    import paper_study

    return paper_study.prepare(tmp_path_factory.mktemp("paper"), toy_model)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that stands beside a checkout; tests that need it skip where it is missing."""
    folder = Path(os.environ.get("MLANET_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not here: {folder} (set MLANET_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def face_model() -> MorphableModel:
    """The default face model, as the data have it; making it again needs sources that are not here."""
    path = ROOT / "data" / "face_models" / "ict.npz"
    if not path.is_file():
        pytest.skip("the default face model is not here: dvc pull data.dvc")
    return MorphableModel.load(path)


@pytest.fixture(scope="session")
def ict_model(face_model) -> MorphableModel:
    """The same: for the time being it is ICT-FaceKit's."""
    return face_model


@pytest.fixture(scope="session")
def published_head(shared_data):
    """ICT-FaceKit's published head (`ict_facekit.Whole`), read once."""
    from mlanet_lib.face_sources.ict import facekit

    archive = shared_data / "ict_facekit" / "FaceXModel.tar.xz"
    if not archive.is_file():
        pytest.skip(f"real data not here: {archive}")
    return facekit.whole(archive)


@pytest.fixture(scope="session")
def toy_model() -> MorphableModel:
    """A small ellipsoid 'face' (mm) with 5 identity, 4 expression and 3 albedo modes, for tests of everything else."""
    return toy.build()
