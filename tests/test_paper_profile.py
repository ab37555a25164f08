"""The profile `paper`, whole, on tiny files of the published structure: every loader, every notebook, one code path.

BFM as 3DDFA's MATLAB files, 300W-LP, AFLW2000-3D and Florence folders, all of toy faces; whoever has the real ones puts
them into the same places. Notebooks run cell by cell in this process; through DVC they do in a slow test.
"""

import json
import shutil

import numpy as np
import pytest
from paper_study import run_cells
from tiny_project import run

from mlanet_lib.errors import UserError

pytestmark = pytest.mark.timeout(900)
NOTEBOOKS = (
    ("00_explore", None),
    ("01_prepare_data", None),
    ("02_train", "train"),
    ("02_train", "ablation/full"),
    ("03_ablation", None),
    ("04_benchmark_aflw2000", None),
    ("05_benchmark_florence", None),
    ("06_report", None),
)
"""Each with what it is run as, in the pipeline's order."""


def test_what_is_missing_is_said_before_anything_runs(paper_study):
    code, text = paper_study.missing
    assert code == 2 and "bfm2009_3ddfa.npz is not here" in text


def test_data_check_looks_all_over_and_writes_the_manifest(paper_study):
    for code, text in (paper_study.converted, paper_study.checked):
        assert code == 0, text
    assert "licensed/manifest.json; dvc repro can run" in text
    manifest = json.loads((paper_study.project / "licensed" / "manifest.json").read_text())
    assert manifest["300w_lp"]["files"] == 12 * 2 * 2 * 2  # a jpg and a mat for every turn and its mirror image


def check_results(project):
    """The notebooks' results are those of the licensed files."""
    kind = np.load(project / "outputs" / "data" / "train" / "300w_lp" / "labels.npz")["kind"]
    assert len(kind) >= 20 and (kind == 0).all()  # BFM's own parameters
    metrics = json.loads((project / "outputs" / "metrics" / "aflw2000.json").read_text())
    assert metrics["sparse_nme"]["images"] == [2, 2, 2, 6]
    assert metrics["dense"]["computed"] and metrics["dense"]["label_offset_px"] < 0.01
    assert metrics["dense"]["dense_nme"]["by_yaw"]["balanced_mean"] > 0
    florence = json.loads((project / "outputs" / "metrics" / "florence.json").read_text())
    assert florence["subjects"] == 1
    assert "bfm2009_3ddfa" in (project / "outputs" / "report" / "report.html").read_text()
    assert run(project, "git", "status", "--porcelain", "licensed").text.strip() == ""


def test_the_notebooks_run_on_files_of_the_published_structure(paper_study):
    project = paper_study.project
    shutil.rmtree(project / "outputs")  # the published metrics
    for name, run_name in NOTEBOOKS:
        run_cells(project, name, run_name)
    check_results(project)


@pytest.mark.slow
def test_the_pipeline_runs_on_files_of_the_published_structure(paper_study):
    project = paper_study.project
    shutil.rmtree(project / "outputs")
    repro = run(project, "dvc", "repro")
    assert repro.code == 0, repro.text[-6000:]
    check_results(project)


def test_every_stage_is_known_in_this_profile(paper_study):
    """Their paths, parameters and variants are those of params.yaml."""
    done = run(paper_study.project, "dvc", "repro", "--dry", "--force")
    assert done.code == 0, done.text[-4000:]
    for part in ("prepare_data", "train", "ablation_run@full", "benchmark_florence", "report"):
        assert f"Running stage '{part}'" in done.text


def test_a_file_more_is_noticed(paper_study):
    project = paper_study.project
    (project / "licensed" / "300W_LP" / "AFW" / "AFW_999999_1_0.jpg").write_bytes(b"not yet looked over")
    with pytest.raises(UserError, match="run mlanet data check"):
        run_cells(project, "01_prepare_data")
