"""Fitting a predicted face to its photo: the mesh and skin that explain the pixels best, near what the network says.

    minimise  E = E_points + E_picture + E_prior  over identity a, expression e, albedo c, light L, pose

    E_points  = 1 / sigma_p^2  sum_k w_k |q_k - p_k|^2 / size^2
    E_picture = N / (A n)      sum over the n pixels of the drawn face of r / (1 + r / 9),  r = |I - I'|^2 / sigma_i^2
    E_prior   = share (|a|^2 + |e|^2 / EXPRESSION_VARIANCE) + |c|^2 + grey |L - mean_rgb L|^2 + (turn / turn_error)^2

This is a maximum a posteriori estimate (Blanz and Vetter 1999) with a robust noise: p_k are the 68 points that the
network sees, q_k those of the mesh, size the square root of their box's area; I is the photo, I' the drawing. Noise of
neighbouring pixels is not independent: A pixels count as one. N is the number of drawn pixels of the first estimate,
so that no face wins by being smaller. Only the front of the face counts (`face_model.front`), since hair and clothes
cover what lies around it. What a face model cannot explain (hair, glasses, a hand) has large residuals, and counts no
more than r = 9 in all. All unknowns move at once, by Adam: the drawing's derivative at the outline is unknown
(`renderer`), so that points and shading place the jaw.
"""

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.coarse import coarse
from mlanet_lib.face_model.fitting import EXPRESSION_VARIANCE
from mlanet_lib.face_model.front import front_faces
from mlanet_lib.face_model.points import LABEL_SETS
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.limits import COUNT, COUNT_OR_NONE, Range, check_fields
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import covered_by, render_face

RATES = {"identity": 0.12, "expression": 0.03, "albedo": 0.1, "lighting": 0.01, "turn": 0.006, "place": 0.004}
"""First step of each unknown: standard deviations, activations, radiance, radians, crop sides (and log size)."""
COEFFICIENTS = ("identity", "expression", "albedo", "lighting")
LAST_RATE, MOMENTS = 0.02, (0.9, 0.95)
"""The last step's share of the first (a cosine lies between), and Adam's memory of gradients and their squares."""
TOGETHER = 16  # faces that are fitted at once: bounds memory
WHERE_ROBUST = 9.0
INNER_LIPS, LIPS_COUNT = slice(60, 68), 10.0
"""The network sees whether a mouth is closed better than the few pixels between the lips say it."""
POSITIVE = Range(0, 1e6, above=True)


@dataclass(frozen=True)
class FitterSettings:
    """How faces are fitted to photos. steps: of Adam; size: side of the crops that are compared, px; vertices: of the
    mesh that is drawn (`coarse`; 0 = all). point_noise: sigma_p, share of the face's size; picture_noise: sigma_i, of
    a pixel's RGB norm; correlated: A, pixels; share: what the prior of the shape counts; turn_error: standard deviation
    of the first estimate's rotation about each axis, degrees (None: it says nothing); grey: what coloured light
    costs. They were chosen on neutral portraits of 42 people, whose landmarks were placed by hand."""

    steps: Annotated[int, COUNT] = 60
    size: Annotated[int, Range(16, 2048)] = 224
    vertices: Annotated[int, COUNT_OR_NONE] = 12000
    point_noise: Annotated[float, POSITIVE] = 0.018
    picture_noise: Annotated[float, POSITIVE] = 0.08
    correlated: Annotated[float, POSITIVE] = 20.0
    share: Annotated[float, Range(0, 1e6)] = 0.3
    turn_error: Annotated[float, POSITIVE] | None = None
    grey: Annotated[float, Range(0, 1e6)] = 100.0

    def __post_init__(self) -> None:
        check_fields(self)


class Fitted(NamedTuple):
    """B faces after a fit. parameters: the better of the first estimate and the fit, by E; kept: (B,) bool, whether
    that is the fit; before, after: (B,) of the first estimate and of the fit by name, "points" (NME-like, a share of
    the face's size: root of the mean of |q - p|^2 / size^2), "picture" (root of the mean robust r, in units of
    sigma_i) and "total" (E)."""

    parameters: FaceParameters
    kept: Tensor
    before: dict[str, Tensor]
    after: dict[str, Tensor]

    def record(self, row: int) -> dict:
        """One face's result as JSON-able values."""
        sides = {"before": self.before, "after": self.after}
        return {"kept": "fitted" if self.kept[row] else "predicted"} | {
            side: {name: round(float(value[row]), 5) for name, value in values.items()}
            for side, values in sides.items()
        }


