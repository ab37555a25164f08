"""The profile `paper`, whole, on tiny files of the published structure: every loader, every stage, one code path.

BFM as 3DDFA's MATLAB files, 300W-LP, AFLW2000-3D and Florence folders, all of toy faces; whoever has the real ones puts
them into the same places.
"""

import json

import numpy as np
import pytest
from tiny_project import TINY, commit_tree, git, run, set_values, set_variants
from toy_bfm import toy_bfm, write_3ddfa
from toy_photos import write_300w_lp, write_aflw2000

from mlanet_lib.datasets.stand_ins import write_florence
from mlanet_lib.datasets.synthetic import SyntheticConfig
from mlanet_lib.face_models.bfm2009 import RawBfm, convert

pytestmark = pytest.mark.timeout(900)
SMALLER = {name: value for name, value in TINY.items() if not name.startswith("data.")}
SMALLER |= {
    "data.image_size": 32,
    "data.sources.300w_lp.validation": 0.3,
    "network.backbone": "resnet10t",
    "network.pretrained": False,
    "ablation.seeds": [0],
}


@pytest.fixture(scope="module")
def project(toy_model, tmp_path_factory):
    """A clone with the profile put in and the licensed folders filled."""
    base = tmp_path_factory.mktemp("paper")
    commit_tree(base / "source")
    folder = base / "clone"
    git(base, "clone", "--quiet", str(base / "source"), str(folder))
    assert run(folder, "mlanet", "profile", "use", "paper").code == 0
    set_values(folder, SMALLER)
    set_variants(folder, {"full": {}})
    licensed = folder / "licensed"
    (licensed / "BFM").mkdir(parents=True)
    write_3ddfa(licensed / "BFM", toy_bfm(toy_model), texture=False)
    model, raw = convert(licensed / "BFM", albedo_from=toy_model), RawBfm.load(licensed / "BFM")
    write_300w_lp(licensed / "300W_LP", model, raw, photos=12, turns=2)
    (licensed / "300W_LP" / "truth.npz").unlink()
    write_aflw2000(licensed / "AFLW2000-3D", model, raw, per_bin=2)
    write_florence(SyntheticConfig(scans=1, photo_size=96), model, licensed / "florence", 0, progress=False)
    return folder


def test_what_is_missing_is_said_before_anything_runs(project):
    done = run(project, "mlanet", "data", "check")
    assert done.code == 2 and "bfm2009_3ddfa.npz is not here" in done.text


def test_the_whole_study_runs_on_files_of_the_published_structure(project):
    converted = run(
        project, "mlanet", "face-model", "convert", "bfm2009", "licensed/BFM", "--out",
        "licensed/face_models/bfm2009_3ddfa.npz",
    )  # fmt: skip
    assert converted.code == 0, converted.text
    checked = run(project, "mlanet", "data", "check")
    assert checked.code == 0, checked.text
    assert "licensed/manifest.json; dvc repro can run" in checked.text
    manifest = json.loads((project / "licensed" / "manifest.json").read_text())
    assert manifest["300w_lp"]["files"] == 12 * 2 * 2 * 2  # a jpg and a mat for every turn and its mirror image

    done = run(project, "dvc", "repro")
    assert done.code == 0, done.text[-6000:]
    kind = np.load(project / "outputs" / "data" / "train" / "300w_lp" / "labels.npz")["kind"]
    assert len(kind) >= 20 and (kind == 0).all()  # BFM's own parameters
    metrics = json.loads((project / "outputs" / "metrics" / "aflw2000.json").read_text())
    assert metrics["sparse_nme"]["images"] == [2, 2, 2, 6]
    assert metrics["dense"]["computed"] and metrics["dense"]["dense_nme"]["balanced_mean"] > 0
    florence = json.loads((project / "outputs" / "metrics" / "florence.json").read_text())
    assert florence["subjects"] == 1
    report = (project / "outputs" / "report" / "report.html").read_text()
    assert "bfm2009_3ddfa" in report
    assert run(project, "git", "status", "--porcelain", "licensed").text.strip() == ""


def test_a_file_more_is_noticed(project):
    (project / "licensed" / "300W_LP" / "AFW" / "AFW_999999_1_0.jpg").write_bytes(b"not yet looked over")
    done = run(project, "dvc", "repro", "--force", "--single-item", "prepare_data")
    assert done.code != 0 and "run mlanet data check" in done.text
