"""The recipe for several machines in docs/scaling.md, as it stands there, on a cluster of two processes."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

from mlanet_lib.predictor.bulk import Settings

distributed = pytest.importorskip("dask.distributed")


@pytest.fixture(scope="module")
def recipe():
    (text,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "scaling.md").read_text(), re.M | re.S)
    found = {}
    exec(compile(text, "docs/scaling.md", "exec"), found)
    return SimpleNamespace(**found)


@pytest.fixture
def photos(tmp_path):
    source = sorted((ROOT / "data" / "portraits").glob("*_neutral.jpg"))[:3]
    if not source or not (ROOT / "weights" / "ict.safetensors").is_file():
        pytest.skip("portraits and weights are not here: dvc pull data.dvc weights.dvc")
    for path in source:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    Image.fromarray(np.full((90, 90, 3), 127, np.uint8)).save(tmp_path / "nobody.png")
    return sorted(map(str, [*tmp_path.glob("*.jpg"), *tmp_path.glob("*.png")]))


def test_a_list_of_photos_on_two_workers(recipe, photos, tmp_path):
    settings = Settings(out=str(tmp_path / "faces"))
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "processes": True}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        first = list(recipe.reconstruct_all(client, photos, settings, at_once=2))
        again = list(recipe.reconstruct_all(client, photos, settings, at_once=2))
    assert sorted(outcome.photo for outcome in first) == photos
    assert sum(outcome.faces for outcome in first) == 3 and sum(outcome.error is not None for outcome in first) == 2
    assert len(list((tmp_path / "faces").glob("*.glb"))) == 3
    assert sum(outcome.skipped for outcome in again) == 3 and not any(outcome.faces for outcome in again)
