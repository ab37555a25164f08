"""The morphable face model that all of mlanet uses: one class and one `.npz` format for models of any source.

Blanz and Vetter (1999): shape = mean + identity_basis a + expression_basis e, colour = albedo_mean + albedo_basis c.
Lengths in mm; model frame: x to the subject's left (the image's right in a frontal picture), y up, z out of the face.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlanet_lib.errors import UserError
from mlanet_lib.face_model.points import N_LANDMARKS, farthest_points
from mlanet_lib.files.atomic import atomic_path
from mlanet_lib.files.npz import read_npz

FORMAT = "mlanet face model 1"

# Stored type of each field. The bases are kept in half precision: at 10 mm a step of it is 0.008 mm.
_DTYPES: dict[str, np.dtype] = {
    "mean": np.dtype(np.float32),
    "identity_basis": np.dtype(np.float16),
    "expression_basis": np.dtype(np.float16),
    "albedo_mean": np.dtype(np.float32),
    "albedo_basis": np.dtype(np.float16),
    "faces": np.dtype(np.int32),
    "uv": np.dtype(np.float32),
    "landmark_index": np.dtype(np.int32),
}
_OPTIONAL: dict[
    str, np.dtype
] = {  # what a model may lack: points between vertices, iBUG's points, a frame other than BFM's
    "landmark_weights": np.dtype(np.float32),
    "ibug_index": np.dtype(np.int32),
    "ibug_weights": np.dtype(np.float32),
    "bfm_rotation": np.dtype(np.float32),
}
Values = np.ndarray | torch.Tensor | Sequence
_INTEGER_FIELDS = ("faces", "landmark_index", "ibug_index")


class MorphableModel(torch.nn.Module):
    """A linear face model: V vertices, F triangles, Ki identity, Ke expression and Ka albedo modes.

    Buffers (they follow `.to()` and `.double()`, and stay out of `state_dict()`, since a model is named by its
    fingerprint and not copied into every checkpoint):

    - `mean (V,3)` mm; `identity_basis (V,3,Ki)` mm per standard deviation; `expression_basis (V,3,Ke)` mm at full
      activation. The bases are rounded to half precision, so that a model and its saved copy are the same model.
    - `albedo_mean (V,3)` RGB in [0,1], display-encoded; `albedo_basis (V,3,Ka)` per standard deviation.
    - `faces (F,3)` int64, counter-clockwise seen from outside; `uv (V,2)` in [0,1], v up.
    - `landmark_index (68,3)` int64 and `landmark_weights (68,3)` >= 0, rows summing to 1: the 68 points, Multi-PIE
      order, each between three vertices, as 3DDFA's labels place them. `landmark_index` may be given as (68,), then
      they are vertices.
    - `ibug_index (68,3)` and `ibug_weights (68,3)`: the same points as iBUG's labels place them; a model without these
      fields uses one definition for both.
    - `bfm_rotation (3,3)`: R0, the fixed rotation to the frame of the Basel Face Model, in which pose is compared with
      labels: R_BFM = R R0 for a pose R of this model. The unit matrix where not given.

    Attributes: `expression_names` (Ke ARKit names), `name`, `fingerprint` (sha256 of all contents, hexadecimal).
    Raises `UserError`, naming the field, where shapes, indices or numbers do not fit together.
    """

    mean: torch.Tensor
    identity_basis: torch.Tensor
    expression_basis: torch.Tensor
    albedo_mean: torch.Tensor
    albedo_basis: torch.Tensor
    faces: torch.Tensor
    uv: torch.Tensor
    landmark_index: torch.Tensor
    landmark_weights: torch.Tensor
    ibug_index: torch.Tensor
    ibug_weights: torch.Tensor
    bfm_rotation: torch.Tensor

    def __init__(
        self,
        *,
        mean: Values,
        identity_basis: Values,
        expression_basis: Values,
        albedo_mean: Values,
        albedo_basis: Values,
        faces: Values,
        uv: Values,
        landmark_index: Values,
        landmark_weights: Values | None = None,
        ibug_index: Values | None = None,
        ibug_weights: Values | None = None,
        bfm_rotation: Values | None = None,
        expression_names: Sequence[str],
        name: str,
    ):
        super().__init__()
        told: dict[str, Values] = {
            "mean": mean,
            "identity_basis": identity_basis,
            "expression_basis": expression_basis,
            "albedo_mean": albedo_mean,
            "albedo_basis": albedo_basis,
            "faces": faces,
            "uv": uv,
            "landmark_index": landmark_index,
        }
        optional = (landmark_weights, ibug_index, ibug_weights, bfm_rotation)
        told |= {field: value for field, value in zip(_OPTIONAL, optional, strict=True) if value is not None}
        given = {field: np.asarray(torch.as_tensor(value).detach().cpu()) for field, value in told.items()}
        self.name = str(name)
        self.expression_names = [str(expression) for expression in expression_names]
        _check(given, self.expression_names, self.name)
        types = _DTYPES | _OPTIONAL
        stored = {field: np.ascontiguousarray(value.astype(types[field])) for field, value in given.items()}
        self.fingerprint = _fingerprint(stored, self.expression_names, self.name)
        self._optional = [field for field in _OPTIONAL if field in stored]
        if "landmark_weights" not in stored:
            stored["landmark_index"] = np.repeat(stored["landmark_index"][:, None], 3, 1)
            stored["landmark_weights"] = np.tile(np.array([1, 0, 0], np.float32), (N_LANDMARKS, 1))
        if "ibug_index" not in stored:
            stored["ibug_index"], stored["ibug_weights"] = stored["landmark_index"], stored["landmark_weights"]
        stored.setdefault("bfm_rotation", np.eye(3, dtype=np.float32))
        for field, value in stored.items():
            dtype = torch.int64 if field in _INTEGER_FIELDS else torch.float32
            self.register_buffer(field, torch.from_numpy(value).to(dtype), persistent=False)
        self._spread = np.zeros(0, np.int64)

    @property
    def points_between(self) -> bool:
        """Whether 3DDFA's points lie between vertices."""
        return "landmark_weights" in self._optional

    @property
    def n_vertices(self) -> int:
        """V."""
        return self.mean.shape[0]

    @property
    def n_identity(self) -> int:
        """Ki, the number of identity modes."""
        return self.identity_basis.shape[2]

    @property
    def n_expression(self) -> int:
        """Ke, the number of expression modes."""
        return self.expression_basis.shape[2]

    @property
    def n_albedo(self) -> int:
        """Ka, the number of albedo modes."""
        return self.albedo_basis.shape[2]

    def vertices(self, identity: torch.Tensor, expression: torch.Tensor) -> torch.Tensor:
        """(B,Ki) standard deviations and (B,Ke) activations -> (B,V,3) mm in the model frame."""
        return self.mean + _combine(self.identity_basis, identity) + _combine(self.expression_basis, expression)

    def albedo(self, coefficients: torch.Tensor) -> torch.Tensor:
        """(B,Ka) standard deviations -> (B,V,3) RGB; far from the mean it may leave [0,1], clipping is the caller's."""
        return self.albedo_mean + _combine(self.albedo_basis, coefficients)

    def landmarks(self, vertices: torch.Tensor, labels: str = "3ddfa") -> torch.Tensor:
        """(B,V,3) in any frame -> (B,68,3), the Multi-PIE points on the mesh, where the label set `labels` (one of
        `LABEL_SETS`) has them. Any (B,V,...) can be read there in the same way."""
        index, weights = {
            "3ddfa": (self.landmark_index, self.landmark_weights),
            "ibug": (self.ibug_index, self.ibug_weights),
        }[labels]
        weights = weights.to(vertices.dtype).reshape(-1, 3, *[1] * (vertices.ndim - 2))
        return (vertices[:, index] * weights).sum(2)

    def normals(self, vertices: torch.Tensor) -> torch.Tensor:
        """(B,V,3) -> (B,V,3) unit normals out of the head: area-weighted mean of the faces around each vertex."""
        corners = vertices[:, self.faces.reshape(-1)].reshape(len(vertices), -1, 3, 3)
        a, b, c = corners.unbind(2)
        face_normals = torch.linalg.cross(b - a, c - a)
        summed = torch.zeros_like(vertices)
        for corner in range(3):
            summed = summed.index_add(1, self.faces[:, corner], face_normals)
        return torch.nn.functional.normalize(summed, dim=-1, eps=1e-12)

    def subset_index(self, n: int) -> torch.Tensor:
        """(n,) int64 indices of vertices spread evenly over the mean face (farthest-point order, so that the first m
        of n are spread evenly too); all vertices where n >= V. Deterministic."""
        n = min(int(n), self.n_vertices)
        if len(self._spread) < n:
            self._spread = farthest_points(self.mean.detach().cpu().double().numpy(), n)
        return torch.from_numpy(self._spread[:n].copy()).to(self.faces.device)

    def contents(self) -> dict[str, np.ndarray]:
        """The arrays of the model by the names of `__init__`'s arguments, in their stored types."""
        types = _DTYPES | {field: _OPTIONAL[field] for field in self._optional}
        arrays = {field: getattr(self, field).detach().cpu().numpy().astype(types[field]) for field in types}
        if "landmark_weights" not in self._optional:
            arrays["landmark_index"] = arrays["landmark_index"][:, 0]
        return arrays

    def replace(self, **changes: Any) -> "MorphableModel":
        """Another model, with some of `__init__`'s arguments exchanged."""
        same = {**self.contents(), "expression_names": self.expression_names, "name": self.name}
        return type(self)(**{**same, **changes})

    def save(self, path: str | Path) -> None:
        """Write the model as one `.npz` (no pickles, the same bytes for the same model), atomically."""
        arrays = self.contents()
        arrays["expression_names"] = np.array(self.expression_names, dtype=np.str_)
        arrays["name"] = np.array(self.name)
        arrays["format"] = np.array(FORMAT)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> "MorphableModel":
        """Read a model written by `save`. A missing, foreign, truncated or inconsistent file is a `UserError` that
        says what is wrong with it."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"face model not found: {path}")
        arrays = read_npz(path, "face model (.npz)")
        if str(arrays.pop("format", "")) != FORMAT:
            raise UserError(f"{path} is not an mlanet face model: its field 'format' is not '{FORMAT}'")
        missing = sorted({*_DTYPES, "expression_names", "name"} - set(arrays))
        if missing:
            raise UserError(f"{path}: the face model has no field {', '.join(missing)}")
        for field, dimensions in (("name", 0), ("expression_names", 1)):
            if arrays[field].dtype.kind != "U" or arrays[field].ndim != dimensions:
                raise UserError(f"{path}: face model field '{field}' is not text but {arrays[field].dtype}")
        fields = {field: arrays[field] for field in (*_DTYPES, *_OPTIONAL) if field in arrays}
        for field, value in fields.items():
            fields[field] = value.astype(value.dtype.newbyteorder("="))
            if value.dtype.kind not in ("iu" if field in _INTEGER_FIELDS else "f") or value.dtype.itemsize > 8:
                raise UserError(f"{path}: face model field '{field}' has type {value.dtype}")
        try:
            return cls(**fields, expression_names=arrays["expression_names"].tolist(), name=str(arrays["name"]))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _combine(basis: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """(V,3,K) x (B,K) -> (B,V,3)."""
    size, _, modes = basis.shape
    if coefficients.ndim != 2 or coefficients.shape[1] != modes:
        raise ValueError(f"coefficients have shape {tuple(coefficients.shape)}, the face model needs (B, {modes})")
    return (coefficients @ basis.reshape(-1, modes).T).reshape(-1, size, 3)


def _check(fields: dict[str, np.ndarray], expression_names: list[str], name: str) -> None:
    size = len(fields["mean"]) if fields["mean"].ndim else 0
    modes = len(expression_names)
    expected = {
        "mean": (size, 3),
        "identity_basis": (size, 3, None),
        "expression_basis": (size, 3, modes),
        "albedo_mean": (size, 3),
        "albedo_basis": (size, 3, None),
        "faces": (None, 3),
        "uv": (size, 2),
        "landmark_index": (N_LANDMARKS,),
    }
    if "landmark_weights" in fields:
        expected["landmark_index"] = expected["landmark_weights"] = (N_LANDMARKS, 3)
    if ("ibug_index" in fields) != ("ibug_weights" in fields):
        raise UserError("face model fields 'ibug_index' and 'ibug_weights' belong together: one is missing")
    if "ibug_index" in fields:
        expected["ibug_index"] = expected["ibug_weights"] = (N_LANDMARKS, 3)
    if "bfm_rotation" in fields:
        expected["bfm_rotation"] = (3, 3)
    for field, shape in expected.items():
        value = fields[field]
        fits = value.ndim == len(shape) and all(w in (None, g) for g, w in zip(value.shape, shape, strict=True))
        if not fits or value.size == 0:
            wanted = ", ".join("any" if length is None else str(length) for length in shape)
            raise UserError(f"face model field '{field}' has shape {value.shape}, expected ({wanted})")
        if field in _INTEGER_FIELDS:
            if value.min() < 0 or value.max() >= size:
                raise UserError(f"face model field '{field}' points outside of the {size} vertices")
        elif not (np.abs(value) <= np.finfo((_DTYPES | _OPTIONAL)[field]).max).all():
            raise UserError(f"face model field '{field}' holds numbers that are not finite or too large")
    for field in ("landmark_weights", "ibug_weights"):
        weights = fields.get(field)
        if weights is not None and (weights.min() < -1e-6 or np.abs(weights.sum(1) - 1).max() > 1e-4):
            raise UserError(f"face model field '{field}' holds rows that are negative or do not sum to 1")
    turn = fields.get("bfm_rotation")
    if turn is not None and (np.abs(turn @ turn.T - np.eye(3)).max() > 1e-4 or np.linalg.det(turn) < 0):
        raise UserError("face model field 'bfm_rotation' is no rotation")
    if len(set(expression_names)) != modes:
        raise UserError("face model field 'expression_names' names one expression twice")
    if not name:
        raise UserError("face model field 'name' is empty")


def _fingerprint(stored: dict[str, np.ndarray], expression_names: list[str], name: str) -> str:
    digest = hashlib.sha256(repr((FORMAT, name, expression_names)).encode())
    for field, value in stored.items():
        digest.update(f"{field}{value.shape}{value.dtype.str}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
