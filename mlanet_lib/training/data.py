"""Training arrays, resident in memory, and the order in which they are visited.

The files' format is `mlanet_lib.data.arrays`'s. A split may have several such folders within it, one a data set.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mlanet_lib.data.arrays import KINDS, Kind, read_for
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.device import on_device
from mlanet_lib.limits import check_memory
from mlanet_lib.parameters import FaceParameters

_ROWS = ("kind", "points_set", "person")
_POINTS = ("landmarks", "visible", "confidence")
_LABELS = (*FaceParameters.names(), *_POINTS, "known")


@dataclass
class Batch:
    """B samples: what the network sees, and what it is judged by.

    images: (B, 3, S, S) in [0, 1], the input; target: the same without the changes that only the input gets; landmarks:
    (B, 68, 2) in crop sides; visible: (B, 68) in [0, 1]; confidence: (B, 68) in [0, 1], the weight of a point;
    parameters: labels, meaningless in rows that are not labelled; known: (B, Ki + Ke) in [0, 1], the share of each
    identity and expression coefficient that they tell; kind: (B,) int64 on the CPU, a `Kind`; lit: (B,) bool
    on the CPU, labelled rows whose albedo and lighting are known too; shaped: (B,) bool on the CPU, labelled rows of
    which `known` is 1 everywhere; points_set: (B,) int64 on the CPU, the definition
    of the 68 points that `landmarks` follow, as an index into `face_model.points.LABEL_SETS`; person: (B,)
    int64 on the CPU, the same number for pictures of the same person, -1: nobody's.
    """

    images: Tensor
    target: Tensor
    landmarks: Tensor
    visible: Tensor
    confidence: Tensor
    parameters: FaceParameters
    known: Tensor
    kind: Tensor
    lit: Tensor
    shaped: Tensor
    points_set: Tensor
    person: Tensor


class TrainingData:
    """One split: `images` uint8 (N, side, side, 3), `labels` by name, `kind` (N,), `points_set` (N,), `fingerprint` of
    the files.

    folder: where the two files lie, or folders with them; model: the face model that the labels must fit; side: the
    crops are resized to it, px; kinds: names of the kinds that are kept; device: where all of it is held;
    labelled_share: of the labelled samples that stay so (the same ones each time), the others being unlabelled.
    Missing, unreadable or unfitting data are a UserError.
    """

    def __init__(
        self,
        folder: Path,
        model: MorphableModel,
        side: int,
        kinds: Sequence[str] = KINDS,
        device: str | torch.device = "cpu",
        labelled_share: float = 1.0,
    ) -> None:
        if unknown := set(kinds) - set(KINDS):
            raise UserError(f"unknown kind of sample {', '.join(sorted(unknown))}; choose of {', '.join(KINDS)}")
        parts = [part for part in (folder, *sorted(folder.glob("*/"))) if (part / "images.npy").is_file()] or [folder]
        pictures: list[Tensor] = []
        columns: list[dict[str, np.ndarray]] = []
        count = people = 0
        for part in parts:
            images, labels = read_for(part, model)
            labelled = np.random.default_rng(0).permutation(np.flatnonzero(labels["kind"] == Kind.LABELLED))
            labels["kind"][labelled[round(labelled_share * len(labelled)) :]] = Kind.UNLABELLED
            keep = np.flatnonzero(np.isin(labels["kind"], [KINDS.index(kind) for kind in kinds]))
            count += len(keep)
            check_memory(count * side**2 * 3, f"{count:,} training pictures at network.image_size {side}")
            if len(keep):
                pictures.append(_resized(torch.from_numpy(images[keep]), side))
            labels["person"] = np.where(labels["person"] < 0, -1, labels["person"] + people)
            people = max(people, int(labels["person"].max(initial=-1)) + 1)
            columns.append({name: labels[name][keep] for name in (*_ROWS, *_LABELS)})
        self.fingerprint = hashlib.sha256("".join(map(_fingerprint, parts)).encode()).hexdigest()
        labels = {name: np.concatenate([column[name] for column in columns]) for name in (*_ROWS, *_LABELS)}
        self.kind, self.points_set, self.person = (torch.from_numpy(labels.pop(name)).long() for name in _ROWS)
        if not len(self.kind):
            raise UserError(f"{folder} holds no {' or '.join(kinds)} sample")
        self.images = torch.cat(pictures).to(device)
        self._bfm_rotation = model.bfm_rotation.detach().to(device)
        lit = np.isfinite(labels["lighting"]).all((1, 2)) & np.isfinite(labels["albedo"]).all(1)
        self.shaped = torch.from_numpy((labels["known"] == 1).all(1)) & (self.kind == Kind.LABELLED)
        self.lit = torch.from_numpy(lit) & (self.kind == Kind.LABELLED)
        self.labels = {
            name: torch.from_numpy(np.nan_to_num(value.astype(np.float32))).to(device) for name, value in labels.items()
        }

    def __len__(self) -> int:
        return len(self.kind)

    def batch(self, rows: Tensor) -> Batch:
        """The samples of these rows (int64, on the CPU), not augmented."""
        at = on_device(rows, self.images.device)
        # channels last in memory already: the permutation costs nothing and the network wants it so
        images = self.images[at].permute(0, 3, 1, 2).float() / 255
        labels = {name: value[at] for name, value in self.labels.items()}
        points = {name: labels[name] for name in _POINTS}
        rows_of = {
            "kind": self.kind[rows],
            "lit": self.lit[rows],
            "shaped": self.shaped[rows],
            "points_set": self.points_set[rows],
            "person": self.person[rows],
        }
        return Batch(
            images, images, parameters=FaceParameters.from_tensors(labels), known=labels["known"], **points, **rows_of
        )

    def constant(self) -> dict[str, list | None]:
        """The benchmarks' `constant` baseline: mean landmarks (68, 2), crop sides, of 3DDFA's definition where any row
        has it, and mean pose, degrees, in BFM's frame."""
        pose = FaceParameters.from_tensors(self.labels).pose_degrees(self._bfm_rotation)[self.kind == Kind.LABELLED]
        pointed = self.kind <= Kind.LANDMARKED
        alike = pointed & (self.points_set == 0)
        landmarks = self.labels["landmarks"][alike if alike.any() else pointed]
        return {
            "landmarks": landmarks.mean(0).tolist() if len(landmarks) else None,
            "pose_degrees": pose.mean(0).tolist() if len(pose) else None,
        }


