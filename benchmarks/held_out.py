"""What weights read of the photos that were held out from their training, and what their features would say.

    python benchmarks/held_out.py outputs/data [--weights W] [--features]   (profile open, `dvc repro prepare_data`)

Prints the NME of the 68 points, %, of the mesh and of the mean with the mirror image (`--mirrored` of the commands),
and of the photos up to 30 degrees of yaw how lips and lids are read: slope and correlation of predicted on labelled
distances. --features: the NME of a ridge regression of the points from the frozen features of 9,000 training photos,
for features read in several ways, with the best of four ridges: what a head could read there.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from mlanet_lib.drawing import views
from mlanet_lib.errors import UserError
from mlanet_lib.metrics import sparse_nme
from mlanet_lib.predictor import Predictor
from mlanet_lib.training.data import TrainingData

DISTANCES = {
    "inner lips": ((61, 67), (62, 66), (63, 65)),
    "mouth's width": ((48, 54),),
    "lids": ((37, 41), (38, 40), (43, 47), (44, 46)),
}
FRONTAL, TRAINED_ON = 30.0, 9000
RIDGES = (300, 1000, 3000, 10000)


def photos(folder: Path, predictor: Predictor, count: int | None = None):
    """Batches of up to `count` fitted photos of a split, in random order with seed 0."""
    data = TrainingData(folder, predictor.model, predictor.image_size)
    rows = torch.nonzero(~data.lit & (data.kind == 0)).flatten()
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]]
    return [data.batch(part) for part in rows.split(128)]


def apart(points: np.ndarray, pairs) -> np.ndarray:
    """(N,) mean distance across the pairs of (N, 68, 2), in the input's unit."""
    return np.mean([np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in pairs], axis=0)


@torch.no_grad()
def features(predictor: Predictor, batches) -> dict[str, torch.Tensor]:
    """By how they are read, (N, D): the gated levels' weighted mean as the expression head has it (equal weights where
    there are none), all of them side by side, and the mean of the backbone's coarsest level."""
    network, parts = predictor.network, {"weighted mean": [], "side by side": [], "coarsest level": []}
    weights = network.level_logits.softmax(1)[list(network.sizes).index("expression")]
    for batch in batches:
        found = network._features(batch.images)
        grids = [F.adaptive_avg_pool2d(level, network.config.pool).flatten(1) for level in network._attended(found)]
        grids = torch.stack([F.layer_norm(grid, grid.shape[1:]) for grid in grids], 1)
        parts["weighted mean"].append(torch.einsum("l,bld->bd", weights, grids))
        parts["side by side"].append(grids.flatten(1))
        parts["coarsest level"].append(found[-1].mean((2, 3)))
    return {name: torch.cat(part) for name, part in parts.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", type=Path, metavar="FOLDER", help="with train/ and validation/, as stage prepare_data has"
    )
    parser.add_argument("--weights", default="auto", metavar="W", help="a checkpoint (default: the shipped one)")
    parser.add_argument("--features", action="store_true", help="what a linear head could read of the features, too")
    options = parser.parse_args(arguments)
    try:
        plain, mirrored = (Predictor.load(options.weights, mirrored=flag) for flag in (False, True))
        held = photos(options.data / "validation", plain)
        truth = torch.cat([batch.landmarks for batch in held]).double().numpy()
        for predictor in (plain, mirrored):
            found = predictor.predict_crops(torch.cat([batch.images for batch in held]))
            points = views.landmarks(plain.model, found).astype(float)
            print(f"{predictor.weights}: {len(truth)} photos, NME {sparse_nme(points, truth).mean():.3f} %")
            if predictor is plain:
                frontal = np.abs(found.pose_degrees()[:, 1].numpy()) < FRONTAL
                eyes = np.linalg.norm(truth[frontal, 36] - truth[frontal, 45], axis=1)
                for name, pairs in DISTANCES.items():
                    label, said = (apart(side[frontal], pairs) / eyes for side in (truth, points))
                    slope, correlation = np.polyfit(label, said, 1)[0], np.corrcoef(label, said)[0, 1]
                    print(f"  {name}: slope {slope:.3f}, correlation {correlation:.3f}")
        if options.features:
            train = photos(options.data / "train", plain, TRAINED_ON)
            goal = torch.cat([batch.landmarks for batch in train]).flatten(1).double()
            for (name, x), y in zip(features(plain, train).items(), features(plain, held).values(), strict=True):
                mean, spread = x.mean(0), x.std(0) + 1e-6
                x, y = ((side - mean).double() / spread for side in (x, y))
                gram, moment = x.T @ x, x.T @ (goal - goal.mean(0))
                errors = []
                for ridge in RIDGES:
                    solved = torch.linalg.solve(gram + ridge * torch.eye(len(gram)), moment)
                    said = (y @ solved + goal.mean(0)).unflatten(1, (68, 2)).numpy()
                    errors.append(sparse_nme(said, truth).mean())
                print(f"  frozen features, {name} ({x.shape[1]}): NME {min(errors):.3f} %")
    except UserError as error:
        print(f"held_out: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
