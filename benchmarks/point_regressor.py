"""What MLANet is compared with: a plain network that predicts the 68 points themselves, trained on the same data.

    python benchmarks/point_regressor.py train --steps N --out FOLDER [--backbone resnet18] [--threads 1]
    python benchmarks/point_regressor.py evaluate --weights FOLDER/best.safetensors --folder AFLW2000 [--json out.json]

A timm backbone, global average pooling and one linear layer: no face model, no attention, no picture rendered. `train`
takes data, crops, first weights of the backbone, schedule and augmentation as params.yaml has them for `mlanet train`,
and of its losses the landmarks' alone; samples without landmarks are left out. It goes on from FOLDER/last.safetensors,
on a CPU bit for bit as if it had not been stopped, and refuses where parameters, data or code have changed since. The
time it prints is that of the steps alone. What it leaves is a start for MLANet's backbone, too (`network.start`).
`evaluate` is AFLW2000-3D's sparse alignment on crops from the ground truth.
"""

import argparse
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.sparse import AFLWResult, evaluate_aflw2000, summary_text
from mlanet_lib.evaluation.systems import CropPrediction, PointSystem
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.files.atomic import check_writable
from mlanet_lib.files.project import find_root
from mlanet_lib.files.records import write_json
from mlanet_lib.metrics import sparse_nme
from mlanet_lib.network import NetworkConfig, checkpoint
from mlanet_lib.network.mlanet import HEAD_INIT, make_backbone
from mlanet_lib.network.pretrained import normalisation
from mlanet_lib.study.params import load_params
from mlanet_lib.training.config import Job
from mlanet_lib.training.data import KINDS, Batch, TrainingData
from mlanet_lib.training.loop import FitResult, Trainer
from mlanet_lib.training.losses import landmark_loss
from mlanet_lib.training.resume import LAST