def visiting_order(kind: Tensor, person: Tensor, seed: int, epoch: int) -> Tensor:
    """(N,) rows in the order of this epoch: a pure function of its arguments.

    Every kind is shuffled and then spread evenly over the epoch, so that each batch holds all kinds in proportion. Rows
    of one person and kind go in pairs, others each epoch, one beside the other, so that a batch can compare them.
    """
    generator = np.random.default_rng([seed, epoch])
    place, kinds, people = np.empty(len(kind)), kind.numpy(), person.numpy()
    for value in np.unique(kinds):
        rows = generator.permutation(np.flatnonzero(kinds == value))
        rows = rows[np.argsort(people[rows], kind="stable")]
        start = np.flatnonzero(np.diff(people[rows], prepend=-2))
        within = np.arange(len(rows)) - np.repeat(start, np.diff(start, append=len(rows)))
        first = (within % 2 == 0) | (people[rows] < 0)  # of a pair, or alone
        pair = generator.permutation(first.sum())[np.cumsum(first) - 1]
        place[rows[np.argsort(pair, kind="stable")]] = (np.arange(len(rows)) + generator.random()) / len(rows)
    return torch.from_numpy(np.argsort(place, kind="stable"))


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("images.npy", "labels.npz"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _resized(images: Tensor, side: int) -> Tensor:
    """uint8 (N, S, S, 3) -> (N, side, side, 3), averaged over areas, in pieces to bound memory."""
    if images.shape[1] == side:
        return images
    pieces = [
        F.interpolate(piece.permute(0, 3, 1, 2).float(), size=(side, side), mode="bilinear", antialias=True)
        for piece in images.split(512)
    ]
    return torch.cat([piece.round().clamp(0, 255).byte().permute(0, 2, 3, 1) for piece in pieces]).contiguous()