class Fitter:
    """Fits faces of one face model to photos: `Fitter(model).fit(crops, predicted)`."""

    def __init__(self, model: MorphableModel, settings: FitterSettings | None = None) -> None:
        self.settings = settings or FitterSettings()
        self._drawing = coarse(model, self.settings.vertices)
        self._front = front_faces(self._drawing)
        self._shape = SparseShape(model, 0)

    def fit(
        self,
        images: Tensor,
        start: FaceParameters,
        points: Tensor | None = None,
        weights: Tensor | None = None,
        labels: str = "ibug",
    ) -> Fitted:
        """Fit B faces to their crops.

        images: (B, 3, S, S) in [0, 1], upright, of any size; start: the parameters in these crops; points: (B, 68, 2),
        landmarks in crop sides (default: the start's own), weights: (B, 68) what each counts (default: 1, of the inner
        lips `LIPS_COUNT`), and labels: whose definition they follow, one of `LABEL_SETS`.
        """
        start = start.map(lambda value: value.detach().float())
        if points is None:
            points = self._shape.landmarks(self._shape.turned(start), start, "ibug")
        if weights is None:
            weights = lips_first(torch.ones(points.shape[:2]))
        if labels not in LABEL_SETS:
            raise ValueError(f"labels {labels!r} is none of {', '.join(LABEL_SETS)}")
        rows = torch.arange(len(start)).split(TOGETHER)
        size = (self.settings.size,) * 2
        parts = []
        for k in (part for part in rows if len(part)):
            photo = F.interpolate(images[k].float(), size=size, mode="bilinear", antialias=True)
            parts.append(self._fit(_Seen(photo, start[k], points[k], weights[k], labels)))
        if not parts:
            return Fitted(start, torch.zeros(0, dtype=torch.bool), {}, {})
        return Fitted(
            FaceParameters.cat(part.parameters for part in parts),
            torch.cat([part.kept for part in parts]),
            {name: torch.cat([part.before[name] for part in parts]) for name in parts[0].before},
            {name: torch.cat([part.after[name] for part in parts]) for name in parts[0].after},
        )

    def _fit(self, seen: "_Seen") -> Fitted:
        settings, start = self.settings, seen.start
        with torch.no_grad():
            first, pixels = self._energy(seen, start)
        with torch.enable_grad():
            unknown = {name: getattr(start, name).clone() for name in COEFFICIENTS}
            unknown |= {name: torch.zeros(len(start), 3) for name in ("turn", "place")}
            groups = [{"params": [value.requires_grad_()], "lr": RATES[name]} for name, value in unknown.items()]
            optimizer = torch.optim.Adam(groups, betas=MOMENTS)
            cosine = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / settings.steps))
            for _ in range(settings.steps):
                energy, _ = self._energy(seen, _moved(start, unknown), pixels)
                optimizer.zero_grad()
                energy["total"].sum().backward()
                optimizer.step()
                cosine.step()
        found = _moved(start, unknown).detach()
        with torch.no_grad():
            last, _ = self._energy(seen, found, pixels)
        kept = last["total"] < first["total"]
        return Fitted(FaceParameters.where(kept, found, start), kept, first, last)

    def _energy(
        self, seen: "_Seen", face: FaceParameters, pixels: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The terms as `Fitted` names them, (B,) each, and the number of drawn pixels (B,); pixels: N."""
        settings, points, weights = self.settings, seen.points, seen.weights
        places = self._shape.landmarks(self._shape.turned(face), face, seen.labels)
        size = (points.amax(1) - points.amin(1)).prod(1)
        apart = weights * (places - points).square().sum(2) / size[:, None]
        drawing = render_face(self._drawing, face, settings.size)
        residual = (drawing.image - seen.photo).square().sum(1) / settings.picture_noise**2
        mask = covered_by(drawing.fragments, self._front)[:, 0].to(residual.dtype)
        drawn = mask.sum((1, 2))
        picture = (mask * residual / (1 + residual / WHERE_ROBUST)).sum((1, 2)) / drawn.clamp_min(1)
        shape = face.identity.square().sum(1) + face.expression.square().sum(1) / EXPRESSION_VARIANCE
        tint = (face.lighting - face.lighting.mean(2, keepdim=True)).square().sum((1, 2))
        prior = settings.share * shape + face.albedo.square().sum(1) + settings.grey * tint
        if settings.turn_error:  # |R - R'|_F^2 = 2 angle^2 where it is small
            turn = (face.rotation - seen.start.rotation).square().sum((1, 2)) / 2
            prior = prior + turn / math.radians(settings.turn_error) ** 2
        counted = (drawn if pixels is None else pixels) / settings.correlated
        return {
            "points": (apart.sum(1) / weights.sum(1).clamp_min(1e-6)).sqrt(),
            "picture": picture.sqrt(),
            "total": apart.sum(1) / settings.point_noise**2 + counted * picture + prior,
        }, drawn


class _Seen(NamedTuple):
    """What B faces are fitted to: photo (B, 3, S, S), the first estimates, and the rest as `Fitter.fit` has it."""

    photo: Tensor
    start: FaceParameters
    points: Tensor
    weights: Tensor
    labels: str


def lips_first(weights: Tensor) -> Tensor:
    """Weights (B, 68) of points of which those of the inner lips count `LIPS_COUNT` times as much."""
    weights = weights.clone()
    weights[:, INNER_LIPS] *= LIPS_COUNT
    return weights


def _rate(done: float) -> float:
    """The step's length, as a share of the first, when a share of the steps is done."""
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


def _moved(start: FaceParameters, unknown: dict[str, Tensor]) -> FaceParameters:
    """The start with these coefficients and this light, turned and reframed."""
    coefficients = {name: unknown[name] for name in COEFFICIENTS}
    return start.moved(unknown["turn"], unknown["place"]).replace(**coefficients)