class PointRegressor(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> points (B, 68, 2) in crop sides.

    config: `backbone` and `pretrained` are read, and the backbone starts with the weights that MLANet's does.
    mean: (68, 2) crop sides, what the network says of every picture at first, to within 1e-3.
    """

    def __init__(self, config: NetworkConfig, mean: Tensor):
        super().__init__()
        self.backbone, self.pretrained_weights = make_backbone(replace(config, levels=(4,)))
        self.points = nn.Linear(self.backbone.feature_info.channels()[-1], mean.numel())
        nn.init.normal_(self.points.weight, std=HEAD_INIT)
        self.points.bias.data.copy_(mean.flatten() - 0.5)
        for name, value in zip(("mean", "std"), normalisation(self.backbone), strict=True):
            self.register_buffer(f"pixel_{name}", torch.tensor(value).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.backbone((images - self.pixel_mean) / self.pixel_std)[-1].float().mean((2, 3))
        with torch.autocast(images.device.type, enabled=False):  # points in bfloat16 would be 0.2 % of a crop coarse
            return 0.5 + self.points(pooled).unflatten(1, (68, 2))


class PointTrainer(Trainer):
    """The training of a `PointRegressor`. seconds: those of the steps alone."""

    seconds = 0.0

    def architecture(self) -> dict:
        return {name: getattr(self.job.network, name) for name in ("backbone", "pretrained", "image_size")}

    def build(self, fresh: bool) -> PointRegressor:
        config = replace(self.job.network, pretrained=self.job.network.pretrained and fresh)
        return PointRegressor(config, torch.tensor(self.data.constant()["landmarks"]))

    def losses(self, rows: Tensor, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        with self.autocast:
            points = self.call(batch.images)
        hidden = self.config.hidden_weight
        weights = (hidden + (1 - hidden) * batch.visible) * batch.confidence
        weights = weights * (batch.points_set == 0)[:, None]  # it says the points by 3DDFA's definition
        loss = landmark_loss(points, batch.landmarks, weights)
        return {"landmarks": loss, "total": loss}, {"points": points}

    def figures(self) -> dict[str, float]:
        return {"val_nme": validate(self.state.average, self.held_out)}

    def step(self) -> None:
        began = time.perf_counter()
        super().step()
        self.seconds += time.perf_counter() - began


def train(job: Job) -> tuple[FitResult, float]:
    """Train on the CPU with the samples that have landmarks; the files are those of `loop.fit`.

    Returns the result, and the pictures a second of the steps made here (NaN: none was left to make). UserError for a
    checkpoint in the folder of another run, and for a loss that is not finite.
    """
    kinds = tuple(kind for kind in KINDS[:2] if kind in job.train.kinds)
    job = replace(
        job,
        train=replace(job.train, kinds=kinds, photometric_batch=0, processes=1, compile=False),
        network=replace(job.network, start=None),
    )
    last = job.out_folder / LAST
    trainer = PointTrainer(job, last if last.exists() else None)
    result = trainer.run()
    made = (result.step - result.resumed_from) * trainer.batch_size
    return result, made / trainer.seconds if made else math.nan


@torch.no_grad()
def validate(network: nn.Module, data: TrainingData) -> float:
    """Mean NME in % of a network in evaluation mode, on the samples that `validation.validate` takes its `val_nme`
    from: photos alone, where there are any."""
    points = torch.cat([network(data.batch(rows).images) for rows in torch.arange(len(data)).split(128)])
    errors = sparse_nme(points.double().numpy(), data.labels["landmarks"].double().numpy())
    photos = (~data.lit).numpy()
    return float(errors[photos].mean() if photos.any() else errors.mean())


def evaluate(weights: Path, folder: Path) -> AFLWResult:
    """A checkpoint of `train` on a folder in AFLW2000-3D's layout, beside the training set's mean points."""
    tensors, metadata = checkpoint.read(weights)
    if "network.points.weight" not in tensors:
        raise UserError(f"{weights} holds another network; {Path(__file__).name} train makes those that are meant")
    architecture = metadata["network"]
    config = NetworkConfig(architecture["backbone"], image_size=architecture["image_size"])
    network = PointRegressor(config, torch.zeros(68, 2))
    checkpoint.load_state(weights, network, tensors, "network.")
    network = network.to(memory_format=torch.channels_last).eval()

    @torch.no_grad()
    def predict(crops: Tensor) -> CropPrediction:
        return CropPrediction(network(crops).numpy())

    name = f"{weights.name} (points, {config.backbone}, step {metadata['step']})"
    return evaluate_aflw2000(folder, PointSystem(predict, config.image_size, name, metadata))


def run_train(options: argparse.Namespace) -> None:
    out = options.out.resolve()
    check_writable(out)
    os.chdir(find_root())
    params = load_params()
    config, network = replace(params.train, steps=options.steps), replace(params.network, backbone=options.backbone)
    model, data = MorphableModel.load(params.face_model.path), Path(params.paths.training)
    result, rate = train(Job(config, network, model, data / "train", data / "validation", out, params.seed))
    best = result.best
    print(f"step {result.step}, best at step {best['step']}: nme {best['val_nme']:.3f} %; {out}")
    if math.isnan(rate):
        print("no step was left to make")
    else:
        print(f"{rate:.1f} images/s, {options.threads} thread(s), {options.backbone}, {network.image_size} px")


def run_evaluate(options: argparse.Namespace) -> None:
    if options.json:
        check_writable(options.json.parent)
    result = evaluate(options.weights, options.folder)
    if options.json:
        write_json(options.json, result)
    print(summary_text(result.summary))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("train")
    verb.add_argument("--steps", type=int, required=True)
    verb.add_argument("--out", type=Path, required=True, help="folder for the weights, and to go on from")
    verb.add_argument("--backbone", default="resnet18", help="any timm name")
    verb.set_defaults(run=run_train)
    verb = verbs.add_parser("evaluate")
    verb.add_argument("--weights", type=Path, required=True)
    verb.add_argument("--folder", type=Path, required=True, help="photos with .mat files, as AFLW2000-3D comes")
    verb.add_argument("--json", type=Path, help="where the result goes, too")
    verb.set_defaults(run=run_evaluate)
    for verb in verbs.choices.values():
        verb.add_argument("--threads", type=int, default=1, help="of the CPU (default: 1)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        options.run(options)
    except UserError as error:
        print(f"point_regressor: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
