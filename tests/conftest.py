"""Fixtures that several tests share."""

import os
from pathlib import Path

import pytest
import torch
import toy_model as toy
from paths import ROOT

from mlanet_lib.face_model import MorphableModel

pytest_plugins = ["toy_report"]
torch.set_num_threads(1)  # the studies that the tests start keep the other cores busy


@pytest.fixture(scope="session", autouse=True)
def _paper_study(request, tmp_path_factory):
    """Begins the study of the paper profile where one of its tests was asked for; see `paper_study`."""
    if not any(item.path.name == "test_paper_profile.py" for item in request.session.items):
        return None
    import paper_study

    return paper_study.begin(tmp_path_factory.mktemp("paper"), request.getfixturevalue("toy_model"))


@pytest.fixture(scope="session")
def paper_study(_paper_study):
    """The finished study (`paper_study.PaperStudy`)."""
    return _paper_study.result(timeout=900)


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
def ict_model() -> MorphableModel:
    """The default face model as it is shipped; tests that need it skip where it is missing."""
    path = ROOT / "data" / "face_models" / "ict.npz"
    if not path.is_file():
        pytest.skip(f"face model not here: {path.relative_to(ROOT)}")
    return MorphableModel.load(path)


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
