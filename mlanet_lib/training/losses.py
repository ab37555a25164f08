"""The losses of semi-supervised training, each a small pure function that returns one scalar.

Labelled samples are judged by their parameters, vertices and landmarks, landmarked ones by landmarks and picture,
unlabelled ones by their picture alone. The last two also get regularisers. The paper names the ingredients (3DMM
parameters of public data, a differentiable renderer). Formulas and weights are common ones, and an assumption.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.points import JAW
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.geometry.device import constant, on_device
from mlanet_lib.geometry.lighting import REFLECTED
from mlanet_lib.limits import WEIGHT, check_fields
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render_face
from mlanet_lib.training.data import Batch, Kind

if TYPE_CHECKING:
    from mlanet_lib.training.config import TrainConfig

Judged = tuple[Tensor, Tensor]  # a loss, and the tensor whose sum is the amount that it is a mean over

OPENINGS = ((61, 67), (62, 66), (63, 65), (48, 54), (60, 64), (37, 41), (38, 40), (43, 47), (44, 46))
"""Pairs of the 68 points across the inner lips, from corner to corner of the mouth (48, 54 and, inner, 60, 64), and
across the lids."""


@dataclass(frozen=True)
class LossWeights:
    """The weight of each term in the sum; 0 leaves it out. In brackets the term's unit.

    Supervised: identity [sd^2], expression [activation^2], albedo [sd^2], rotation [1], translation [crop sides^2],
    lighting [irradiance^2], vertices [mm], landmarks, early, points and openings [crop sides], same_person [1].
    Self-supervised: photometric [RGB norm]. Regularisers, on samples without parameter labels: prior_identity [sd^2],
    prior_expression [activation^2], prior_albedo [sd^2], prior_light [radiance^2].
    """

    identity: Annotated[float, WEIGHT] = 0.1
    expression: Annotated[float, WEIGHT] = 1.0
    albedo: Annotated[float, WEIGHT] = 0.05
    rotation: Annotated[float, WEIGHT] = 2.0
    translation: Annotated[float, WEIGHT] = 10.0
    lighting: Annotated[float, WEIGHT] = 0.5
    vertices: Annotated[float, WEIGHT] = 0.1
    landmarks: Annotated[float, WEIGHT] = 20.0
    early: Annotated[float, WEIGHT] = 10.0
    points: Annotated[float, WEIGHT] = 20.0
    same_person: Annotated[float, WEIGHT] = 0.0
    openings: Annotated[float, WEIGHT] = 5.0
    photometric: Annotated[float, WEIGHT] = 1.0
    prior_identity: Annotated[float, WEIGHT] = 0.01
    prior_expression: Annotated[float, WEIGHT] = 0.02
    prior_albedo: Annotated[float, WEIGHT] = 0.01
    prior_light: Annotated[float, WEIGHT] = 0.02

    def __post_init__(self) -> None:
        check_fields(self)


def coefficient_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """mean_bk (p_bk - t_bk)^2: (B, K) each, in standard deviations (identity, albedo) or activations (expression)."""
    return (predicted - truth).square().mean()


def told_loss(predicted: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """mean_bk (w_bk p_bk - t_bk)^2: (B, K) each, of labels t that tell the share w of each coefficient, in [0, 1].

    A fit to points finds about the share w of a true coefficient (`face_model.fitting`), the rest is its prior's pull
    to the mean. So the truth itself costs nothing here, while without w it would cost, and where a label tells nothing,
    nothing is asked. With w = 1 it is `coefficient_loss`.
    """
    return (known * predicted - truth).square().mean()


def rotation_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """mean_b |R_b - R'_b|_F^2 / 4 = mean_b 1 - cos(angle_b): (B, 3, 3) each. About angle^2 / 2, smooth everywhere."""
    return (predicted - truth).square().sum((1, 2)).mean() / 4


def translation_loss(predicted: FaceParameters, truth: FaceParameters) -> Tensor:
    """mean_b |c_b - c'_b|^2 with c = (f t_x / t_z, f t_y / t_z, log(t_z / f)): place and size in the picture.

    In crop sides and as a log factor, since different depths and focal lengths can give the same picture.
    """
    return (_framing(predicted) - _framing(truth)).square().sum(1).mean()


