"""Training arrays, read by rows, and the order in which they are visited.

The files' format is `mlanet_lib.data.arrays`'s. A split may have several such folders within it, one a data set.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mlanet_lib.data.arrays import KINDS, PIECE, Arrays, Kind, read_for
from mlanet_lib.errors import UserError
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.geometry.device import on_device
from mlanet_lib.parameters import FaceParameters

_POINTS = ("landmarks", "visible", "confidence")
_LABELS = (*FaceParameters.names(), *_POINTS, "known")


@dataclass
class Batch:
    """B samples: what the network sees, and what it is judged by.

    images: (B, 3, S, S) in [0, 1], the input; target: the same without the changes that only the input gets; landmarks:
    (B, 68, 2) in crop sides; visible: (B, 68) in [0, 1]; confidence: (B, 68) in [0, 1], the weight of a point;
    parameters: labels, meaningless in rows that are not labelled; known: (B, Ki + Ke) in [0, 1], the share of each
    identity and expression coefficient that they tell. On the CPU: kind: (B,) int64, a `Kind`; lit: (B,) bool, labelled
    rows whose albedo and lighting are known too; shaped: (B,) bool, labelled rows of which `known` is 1 everywhere;
    points_set: (B,) int64, the definition of the 68 points that `landmarks` follow, as an index into
    `face_model.points.LABEL_SETS`; person: (B,) int64, the same number for pictures of the same person, -1: nobody's.
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


class _Part(NamedTuple):
    """One folder's arrays; rows: (n,) those of its rows that are kept; first: the first one's row in the split."""

    arrays: Arrays
    rows: np.ndarray
    first: int


class TrainingData:
    """One split: `images` uint8 (N, side, side, 3), `labels` by name, `kind` (N,), `points_set` (N,), `fingerprint` of
    the files.

    Batches are read by rows from the files, which are mapped into memory, and what was read is given back: so memory
    does not grow with the data but for 30 bytes a sample, and each process of a training reads only its own share. What
    is asked for again comes from the system's page cache. On a GPU everything is held there instead if it takes at most
    half of the memory that is free. A batch holds the same numbers either way.

    folder: where the two files lie, or folders with them; model: the face model that the labels must fit; side: the
    crops are resized to it, px; kinds: names of the kinds that are kept; device: where batches are made;
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
        self.side, self.device = side, torch.device(device)
        folders = [part for part in (folder, *sorted(folder.glob("*/"))) if (part / "images.npy").is_file()] or [folder]
        self._parts: list[_Part] = []
        columns: list[list[np.ndarray]] = []
        count = people = 0
        for one in folders:
            found = read_for(one, model)
            kind = np.array(found.labels["kind"])
            labelled = np.random.default_rng(0).permutation(np.flatnonzero(kind == Kind.LABELLED))
            kind[labelled[round(labelled_share * len(labelled)) :]] = Kind.UNLABELLED
            keep = np.flatnonzero(np.isin(kind, [KINDS.index(name) for name in kinds]))
            person = found.labels["person"][keep]
            person = np.where(person < 0, -1, person + people)
            people = max(people, int(person.max(initial=-1)) + 1)
            columns.append([kind[keep], found.labels["points_set"][keep], person, *_known_rows(found, keep)])
            if len(keep):
                self._parts.append(_Part(found, keep, count))
                count += len(keep)
        self.fingerprint = hashlib.sha256("".join(map(_fingerprint, folders)).encode()).hexdigest()
        known = [torch.from_numpy(np.concatenate(column)) for column in zip(*columns, strict=True)]
        self.kind, self.points_set, self.person = (column.long() for column in known[:3])
        if not count:
            raise UserError(f"{folder} holds no {' or '.join(kinds)} sample")
        self.lit, self.shaped = (column & (self.kind == Kind.LABELLED) for column in known[3:])
        self._bfm_rotation = model.bfm_rotation.detach()
        self._held: tuple[Tensor, dict[str, Tensor]] | None = None
        if _fits(self.device, count * (3 * side**2 + self._bytes_of_labels())):
            self._held = self._all_on_device()

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def images(self) -> "Pictures":
        """The pictures, to be looked at by rows: `data.images[rows]`."""
        return Pictures(self)

    @property
    def labels(self) -> "Labels":
        """The labels of all samples by name, each read whole when it is asked for: of a split that fits into memory."""
        return Labels(self)

    def batch(self, rows: Tensor) -> Batch:
        """The samples of these rows (int64, on the CPU), not augmented."""
        # channels last in memory already: the permutation costs nothing and the network wants it so
        images = self.pictures(rows).permute(0, 3, 1, 2).float() / 255
        labels = self.labels_of(rows, _LABELS)
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

    def pictures(self, rows: Tensor) -> Tensor:
        """(n, side, side, 3) uint8 of these rows, on the device."""
        if self._held:
            return self._held[0][on_device(rows, self.device)]
        images = np.empty((len(rows), self.side, self.side, 3), np.uint8)
        for part, here, own in self._places(rows.numpy()):
            images[here] = _resized(torch.from_numpy(part.images[own]), self.side).numpy()
            part.release()
        return on_device(torch.from_numpy(images), self.device)

    def labels_of(self, rows: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Labels by name of these rows, float32 on the device; unknown ones are 0."""
        if self._held:
            at = on_device(rows, self.device)
            return {name: self._held[1][name][at] for name in names}
        shapes = {name: self._parts[0].arrays.labels[name].shape[1:] for name in names}
        found = {name: np.empty((len(rows), *shapes[name]), np.float32) for name in names}
        for part, here, own in self._places(rows.numpy()):
            for name in names:
                found[name][here] = np.nan_to_num(part.labels[name][own].astype(np.float32))
            part.release()
        return {name: on_device(torch.from_numpy(value), self.device) for name, value in found.items()}

    def constant(self) -> dict[str, list | None]:
        """The benchmarks' `constant` baseline: mean landmarks (68, 2), crop sides, of 3DDFA's definition where any row
        has it, and mean pose, degrees, in BFM's frame."""
        pointed = self.kind <= Kind.LANDMARKED
        alike = pointed & (self.points_set == 0)
        chosen = {"landmarks": alike if alike.any() else pointed, "pose_degrees": self.kind == Kind.LABELLED}
        sums: dict[str, Tensor] = {}
        for name, rows in chosen.items():
            for piece in rows.nonzero().flatten().split(PIECE):
                labels = {key: value.cpu() for key, value in self.labels_of(piece, _LABELS).items()}
                if name == "pose_degrees":
                    labels[name] = FaceParameters.from_tensors(labels).pose_degrees(self._bfm_rotation)
                sums[name] = sums.get(name, 0) + labels[name].double().sum(0)
        return {name: (sums[name] / rows.sum()).tolist() if name in sums else None for name, rows in chosen.items()}

    def _places(self, rows: np.ndarray) -> Iterator[tuple[Arrays, np.ndarray, np.ndarray]]:
        """For each part that holds some of the rows: its arrays, which of `rows` those are, and its own rows."""
        which = np.searchsorted([part.first for part in self._parts], rows, side="right") - 1
        for number in np.unique(which).tolist():
            here, part = np.flatnonzero(which == number), self._parts[number]
            yield part.arrays, here, part.rows[rows[here] - part.first]

    def _bytes_of_labels(self) -> int:
        labels = self._parts[0].arrays.labels
        return sum(4 * int(np.prod(labels[name].shape[1:])) for name in _LABELS)

    def _all_on_device(self) -> tuple[Tensor, dict[str, Tensor]]:
        pieces = torch.arange(len(self)).split(PIECE)
        images = torch.empty((len(self), self.side, self.side, 3), dtype=torch.uint8, device=self.device)
        labels: dict[str, Tensor] = {}
        for rows in pieces:
            images[rows[0] : rows[-1] + 1] = self.pictures(rows)
            for name, value in self.labels_of(rows, _LABELS).items():
                labels.setdefault(name, value.new_empty((len(self), *value.shape[1:])))[rows[0] : rows[-1] + 1] = value
        return images, labels


