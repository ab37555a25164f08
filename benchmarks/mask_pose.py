"""What anti-aliased edges are for: the pose of a face found from its outline alone.

    python benchmarks/mask_pose.py FOLDER [--size N] [--steps N]

The mean face's mask at a known pose (a hard picture 8 times as large, reduced) is what a perturbed pose is fitted to by
gradient descent on the mean square difference of the masks. Prints the errors before and after, and writes into FOLDER
mask_pose.png (the mask looked for, the start's and the result's; the faces, with what they miss of that mask in red)
and edges.png (hard and anti-aliased edges of a face), both 6 times enlarged.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.camera import euler_to_matrix
from mlanet_lib.geometry.lighting import ambient, directional
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import EDGES, render_face

MODEL = "data/face_models/ict.npz"
OVERSAMPLING = 8
NAMES = ("x mm", "y mm", "z mm", "roll deg", "yaw deg")
UNITS = torch.tensor([10.0, 10.0, 100.0, 5.0, 5.0])  # a step of the optimizer in each
TRUE_ANGLES, PERTURBATION = (-8.0, 20.0), (12.0, -10.0, 80.0, 7.0, 8.0)  # roll, yaw; as NAMES
ENLARGED = 6


def posed(model: MorphableModel, pose: Tensor) -> FaceParameters:
    """The mean face at a pose (1, 5), as `NAMES`, relative to one 1.6 times as far as the crops show it, lit aslant."""
    neutral = FaceParameters.neutral(model)
    lamp = torch.nn.functional.normalize(torch.tensor([[0.5, 0.4, 0.8]]), dim=-1)
    return neutral.replace(
        rotation=euler_to_matrix(torch.stack([torch.zeros(1), pose[:, 4], pose[:, 3]], -1)),
        translation=neutral.translation * torch.tensor([1.0, 1.0, 1.6]) + pose[:, :3],
        lighting=ambient(1, 0.5) + directional(lamp, torch.full((1, 3), 0.5)),
    )


def fit(model: MorphableModel, target: Tensor, start: Tensor, steps: int) -> Tensor:
    """The pose (1, 5) whose mask is nearest to the target (1, 1, H, W), by Adam from the pose `start`."""
    change = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 0.003)
    for _ in range(steps):
        optimizer.zero_grad()
        parameters = posed(model, start + change * UNITS)
        mask = render_face(model, parameters, target.shape[-1], shading=False, edges="antialiased").mask
        (mask - target).square().mean().backward()
        optimizer.step()
        schedule.step()
    return (start + change * UNITS).detach()


def enlarged(picture: Tensor) -> np.ndarray:
    """(C, H, W) in [0, 1], C 1 or 3, as (6 H, 6 W, 3) bytes."""
    values = picture.expand(3, -1, -1).clamp(0, 1).permute(1, 2, 0).numpy()
    return np.kron((255 * values).round().astype(np.uint8), np.ones((ENLARGED, ENLARGED, 1), np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the pictures are written")
    parser.add_argument("--size", type=int, default=64, help="of the mask, pixels (default 64)")
    parser.add_argument("--steps", type=int, default=80, help="of the descent (default 80)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    model, size = MorphableModel.load(MODEL), options.size
    true = torch.tensor([[0.0, 0.0, 0.0, *TRUE_ANGLES]])
    start = true + torch.tensor([PERTURBATION])
    with torch.no_grad():
        large = render_face(model, posed(model, true), OVERSAMPLING * size).mask
    target = torch.nn.functional.avg_pool2d(large, OVERSAMPLING)
    found = fit(model, target, start, options.steps)
    print(f"{'':10}{'before':>10}{'after':>10}")
    for name, before, after in zip(NAMES, *((pose - true)[0].abs().tolist() for pose in (start, found)), strict=True):
        print(f"{name:10}{before:10.3f}{after:10.3f}")
    columns, red = [], torch.tensor([0.9, 0.3, 0.2])[:, None, None]
    with torch.no_grad():
        for pose in (true, start, found):
            drawing = render_face(model, posed(model, pose), size, albedo=0.8, edges="antialiased")
            mask = target[0] if pose is true else drawing.mask[0]
            missed = (target[0] - drawing.mask[0]).clamp(min=0)
            columns.append(torch.cat([mask.expand(3, -1, -1), drawing.image[0] + missed * red], 1))
        faces = [render_face(model, posed(model, true), 96, edges=edges) for edges in EDGES]
    pictures = {
        "mask_pose.png": [enlarged(column) for column in columns],
        "edges.png": [enlarged(face.image[0] + 1 - face.mask[0]) for face in faces],
    }
    for name, parts in pictures.items():
        Image.fromarray(np.concatenate(parts, 1)).save(options.folder / name)
        print(options.folder / name)


if __name__ == "__main__":
    main()
