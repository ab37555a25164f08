"""R0, the fixed rotation from a face model's frame to BFM's: python benchmarks/bfm_rotation.py CROPS_FOLDER

CROPS_FOLDER: training photos as `mlanet_lib.data.sets.crops` reads them, with 3DDFA's 68 points, and beside them
`pose_3ddfa_v2.npz` with `names` (N,) and `rotation` (N, 3, 3), the poses of the same crops that a network predicts that
speaks BFM (3DDFA_V2's, y up). The face model is fitted to the points of crops turned by at most 60 degrees whose points
agree with the hand-annotated ones, and R0 is the mean of R_model^T R_BFM. Never run it on a benchmark's photos.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from mlanet_lib.data.sets.crops import read_archive
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.fitting import frame_differences
from mlanet_lib.files.npz import read_npz
from mlanet_lib.geometry.alignment import mean_rotation
from mlanet_lib.geometry.camera import DEFAULT_FOCAL, matrix_to_euler
from mlanet_lib.geometry.crops import to_crop

POSES = "pose_3ddfa_v2.npz"


def points_and_poses(folder: str | Path, count: int, yaw: float, agreement: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 68, 2) in crop sides and known rotations (n, 3, 3) of `count` crops, or of all there are if fewer.

    yaw: degrees, the largest; agreement: %, the largest distance of estimated and annotated points. A folder without
    poses, or whose poses are those of other crops, is a UserError.
    """
    samples, poses = read_archive(folder), read_npz(Path(folder) / POSES, "file of poses")
    if poses["names"].tolist() != [sample.name for sample in samples]:
        raise UserError(f"{Path(folder) / POSES}: field 'names' lists other pictures than labels.npz")
    turned = matrix_to_euler(torch.from_numpy(poses["rotation"]).double())[:, 1].abs().numpy()
    differ = np.array([np.nan if sample.agreement is None else sample.agreement for sample in samples])
    rows = np.random.default_rng(0).permutation(np.flatnonzero((turned <= yaw) & (differ <= agreement)))[:count]
    points = np.stack([to_crop(samples[k].landmarks, samples[k].crop()) for k in rows])
    return points, poses["rotation"][rows].astype(np.float64)


def spread(differences: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(N,) degrees: the angles between rotations (N, 3, 3) and one."""
    cosine = (np.einsum("nij,ij->n", differences, mean) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def main(arguments: list[str] | None = None) -> None:
    """Print R0, its angles, and how far single crops are from it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="CROPS_FOLDER")
    parser.add_argument("--face-model", default="data/face_models/ict.npz")
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--yaw", type=float, default=60.0)
    parser.add_argument("--agreement", type=float, default=6.0)
    parser.add_argument("--orthographic", action="store_true", help="fit without perspective, as 3DDFA does")
    options = parser.parse_args(arguments)
    model = MorphableModel.load(options.face_model)
    points, rotations = points_and_poses(options.folder, options.count, options.yaw, options.agreement)
    focal = None if options.orthographic else DEFAULT_FOCAL
    differences = frame_differences(model, points, rotations, focal=focal)
    mean = mean_rotation(differences)
    angles = matrix_to_euler(torch.from_numpy(np.stack([mean, *differences]))).numpy()
    apart = spread(differences, mean)
    print(f"{model.name}: {len(points):,} crops, |yaw| <= {options.yaw:g}, agreement <= {options.agreement:g} %")
    print("R0 = " + np.array2string(mean, precision=6, separator=", ", prefix="R0 = "))
    print("pitch {:.2f}, yaw {:.2f}, roll {:.2f} degrees".format(*angles[0]))
    print("standard error {:.2f}, {:.2f}, {:.2f}".format(*angles[1:].std(0) / np.sqrt(len(points))))
    print(f"single crops are off by {np.median(apart):.2f} degrees (median), {np.quantile(apart, 0.95):.2f} (95 %)")


if __name__ == "__main__":
    main()
