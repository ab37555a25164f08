"""What weights read of the photos that were held out from training, and what each part of the training is worth there.

    python benchmarks/held_out.py outputs/data [--weights W ...]                (profile open, `dvc repro prepare_data`)
    python benchmarks/held_out.py outputs/data --left-out all|PART ... --out DIR [--steps N] [--batch N] [--seeds N ...]

One row for each of the weights, or for each training that `params.yaml` says, shortened to N steps and with one of
`PARTS` left out; a training that is in DIR already is not made again. The columns, of the validation split:

- NME, % (the mean of 0-30, 30-60 and 60-90 degrees of yaw) on 3DDFA's points, and on iBUG's
- pose: mean absolute error of pitch, yaw and roll against the labels, degrees, of the photos with 3DDFA's points
- proportions: r and slope, as in the protocol Likeness, but against iBUG's points of photos up to 20 degrees of yaw
- closed mouths: mean error of the lips' gap where the points have less than 1.5 mm (outer eye corners: 90 mm)
- same person: mean squared distance of the identities of two pictures of one person over that of two people; 100 people
  are drawn for it in two pictures each
- skin: slope of the mean albedo on that of the synthetic pictures' labels
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mlanet_lib.data.synthetic.faces import draw, sample_parameters, sample_people, sample_yaw
from mlanet_lib.errors import UserError
from mlanet_lib.evaluation.likeness_metrics import distances, line, lip_gaps
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.sparse_shape import in_crop
from mlanet_lib.metrics import sparse_nme
from mlanet_lib.network import MLANet
from mlanet_lib.network.checkpoint import load_network
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.study.params import load_params
from mlanet_lib.study.runs import MAIN, plan
from mlanet_lib.training.config import Job
from mlanet_lib.training.data import TrainingData
from mlanet_lib.training.loop import fit
from mlanet_lib.training.losses import same_person_loss

PARTS = {
    "nothing": {},
    "ImageNet weights": {"network": {"pretrained": False}, "train": {"frozen": 0}},
    "feedback": {"network": {"feedback": 0}},
    "iBUG's points": {"sources": ["aflw_ibug"]},
    "3DDFA's points": {"sources": ["aflw_crops"]},
    "same person": {"weights": {"same_person": 0.0}},
    "London people": {"sources": ["london"]},
    "labels of pose": {"weights": {"rotation": 0.0}},
    "weak end": {"train": {"weak_end": 0.0}},
    "pictures (photometric)": {"weights": {"photometric": 0.0}},
    "crops of 112 px (80)": {"network": {"image_size": 80}},
}
"""What is left out, and what that changes of params.yaml's network, train and train.weights, and which sources."""
BINS, FRONTAL, CLOSED = (0, 30, 60, 91), 20, 1.5
HEAD = "weights | NME, 3DDFA's | iBUG's | pose | proportions r | slope | closed mouths, mm | same person | skin slope"


def shortened(job: Job, part: str, options: argparse.Namespace, folder: Path) -> Job:
    """A job without one of the parts. folder: an empty one, for links to the sources that are kept."""
    change = PARTS[part]
    data = job.train_folder
    if left_out := change.get("sources"):
        data = folder
        if missing := [name for name in left_out if not (job.train_folder / name).is_dir()]:
            raise UserError(f"{job.train_folder} has no {', '.join(missing)} that could be left out")
        for path in job.train_folder.iterdir():
            if path.name not in left_out:
                (folder / path.name).symlink_to(path.resolve())
    weights = replace(job.train.weights, **change.get("weights", {}))
    sizes = {"steps": options.steps, "batch_size": options.batch, "validate_every": options.steps}
    train = replace(job.train, **sizes, weights=weights, **change.get("train", {}))
    out = options.out / part.replace(" ", "_") / f"seed_{job.seed}"
    network = replace(job.network, **change.get("network", {}))
    return replace(job, train=train, network=network, train_folder=data, out_folder=out)