class Pictures:
    """The pictures of a split by rows, uint8: one (side, side, 3) for a number, several for a slice or a tensor."""

    dtype = torch.uint8

    def __init__(self, data: TrainingData):
        self._data, self.shape = data, (len(data), data.side, data.side, 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Tensor:
        rows = torch.arange(len(self))[index]
        return self._data.pictures(rows) if rows.ndim else self._data.pictures(rows[None])[0]


class Labels(Mapping[str, Tensor]):
    """The labels of a split: name -> (N, ...) float32 of all samples, on the device."""

    def __init__(self, data: TrainingData):
        self._data = data

    def __getitem__(self, name: str) -> Tensor:
        if name not in _LABELS:
            raise KeyError(name)
        return self._data.labels_of(torch.arange(len(self._data)), [name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_LABELS)

    def __len__(self) -> int:
        return len(_LABELS)


def _fits(device: torch.device, size: int) -> bool:
    """Whether `size` bytes are to be held on the device: a GPU, at most half of whose free memory they take."""
    return device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] / 2


def _known_rows(found: Arrays, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool each: rows whose albedo and lighting are known, and rows of which all of the shape is."""
    lit, shaped = np.empty(len(rows), bool), np.empty(len(rows), bool)
    for start in range(0, len(rows), PIECE):
        piece = rows[start : start + PIECE]
        known = np.isfinite(found.labels["lighting"][piece]).all((1, 2))
        lit[start : start + PIECE] = known & np.isfinite(found.labels["albedo"][piece]).all(1)
        shaped[start : start + PIECE] = (found.labels["known"][piece] == 1).all(1)
        found.release()
    return lit, shaped


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
