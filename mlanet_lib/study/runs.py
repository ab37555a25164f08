"""Which trainings a study has: one for the network, one for each variant of the ablation and seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlanet_lib.errors import UserError
from mlanet_lib.face_model.model import MorphableModel
from mlanet_lib.network.checkpoint import export_weights, load_network
from mlanet_lib.network.mlanet import MLANet, NetworkConfig
from mlanet_lib.study.params import Params, variant_params
from mlanet_lib.training.config import Job, TrainConfig

OUTPUTS = Path("outputs")
"""Where the stages write, in the project's root."""
MAIN = "train"
PREFIX = "ablation/"


@dataclass(frozen=True)
class Run:
    """One training: what is trained, with which seed, and into which folder its weights go."""

    name: str
    seed: int
    network: NetworkConfig
    train: TrainConfig
    folder: Path

    def job(self, model: MorphableModel, data: Path) -> Job:
        """The training on the splits `train` and `validation` in the folder `data`."""
        return Job(self.train, self.network, model, data / "train", data / "validation", self.folder, self.seed)


def plan(params: Params, run: str) -> list[Run]:
    """The trainings behind a run's name: "train" is one, "ablation/KEY" one for each of `ablation.seeds`.

    UserError for another name or an unknown variant.
    """
    if run == MAIN:
        return [Run(MAIN, params.seed, params.network, params.train, OUTPUTS / "train")]
    if not run.startswith(PREFIX):
        raise UserError(f"run {run!r} is neither {MAIN!r} nor {PREFIX}VARIANT")
    variant = run.removeprefix(PREFIX)
    network, train = variant_params(params, variant)
    folder = OUTPUTS / "ablation" / variant
    return [Run(run, seed, network, train, folder / f"seed_{seed}") for seed in params.ablation.seeds]


def trained_networks(runs: Sequence[Run], model: MorphableModel) -> dict[int, MLANet]:
    """Seed -> the best network of that run, in evaluation mode. UserError if a run left none."""
    return {run.seed: load_network(run.folder / "best.safetensors", model)[0] for run in runs}


def shrink(runs: Sequence[Run]) -> None:
    """Keep of finished trainings what is looked at later: the best weights in half precision, and the curves."""
    for run in runs:
        export_weights(run.folder / "best.safetensors", run.folder / "best.safetensors")
        (run.folder / "last.safetensors").unlink(missing_ok=True)