@torch.no_grad()
def predicted(network: MLANet, data: TrainingData, rows: torch.Tensor) -> tuple[FaceParameters, FaceParameters]:
    """Parameters of these rows: the network's and the labels'."""
    pairs = [(network.encode((batch := data.batch(part)).images), batch.parameters) for part in rows.split(64)]
    found, truth = zip(*pairs, strict=True)
    return FaceParameters.cat(found), FaceParameters.cat(truth)


def figures(network: MLANet, model: MorphableModel, folder: Path) -> list[float]:
    """The columns of `HEAD` but the first."""
    data, values = TrainingData(folder, model, network.config.image_size), []
    for number, name in enumerate(("3ddfa", "ibug")):
        rows = torch.nonzero(~data.lit & (data.points_set == number)).flatten()
        found, truth = predicted(network, data, rows)
        points = in_crop(model, found, name).double().numpy()
        marks = data.labels_of(rows, ["landmarks"])["landmarks"].double().numpy()
        poses, true_poses = (side.pose_degrees(model.bfm_rotation).numpy() for side in (found, truth))
        yaw = np.abs(true_poses[:, 1])
        errors, places = sparse_nme(points, marks), np.digitize(yaw, BINS)
        values.append(float(np.mean([errors[places == place].mean() for place in np.unique(places)])))
    values.append(float(np.abs(poses - true_poses).mean()))
    front = yaw < FRONTAL
    values += [float(side.mean()) for side in line(distances(marks[front]), distances(points[front]))]
    gap, drawn = lip_gaps(marks[front]), lip_gaps(points[front])
    values.append(float(np.abs(drawn - gap)[gap < CLOSED].mean()))
    rows = torch.nonzero(data.lit).flatten()
    found, truth = predicted(network, data, rows)
    values.append(within_over_between(network, model))
    tone = model.albedo_basis.mean((0, 1))
    values.append(float(np.polyfit((truth.albedo @ tone).numpy(), (found.albedo @ tone).numpy(), 1)[0]))
    return values


@torch.no_grad()
def within_over_between(network: MLANet, model: MorphableModel, people: int = 100, seed: int = 0) -> float:
    """`same_person_loss` of the identities that the network reads from two synthetic pictures of each person."""
    rng = np.random.default_rng(seed)
    drawn = [np.repeat(codes, 2, axis=0) for codes in sample_people(model, rng, people)]
    parameters = sample_parameters(model, rng, (drawn[0], drawn[1]), sample_yaw(rng, 2 * people))
    images = [
        draw(model, parameters[part], rng, network.config.image_size, np.zeros(len(part), bool)).images
        for part in torch.arange(2 * people).split(20)
    ]
    crops = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2).float() / 255
    found = torch.cat([network.encode(part).identity for part in crops.split(64)])
    return float(same_person_loss(found, torch.arange(people).repeat_interleave(2)))


def row(name: str, values: list[float]) -> str:
    return " | ".join([name, *(f"{value:.3f}" for value in values)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="FOLDER", help="with train/ and validation/, as prepare_data has it")
    parser.add_argument("--weights", type=Path, nargs="+", default=[], help="checkpoints of params.yaml's face model")
    parser.add_argument("--left-out", nargs="+", default=[], choices=["all", *PARTS], metavar="PART")
    parser.add_argument("--out", type=Path, help="folder for the shortened trainings")
    for name, value in (("--steps", 800), ("--batch", 32)):
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    if options.left_out and not options.out:
        parser.error("--left-out needs --out")
    params = load_params()
    model = MorphableModel.load(params.face_model.path)
    print(HEAD)
    for path in options.weights:
        print(row(path.name, figures(load_network(path, model)[0], model, options.data / "validation")), flush=True)
    parts = PARTS if "all" in options.left_out else options.left_out
    for part in parts:
        for seed in options.seeds:
            job = replace(plan(params, MAIN)[0].job(model, options.data), seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                result = fit(shortened(job, part, options, Path(folder)))
            network, _ = load_network(result.best_path, model)
            print(row(f"{part}, seed {seed}", figures(network, model, options.data / "validation")), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"held_out: {error}", file=sys.stderr)
        sys.exit(2)
