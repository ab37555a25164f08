"""The study of profile `paper` in a clone of its own, on tiny files of the published structure, begun early.

It is mostly waiting for one notebook's kernel after another, on one core: the first test of a session starts it, and it
runs while the others do.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tiny_project import TINY, Command, commit_tree, git, run, set_values, set_variants
from toy_bfm import toy_bfm, write_3ddfa
from toy_photos import write_300w_lp, write_aflw2000

from mlanet_lib.data.synthetic.faces import SyntheticConfig
from mlanet_lib.data.synthetic.stand_ins import write_florence
from mlanet_lib.face_sources.bfm2009.convert import convert
from mlanet_lib.face_sources.bfm2009.raw import RawBfm

MODEL = "licensed/face_models/bfm2009_3ddfa.npz"
VALUES = {name: value for name, value in TINY.items() if not name.startswith("data.")}
VALUES |= {"data.image_size": 32, "data.sources.300w_lp.validation": 0.3, "ablation.seeds": [0]}
VALUES |= {"network.backbone": "resnet10t", "network.pretrained": False}


@dataclass(frozen=True)
class PaperStudy:
    """project: the clone; missing: `mlanet data check` before the face model was converted; converted: that; checked:
    `mlanet data check` after; repro: `dvc repro`."""

    project: Path
    missing: Command
    converted: Command
    checked: Command
    repro: Command


def begin(folder: Path, toy_model) -> Future:
    """Make the clone and fill its licensed folders now, and run the study in a thread: a future `PaperStudy`."""
    commit_tree(folder / "source")
    project = folder / "clone"
    git(folder, "clone", "--quiet", str(folder / "source"), str(project))
    licensed = project / "licensed"
    (licensed / "BFM").mkdir(parents=True)
    write_3ddfa(licensed / "BFM", toy_bfm(toy_model), texture=False)
    model, raw = convert(licensed / "BFM", albedo_from=toy_model), RawBfm.load(licensed / "BFM")
    write_300w_lp(licensed / "300W_LP", model, raw, photos=12, turns=2)
    (licensed / "300W_LP" / "truth.npz").unlink()
    write_aflw2000(licensed / "AFLW2000-3D", model, raw, per_bin=2)
    write_florence(SyntheticConfig(scans=1, photo_size=96), model, licensed / "florence", 0, progress=False)
    pool = ThreadPoolExecutor(1)
    study = pool.submit(_run, project)
    pool.shutdown(wait=False)
    return study


def _run(project: Path) -> PaperStudy:
    pulled = run(project, "dvc", "pull", "data.dvc")  # the portraits
    assert pulled.code == 0, pulled.text
    used = run(project, "mlanet", "profile", "use", "paper")
    assert used.code == 0, used.text
    set_values(project, VALUES)
    set_variants(project, {"full": {}})
    missing = run(project, "mlanet", "data", "check")
    converted = run(project, "mlanet", "face-model", "convert", "bfm2009", "licensed/BFM", "--out", MODEL)
    checked = run(project, "mlanet", "data", "check")
    return PaperStudy(project, missing, converted, checked, run(project, "dvc", "repro"))
