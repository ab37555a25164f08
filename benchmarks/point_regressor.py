"""What MLANet is compared with: a plain network that predicts the 68 points themselves, trained on the same data.

    python benchmarks/point_regressor.py train --steps N --out FOLDER [--backbone resnet18] [--threads 1]
    python benchmarks/point_regressor.py evaluate --weights FOLDER/best.safetensors --folder AFLW2000 [--json out.json]

A timm backbone, global average pooling and one linear layer: no face model, no attention, no picture rendered. `train`
takes data, crops, first weights of the backbone, schedule and augmentation as params.yaml has them for `mlanet train`,
and of its losses the landmarks' alone; samples without landmarks are left out. It goes on from FOLDER/last.safetensors,
on a CPU bit for bit as if it had not been stopped, and refuses where parameters or data have changed since (whether the
code has, it does not ask). The time it prints is that of the steps alone. What it leaves is a start for MLANet's
backbone, too (`network.start`). `evaluate` is AFLW2000-3D's sparse alignment on crops from the ground truth.
"""

import argparse
import copy
import math
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.sparse import AFLWResult, evaluate_aflw2000, summary_text
from mlanet_lib.evaluation.systems import CropPrediction, PointSystem
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.mirror import Mirror
from mlanet_lib.files.atomic import check_writable
from mlanet_lib.files.project import find_root
from mlanet_lib.files.records import write_json
from mlanet_lib.metrics import sparse_nme
from mlanet_lib.network import NetworkConfig, checkpoint
from mlanet_lib.network.mlanet import HEAD_INIT, _backbone
from mlanet_lib.study.params import load_params
from mlanet_lib.training.augmentation import augment, random_numbers
from mlanet_lib.training.data import KINDS, TrainingData, visiting_order
from mlanet_lib.training.loop import AVERAGE_EVERY, TrainConfig, _generator, resolved_precision
from mlanet_lib.training.losses import landmark_loss
from mlanet_lib.training.optimizer import adamw, learning_rate, load_optimizer, update_average
from mlanet_lib.training.resume import LAST, best_row, save, start

SAVE_EVERY = 500  # steps between checkpoints, beside those of the validations


