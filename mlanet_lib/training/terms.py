"""The terms of semi-supervised training: which samples of a batch are judged by which of the `losses`.

Labelled samples are judged by their parameters, vertices and landmarks, landmarked ones by landmarks and picture,
unlabelled ones by their picture alone. The last two also get regularisers.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.points import JAW
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.geometry.device import on_device
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import covered_by, render_face
from mlanet_lib.training.data import Batch, Kind
from mlanet_lib.training.losses import (
    LossWeights,
    coefficient_loss,
    landmark_loss,
    light_prior_loss,
    lighting_loss,
    opening_loss,
    opening_weights,
    photometric_loss,
    rotation_loss,
    same_person_loss,
    told_loss,
    translation_loss,
    vertex_loss,
)

if TYPE_CHECKING:
    from mlanet_lib.training.config import TrainConfig

Judged = tuple[Tensor, Tensor]  # a loss, and the tensor whose sum is the amount that it is a mean over


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
    shape, drawing: the sparse and the rendered face model; front: (F,) bool, the latter's `front_faces`; drawn: (B,)
    bool, the rows that are rendered (`drawn_rows` of the whole batch, where this is a part of it). What several terms
    need is computed once.
    """

    predicted: FaceParameters
    outputs: dict[str, Tensor]
    batch: Batch
    drawn: Tensor
    shape: SparseShape
    drawing: MorphableModel
    front: Tensor
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
    """Over the front of the face: hair and clothes cover what lies around it."""
    rows = seen.rows("drawn")
    drawing = render_face(seen.drawing, seen.predicted[rows], seen.config.photometric_size)
    photo = F.interpolate(seen.batch.target[rows], size=drawing.image.shape[-2:], mode="area")
    mask = covered_by(drawing.fragments, seen.front).to(photo.dtype)
    return photometric_loss(drawing.image, photo, mask), mask


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
