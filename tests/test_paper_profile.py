"""The profile `paper`, whole, on tiny files of the published structure: every loader, every stage, one code path.

BFM as 3DDFA's MATLAB files, 300W-LP, AFLW2000-3D and Florence folders, all of toy faces; whoever has the real ones puts
them into the same places.
"""

import json

import numpy as np
import pytest
from tiny_project import run

pytestmark = pytest.mark.timeout(900)


def test_what_is_missing_is_said_before_anything_runs(paper_study):
    assert paper_study.missing.code == 2 and "bfm2009_3ddfa.npz is not here" in paper_study.missing.text


def test_data_check_looks_all_over_and_writes_the_manifest(paper_study):
    assert paper_study.converted.code == 0, paper_study.converted.text
    assert paper_study.checked.code == 0, paper_study.checked.text
    assert "licensed/manifest.json; dvc repro can run" in paper_study.checked.text
    manifest = json.loads((paper_study.project / "licensed" / "manifest.json").read_text())
    assert manifest["300w_lp"]["files"] == 12 * 2 * 2 * 2  # a jpg and a mat for every turn and its mirror image


def test_the_whole_study_runs_on_files_of_the_published_structure(paper_study):
    project = paper_study.project
    assert paper_study.repro.code == 0, paper_study.repro.text[-6000:]
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


def test_a_file_more_is_noticed(paper_study):
    project = paper_study.project
    (project / "licensed" / "300W_LP" / "AFW" / "AFW_999999_1_0.jpg").write_bytes(b"not yet looked over")
    done = run(project, "dvc", "repro", "--force", "--single-item", "prepare_data")
    assert done.code != 0 and "run mlanet data check" in done.text