class PointRegressor(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> points (B, 68, 2) in crop sides.

    config: `backbone` and `pretrained` are read, and the backbone starts with the weights that MLANet's does.
    mean: (68, 2) crop sides, what the network says of every picture at first, to within 1e-3.
    """

    def __init__(self, config: NetworkConfig, mean: Tensor):
        super().__init__()
        self.backbone, self.pretrained_weights = _backbone(replace(config, levels=(4,)))
        self.points = nn.Linear(self.backbone.feature_info.channels()[-1], mean.numel())
        nn.init.normal_(self.points.weight, std=HEAD_INIT)
        self.points.bias.data.copy_(mean.flatten() - 0.5)  # from the crop's centre, as MLANet's
        for name in ("mean", "std"):
            value = torch.tensor(self.backbone.pretrained_cfg.get(name, 0.5)).reshape(-1, 1, 1)
            self.register_buffer(f"pixel_{name}", value, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.backbone((images - self.pixel_mean) / self.pixel_std)[-1].float().mean((2, 3))
        with torch.autocast(images.device.type, enabled=False):  # points in bfloat16 would be 0.2 % of a crop coarse
            return 0.5 + self.points(pooled).unflatten(1, (68, 2))


def train(
    config: TrainConfig, network_config: NetworkConfig, model: MorphableModel, folder: Path, out: Path, seed: int = 0
) -> tuple[list[dict], float]:
    """Train on folder/train, judge on folder/validation, once an epoch; write into `out` the files that `fit` writes.

    Returns a row for each validation (step, epoch, lr, `landmarks`: mean loss since the last one, `val_nme`: %), and
    the pictures a second of the steps made here (NaN: none was left to make). UserError for a checkpoint in `out` of
    another run, and for a loss that is not finite.
    """
    config = replace(config, precision=resolved_precision(config.precision))
    kinds = [kind for kind in KINDS[:2] if kind in config.kinds]
    data = TrainingData(folder / "train", model, network_config.image_size, kinds, labelled_share=config.labelled_share)
    held_out = TrainingData(folder / "validation", model, network_config.image_size, KINDS[:2])
    batch_size = min(config.batch_size, len(data))
    architecture = {name: getattr(network_config, name) for name in ("backbone", "pretrained", "image_size")}
    fingerprint = {
        "train": asdict(config) | {"kinds": kinds},
        "network": architecture,
        "seed": seed,
        "data": {"train": data.fingerprint, "validation": held_out.fingerprint},
    }
    source, tensors, saved = start(out / LAST if (out / LAST).exists() else None, out, fingerprint, model)
    constant = data.constant()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = replace(network_config, pretrained=network_config.pretrained and not saved)
        network = PointRegressor(fresh, torch.tensor(constant["landmarks"]))
    network = network.to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = adamw(network, config.lr, config.weight_decay)
    step, history, sums = 0, [], {}
    if saved:
        step, history, sums = saved["step"], saved["history"], saved["sums"]
        network.pretrained_weights = saved["pretrained_weights"]
        checkpoint.load_state(source, network, tensors, "network.")
        checkpoint.load_state(source, average, tensors, "ema.")
        load_optimizer(optimizer, network, tensors)
    metadata = {
        "network": architecture,
        "face_model": {"name": model.name, "fingerprint": model.fingerprint},
        "pretrained_weights": network.pretrained_weights,
        "constant": constant,
        "fingerprint": fingerprint,
    }
    mirror = Mirror.of(model) if config.augment.mirror else None
    precision = torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16")
    epoch_steps, order_epoch, seconds, resumed_from = len(data) // batch_size, -1, 0.0, step
    with tqdm(total=config.steps, initial=step, desc="training", unit="step") as bar:
        while step < config.steps:
            began = time.perf_counter()
            epoch, place = divmod(step, epoch_steps)
            if epoch != order_epoch:
                order, order_epoch = visiting_order(data.kind, seed, epoch), epoch
            rows = order[place * batch_size : (place + 1) * batch_size]
            numbers = random_numbers(batch_size, _generator(seed, step, "cpu"))
            batch = augment(data.batch(rows), config.augment, numbers, mirror)
            lr = learning_rate(step, config.steps, config.lr, config.warmup, config.final_lr)
            for group in optimizer.param_groups:
                group["lr"] = lr
            with precision:
                points = network(batch.images)
            weights = (config.hidden_weight + (1 - config.hidden_weight) * batch.visible) * batch.confidence
            weights = weights * (batch.points_set == 0)[:, None]  # it says the points by 3DDFA's definition
            loss = landmark_loss(points, batch.landmarks, weights)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimizer.step()
            step += 1
            if not math.isfinite(value := loss.item()):
                raise UserError(f"training diverged: the loss is {value} at step {step} (lower train.lr?)")
            sums = {"landmarks": sums.get("landmarks", 0.0) + value, "steps": sums.get("steps", 0) + 1}
            valid = step == config.steps or step % (config.validate_every or epoch_steps) == 0
            if valid or step % AVERAGE_EVERY == 0:
                update_average(average, network, step / AVERAGE_EVERY, config.ema**AVERAGE_EVERY)
            seconds += time.perf_counter() - began
            if valid:
                row = {"step": step, "epoch": step / epoch_steps, "lr": lr}
                row |= {"landmarks": sums["landmarks"] / sums["steps"], "val_nme": validate(average, held_out)}
                history.append(row)
                sums = {}
            latest = f"{history[-1]['val_nme']:.2f}%" if history else "-"
            bar.set_postfix(loss=f"{value:.4f}", nme=latest, refresh=False)
            bar.update()
            if valid or step % SAVE_EVERY == 0:
                record = metadata | {"step": step, "history": history}
                save(out, record, sums, network, average, optimizer, valid)
    return history, (step - resumed_from) * batch_size / seconds if seconds else math.nan


@torch.no_grad()
def validate(network: PointRegressor, data: TrainingData) -> float:
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


def run_train(options) -> None:
    out = options.out.resolve()
    check_writable(out)
    os.chdir(find_root())
    params = load_params()
    config = replace(params.train, steps=options.steps)
    network = replace(params.network, backbone=options.backbone)
    model, folder = MorphableModel.load(params.face_model.path), Path(params.paths.training)
    history, rate = train(config, network, model, folder, out, params.seed)
    best = best_row(history)
    print(f"step {history[-1]['step']}, best at step {best['step']}: nme {best['val_nme']:.3f} %; {out}")
    if math.isnan(rate):
        print("no step was left to make")
    else:
        print(f"{rate:.1f} images/s, {options.threads} thread(s), {options.backbone}, {network.image_size} px")


def run_evaluate(options) -> None:
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