def lighting_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference of irradiance over the sphere of normals and RGB: (B, 9, 3) radiance coefficients each.

    mean_n (E(n) - E'(n))^2 / pi^2 = sum_lm (a_l (L_lm - L'_lm))^2 / (4 pi) by Parseval, a = 1, 2/3, 1/4.
    """
    reflected = constant(REFLECTED, predicted)[:, None]
    return ((predicted - truth) * reflected).square().sum(1).mean() / (4 * torch.pi)


def vertex_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """mean_bv |p_bv - t_bv|: the mean distance in mm of corresponding points (B, V, 3), turned but not translated."""
    return (predicted - truth).square().sum(2).clamp_min(1e-12).sqrt().mean()


def landmark_loss(predicted: Tensor, truth: Tensor, weights: Tensor, scale: float = 0.005) -> Tensor:
    """sum_bk w_bk (sqrt(|p_bk - t_bk|^2 + s^2) - s) / sum_bk w_bk: Charbonnier's robust distance.

    predicted, truth: (B, 68, 2) in crop sides; weights: (B, 68), lower for points that are not visible; scale: s, in
    crop sides; the loss is quadratic below it and linear above.
    """
    distance = ((predicted - truth).square().sum(2) + scale**2).sqrt() - scale
    return (weights * distance).sum() / weights.sum().clamp_min(1e-6)


def opening_loss(predicted: Tensor, truth: Tensor, weights: Tensor, scale: float = 0.003) -> Tensor:
    """How far apart lips and lids are: `landmark_loss` of the vectors between the two points of each of `OPENINGS`.

    Arguments as for `landmark_loss`; a pair has the weight of its less certain point. `landmark_loss` is mostly about
    the place of the whole face. A closed mouth that is drawn half open adds little to it, though people notice that
    first. After the eye and lip closure losses of DECA (Feng et al. 2021) and EMOCA (Danecek et al. 2022).
    """
    one, other = ([pair[k] for pair in OPENINGS] for k in (0, 1))
    apart, truly = (points[:, one] - points[:, other] for points in (predicted, truth))
    return landmark_loss(apart, truly, opening_weights(weights), scale)


def opening_weights(weights: Tensor) -> Tensor:
    """The weight of each of `OPENINGS`, (B, 9): that of its less certain point; weights: (B, 68)."""
    return weights[:, OPENINGS].amin(2)


def photometric_loss(rendered: Tensor, image: Tensor, mask: Tensor, scale: float = 0.3) -> Tensor:
    """mean over the rendered mask of r / (1 + r / s), r = |I - I'|_2 over RGB (Deng et al. 2019 take r itself).

    rendered, image: (B, 3, H, W) display-encoded in [0, 1]; mask: (B, 1, H, W), 1 where the face was drawn. The
    farther a pixel is off beyond the scale s (an occluder, hair), the smaller is its gradient.
    """
    residual = ((rendered - image).square().sum(1, keepdim=True) + 1e-6).sqrt()
    return (mask * residual / (1 + residual / scale)).sum() / mask.sum().clamp_min(1.0)


def same_person_loss(codes: Tensor, person: Tensor) -> Tensor:
    """Within over between: the mean squared distance of two pictures of one person over that of different people.

    codes: (B, K) identity or albedo; person: (B,), -1: somebody of their own. It has no unit, so that it cannot be made
    smaller by giving all people the same face, as a plain distance within a person can. RingNet (Sanyal et al. 2019)
    and DECA (Feng et al. 2021) say the same by a margin, and by exchanging codes. 0 where no two rows are of a person.
    """
    same = (person[:, None] == person) & (person >= 0)
    away = ~torch.eye(len(person), dtype=torch.bool, device=person.device)
    distance = (codes[:, None] - codes).square().mean(2)
    if not (same & away).any() or same.all():
        return codes.sum() * 0
    return distance[same & away].mean() / distance[~same & away].mean().clamp_min(1e-6)


def light_prior_loss(lighting: Tensor) -> Tensor:
    """mean (L - mean_rgb L)^2 of (B, 9, 3): keeps light near white (Deng et al. 2019's gamma loss)."""
    return (lighting - lighting.mean(2, keepdim=True)).square().mean()


def drawn_rows(lit: Tensor, config: "TrainConfig") -> Tensor:
    """(B,) bool on the CPU: which samples of a batch are rendered, the first `photometric_batch` that have a
    photometric loss. lit: (B,) as a `Batch` has it."""
    count = config.photometric_batch if config.weights.photometric else 0
    return ~lit & ((~lit).cumsum(0) <= count)


def judged_rows(kind: Tensor, lit: Tensor, shaped: Tensor, drawn: Tensor) -> dict[str, Tensor]:
    """The groups of samples that terms are about, (B,) bool on the CPU: all, labelled ones, those of them whose albedo
    and lighting are known, and those whose whole shape is, those with landmarks, those without all labels, and those
    that are rendered."""
    labelled, pointed = kind == Kind.LABELLED, kind <= Kind.LANDMARKED
    return {
        "all": kind >= 0,
        "labelled": labelled,
        "lit": labelled & lit,
        "shaped": labelled & shaped,
        "pointed": pointed,
        "free": ~lit,
        "drawn": drawn,
    }


@dataclass(eq=False)
class Comparison:
    """A batch's predictions and its labels.

    predicted: the parameters; outputs: all that the network gave (`MLANet.forward`);
    shape, drawing: the sparse and the rendered face model; drawn: (B,) bool, the rows that are rendered (`drawn_rows`
    of the whole batch, where this is a part of it). What several terms need is computed once.
    """

    predicted: FaceParameters
    outputs: dict[str, Tensor]
    batch: Batch
    drawn: Tensor
    shape: SparseShape
    drawing: MorphableModel
    config: "TrainConfig"
    _faces: dict[str, tuple[FaceParameters, FaceParameters]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.masks = judged_rows(self.batch.kind, self.batch.lit, self.batch.shaped, self.drawn)
        self.turned = self.shape.turned(self.predicted)

    def rows(self, group: str) -> Tensor:
        """The numbers of the samples of one of `judged_rows`, on the device of the batch."""
        return on_device(torch.nonzero(self.masks[group]).flatten(), self.turned.device)

    def faces(self, group: str) -> tuple[FaceParameters, FaceParameters]:
        """Predicted and true parameters of a group."""
        if group not in self._faces:
            rows = self.rows(group)
            self._faces[group] = self.predicted[rows], self.batch.parameters[rows]
        return self._faces[group]

    @cached_property
    def landmarks(self) -> tuple[Tensor, Tensor, Tensor]:
        """Predicted and true landmarks (n, 68, 2) of the rows that have them, by the definition that each row's labels
        follow, and what they count (n, 68)."""
        batch, hidden, rows = self.batch, self.config.hidden_weight, self.rows("pointed")
        weights = (hidden + (1 - hidden) * batch.visible[rows]) * batch.confidence[rows]
        found = self.shape.landmarks(self.turned, self.predicted, batch.points_set)[rows]
        return found, batch.landmarks[rows], weights

    @cached_property
    def feedback(self) -> tuple[Tensor, Tensor]:
        """True places (n, 68, 2) of the points of `Feedback` (jaw by 3DDFA's definition, the rest by iBUG's) in the
        rows that have landmarks, and what they count (n, 68).

        Landmarks of 3DDFA's definition say where the face is; the points of feedback are then those of the labelled
        parameters, if there are any. Points that the labels do not have count nothing.
        """
        batch, rows = self.batch, self.rows("pointed")
        _, truth, weights = self.landmarks
        if self.shape.first["ibug"] == self.shape.first["3ddfa"]:
            return truth, weights
        turned = self.shape.turned(batch.parameters)
        jaw, rest = (self.shape.landmarks(turned, batch.parameters, name) for name in ("3ddfa", "ibug"))
        fitted = torch.cat([jaw[:, :JAW], rest[:, JAW:]], 1)[rows]
        there = self.masks["pointed"]
        ours = on_device(batch.points_set[there] == 0, truth.device)[:, None]
        whole = ours & on_device(batch.kind[there] == Kind.LABELLED, truth.device)[:, None]
        is_jaw = torch.arange(truth.shape[1], device=truth.device) < JAW
        return torch.where(whole[..., None], fitted, truth), weights * (whole | (is_jaw == ours))


def _told(name: str) -> Callable[[Comparison], Tensor]:
    def loss(seen: Comparison) -> Tensor:
        predicted, truth = (getattr(side, name) for side in seen.faces("labelled"))
        known = seen.batch.known[seen.rows("labelled")]
        first = seen.predicted.identity.shape[1]
        return told_loss(predicted, truth, known[:, :first] if name == "identity" else known[:, first:])

    return loss


def _vertices(seen: Comparison) -> Tensor:
    """Of rows whose shape is known and not fitted to 68 points, which say little of the rest of the mesh."""
    found, truth = seen.shape.vertices(seen.turned), seen.shape.turned(seen.faces("shaped")[1])
    return vertex_loss(found[seen.rows("shaped")], seen.shape.vertices(truth))


def _of_feedback(name: str) -> Callable[[Comparison], Judged]:
    """The mean over the steps of feedback of `landmark_loss` of what they saw, "points" or "early"."""

    def loss(seen: Comparison) -> Judged:
        truth, weights = seen.feedback
        found = seen.outputs[name][seen.rows("pointed")]
        steps = found.shape[1]
        every, counts = truth.repeat_interleave(steps, 0), weights.repeat_interleave(steps, 0)
        return landmark_loss(found.flatten(0, 1), every, counts), weights

    return loss


def _photometric(seen: Comparison) -> Judged:
    rows = seen.rows("drawn")
    drawing = render_face(seen.drawing, seen.predicted[rows], seen.config.photometric_size)
    photo = F.interpolate(seen.batch.target[rows], size=drawing.image.shape[-2:], mode="area")
    return photometric_loss(drawing.image, photo, drawing.mask), drawing.mask


def _same_person(seen: Comparison) -> Tensor:
    person = on_device(seen.batch.person, seen.predicted.identity.device)
    of = [same_person_loss(getattr(seen.predicted, name), person) for name in ("identity", "albedo")]
    return torch.stack(of).mean()


def _prior(name: str) -> Callable[[Comparison], Tensor]:
    """mean_bk c_bk^2: keeps coefficients near the mean face where nothing else decides."""
    return lambda seen: getattr(seen.faces("free")[0], name).square().mean()


def _of(loss: Callable[[Tensor, Tensor], Tensor], name: str, group: str) -> Callable[[Comparison], Tensor]:
    """A loss of one of the parameters of a group."""
    return lambda seen: loss(*(getattr(side, name) for side in seen.faces(group)))


class Term(NamedTuple):
    """A loss term by name: the group of `judged_rows` that it is about, and its function, which returns the loss, and
    the amount that it is a mean over unless that is the rows."""

    name: str
    group: str
    function: Callable[[Comparison], Tensor | Judged]


TERMS = (
    Term("identity", "labelled", _told("identity")),
    Term("expression", "labelled", _told("expression")),
    Term("rotation", "labelled", _of(rotation_loss, "rotation", "labelled")),
    Term("translation", "labelled", lambda seen: translation_loss(*seen.faces("labelled"))),
    Term("albedo", "lit", _of(coefficient_loss, "albedo", "lit")),
    Term("lighting", "lit", _of(lighting_loss, "lighting", "lit")),
    Term("vertices", "shaped", _vertices),
    Term("landmarks", "pointed", lambda seen: (landmark_loss(*seen.landmarks), seen.landmarks[2])),
    Term("early", "pointed", _of_feedback("early")),
    Term("points", "pointed", _of_feedback("points")),
    Term("openings", "pointed", lambda seen: (opening_loss(*seen.landmarks), opening_weights(seen.landmarks[2]))),
    Term("same_person", "all", _same_person),
    Term("prior_identity", "free", _prior("identity")),
    Term("prior_expression", "free", _prior("expression")),
    Term("prior_albedo", "free", _prior("albedo")),
    Term("prior_light", "free", lambda seen: light_prior_loss(seen.faces("free")[0].lighting)),
    Term("photometric", "drawn", _photometric),
)
SKIPPED = ("early", "points", "openings", "same_person")
"""Terms that are not computed where their weight is 0; the others are, as curves to look at."""
OF_FEEDBACK = ("early", "points")
"""Terms about what steps of feedback see: outputs of the network under the same names, if it has such steps."""


def present_terms(masks: dict[str, Tensor], config: "TrainConfig", outputs: Collection[str]) -> list[Term]:
    """The terms of a batch with these `judged_rows` and these outputs of the network: labelled rows are judged by
    parameters, vertices and landmarks, landmarked ones by landmarks, photo and regularisers, unlabelled ones by photo
    and regularisers; labelled ones whose albedo and lighting are not known by photo and regularisers, too."""
    wanted = [term for term in TERMS if term.name not in SKIPPED or getattr(config.weights, term.name)]
    there = [term for term in wanted if term.name not in OF_FEEDBACK or term.name in outputs]
    return [term for term in there if masks[term.group].any()]


def semi_supervised_terms(seen: Comparison) -> tuple[dict[str, Tensor], dict[str, int | Tensor]]:
    """All loss terms of a batch by name, unweighted, and what each is a mean over.

    The second result holds for each term its amount, a number of rows or a tensor whose sum it is (the landmarks'
    weights, the drawn pixels): the mean over several batches is that of their terms, weighted by their amounts.
    """
    terms: dict[str, Tensor] = {}
    amounts: dict[str, int | Tensor] = {}
    for name, group, function in present_terms(seen.masks, seen.config, seen.outputs):
        result = function(seen)
        terms[name], amounts[name] = result if isinstance(result, tuple) else (result, int(seen.masks[group].sum()))
    return terms, amounts


def total(terms: dict[str, Tensor], weights: LossWeights) -> dict[str, Tensor]:
    """The named terms, unweighted, and under "total" their weighted sum. A term without a weight is a KeyError."""
    first, *others = [vars(weights)[name] * value for name, value in terms.items()]
    return {**terms, "total": sum(others, first)}


def _framing(parameters: FaceParameters) -> Tensor:
    focal, depth = parameters.focal[:, None], parameters.translation[:, 2:]
    return torch.cat([focal * parameters.translation[:, :2] / depth, (depth / focal).log()], 1)
