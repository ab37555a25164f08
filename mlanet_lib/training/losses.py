"""The losses of semi-supervised training, each a small pure function that returns one scalar.

Labelled samples are judged by their parameters, vertices and landmarks, landmarked ones by landmarks and picture,
unlabelled ones by their picture alone, the last two with regularisers. The paper names the ingredients (3DMM
parameters of public data, a differentiable renderer); the formulas and weights are the field's, hence an assumption.
"""

from dataclasses import dataclass, fields
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.sparse_shape import SparseShape
from mlanet_lib.geometry.device import constant, on_device
from mlanet_lib.geometry.lighting import REFLECTED
from mlanet_lib.limits import WEIGHT, check_fields
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render_face
from mlanet_lib.training.data import Batch

OPENINGS = ((61, 67), (62, 66), (63, 65), (48, 54), (60, 64), (37, 41), (38, 40), (43, 47), (44, 46))
"""Pairs of the 68 points across the inner lips, the mouth and the lids."""


@dataclass(frozen=True)
class LossWeights:
    """What each term counts in the sum; 0 leaves it out. In brackets the term's unit.

    Supervised: identity [sd^2], expression [activation^2], albedo [sd^2], rotation [1], translation [crop sides^2],
    lighting [irradiance^2], vertices [mm], landmarks, points and openings [crop sides]. Self-supervised: photometric
    [RGB norm].
    Regularisers, on samples without parameter labels: prior_identity [sd^2], prior_expression [activation^2],
    prior_albedo [sd^2], prior_light [radiance^2].
    """

    identity: Annotated[float, WEIGHT] = 0.1
    expression: Annotated[float, WEIGHT] = 1.0
    albedo: Annotated[float, WEIGHT] = 0.05
    rotation: Annotated[float, WEIGHT] = 2.0
    translation: Annotated[float, WEIGHT] = 10.0
    lighting: Annotated[float, WEIGHT] = 0.5
    vertices: Annotated[float, WEIGHT] = 0.1
    landmarks: Annotated[float, WEIGHT] = 20.0
    points: Annotated[float, WEIGHT] = 20.0
    openings: Annotated[float, WEIGHT] = 5.0
    photometric: Annotated[float, WEIGHT] = 1.0
    prior_identity: Annotated[float, WEIGHT] = 0.01
    prior_expression: Annotated[float, WEIGHT] = 0.02
    prior_albedo: Annotated[float, WEIGHT] = 0.01
    prior_light: Annotated[float, WEIGHT] = 0.02

    def __post_init__(self):
        check_fields(self)


def coefficient_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """mean_bk (p_bk - t_bk)^2: (B, K) each, in standard deviations (identity, albedo) or activations (expression)."""
    return (predicted - truth).square().mean()


def rotation_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """mean_b |R_b - R'_b|_F^2 / 4 = mean_b 1 - cos(angle_b): (B, 3, 3) each. About angle^2 / 2, smooth everywhere."""
    return (predicted - truth).square().sum((1, 2)).mean() / 4


def translation_loss(predicted: FaceParameters, truth: FaceParameters) -> Tensor:
    """mean_b |c_b - c'_b|^2 with c = (f t_x / t_z, f t_y / t_z, log(t_z / f)): place and size in the picture.

    In crop sides and as a log factor: depth and focal length may differ where the picture does not.
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


def landmark_loss(predicted: Tensor, truth: Tensor, weights: Tensor, scale: float = 0.01) -> Tensor:
    """sum_bk w_bk (sqrt(|p_bk - t_bk|^2 + s^2) - s) / sum_bk w_bk: Charbonnier's robust distance.

    predicted, truth: (B, 68, 2) in crop sides; weights: (B, 68), lower for points that are not visible; scale: s, in
    crop sides: quadratic below, linear above.
    """
    distance = ((predicted - truth).square().sum(2) + scale**2).sqrt() - scale
    return (weights * distance).sum() / weights.sum().clamp_min(1e-6)


def opening_loss(predicted: Tensor, truth: Tensor, weights: Tensor, scale: float = 0.003) -> Tensor:
    """How far apart lips and lids are: `landmark_loss` of the vectors between the two points of each of `OPENINGS`.

    Arguments as there; a pair counts as its less certain point does. A point's own error is mostly where the whole face
    was put, beside which a closed mouth read half open is a small one, and yet the first that a person sees. After the
    eye and lip closure losses of DECA (Feng et al. 2021) and EMOCA (Danecek et al. 2022).
    """
    one, other = ([pair[k] for pair in OPENINGS] for k in (0, 1))
    apart, truly = (points[:, one] - points[:, other] for points in (predicted, truth))
    return landmark_loss(apart, truly, opening_weights(weights), scale)


def opening_weights(weights: Tensor) -> Tensor:
    """What each of `OPENINGS` counts, (B, 9), by its less certain point; weights: (B, 68)."""
    return weights[:, OPENINGS].amin(2)


def photometric_loss(rendered: Tensor, image: Tensor, mask: Tensor, scale: float = 0.3) -> Tensor:
    """mean over the rendered mask of r / (1 + r / s), r = |I - I'|_2 over RGB (Deng et al. 2019 take r itself).

    rendered, image: (B, 3, H, W) display-encoded in [0, 1]; mask: (B, 1, H, W), 1 where the face was drawn. A pixel
    that is far off (an occluder, hair) pulls ever less beyond the scale s.
    """
    residual = ((rendered - image).square().sum(1, keepdim=True) + 1e-6).sqrt()
    return (mask * residual / (1 + residual / scale)).sum() / mask.sum().clamp_min(1.0)


def prior_loss(coefficients: Tensor) -> Tensor:
    """mean_bk c_bk^2: keeps (B, K) coefficients near the mean face where nothing else speaks."""
    return coefficients.square().mean()


def light_prior_loss(lighting: Tensor) -> Tensor:
    """mean (L - mean_rgb L)^2 of (B, 9, 3): keeps light near white (Deng et al. 2019's gamma loss)."""
    return (lighting - lighting.mean(2, keepdim=True)).square().mean()


def supervised_terms(predicted: FaceParameters, truth: FaceParameters, lit: Tensor) -> dict[str, Tensor]:
    """The parameter losses by name, for samples whose parameters are known; albedo and lighting where `lit` (B,) bool,
    on the CPU, says that those are."""
    terms = {
        "identity": coefficient_loss(predicted.identity, truth.identity),
        "expression": coefficient_loss(predicted.expression, truth.expression),
        "rotation": rotation_loss(predicted.rotation, truth.rotation),
        "translation": translation_loss(predicted, truth),
    }
    if lit.any():
        if not lit.all():
            rows = on_device(torch.nonzero(lit).flatten(), predicted.albedo.device)
            predicted, truth = predicted[rows], truth[rows]
        terms["albedo"] = coefficient_loss(predicted.albedo, truth.albedo)
        terms["lighting"] = lighting_loss(predicted.lighting, truth.lighting)
    return terms


def prior_terms(predicted: FaceParameters) -> dict[str, Tensor]:
    """The regularisers by name, for samples whose parameters are not known."""
    return {
        "prior_identity": prior_loss(predicted.identity),
        "prior_expression": prior_loss(predicted.expression),
        "prior_albedo": prior_loss(predicted.albedo),
        "prior_light": light_prior_loss(predicted.lighting),
    }


def drawn_rows(lit: Tensor, config) -> Tensor:
    """(B,) bool on the CPU: which samples of a batch are rendered, the first `photometric_batch` of those that their
    picture judges. lit: (B,) as a `Batch` has it."""
    count = config.photometric_batch if config.weights.photometric else 0
    return ~lit & ((~lit).cumsum(0) <= count)


def semi_supervised_terms(
    predicted: FaceParameters,
    batch: Batch,
    shape: SparseShape,
    model: MorphableModel,
    config,
    drawn: Tensor | None = None,
    points: Tensor | None = None,
) -> tuple[dict[str, Tensor], dict[str, int | Tensor]]:
    """All loss terms of a batch by name, unweighted, and what each is a mean over.

    Landmarks are compared with the model's points of the definition that a row's labels follow. Labelled rows:
    parameters, vertices, landmarks. Landmarked rows: landmarks, picture, regularisers. Unlabelled rows: picture,
    regularisers. Labelled rows whose albedo and lighting are not known: picture and regularisers, too.
    config: `weights` (LossWeights), `hidden_weight`, `photometric_batch` and `photometric_size` of a `TrainConfig`.
    drawn: (B,) bool, the rows that are rendered, where the batch is a part of a greater one (default: `drawn_rows`).
    points: (B, 136), what the network says of the landmarks beside its parameters (`MLANet.forward`), judged like them,
    but for rows whose labels follow another definition than 3DDFA's, which is the one that this head speaks.

    The second result holds for each term its amount, a number of rows or a tensor whose sum it is (the points'
    weights, the drawn pixels): the mean over several batches is that of their terms, weighted by their amounts.
    """
    device = batch.landmarks.device
    drawn = drawn_rows(batch.lit, config) if drawn is None else drawn
    masks = (batch.kind == 0, batch.kind <= 1, ~batch.lit, drawn)
    known, pointed, free, drawn = (on_device(torch.nonzero(mask).flatten(), device) for mask in masks)
    turned, terms, amounts = shape.turned(predicted), {}, {}
    if len(known):
        truth, lit = batch.parameters[known], batch.lit[batch.kind == 0]
        terms |= supervised_terms(predicted[known], truth, lit)
        terms["vertices"] = vertex_loss(shape.vertices(turned)[known], shape.vertices(shape.turned(truth)))
        amounts |= dict.fromkeys(terms, len(known))
        amounts |= dict.fromkeys({"albedo", "lighting"} & terms.keys(), int(lit.sum()))
    if len(pointed):
        weights = config.hidden_weight + (1 - config.hidden_weight) * batch.visible[pointed]
        weights = weights * batch.confidence[pointed]
        found = shape.landmarks(turned, predicted, batch.points_set)[pointed]
        terms["landmarks"] = landmark_loss(found, batch.landmarks[pointed], weights)
        amounts["landmarks"] = weights
        if points is not None and config.weights.points:
            beside = 0.5 + points[pointed].unflatten(1, (68, 2))
            spoken = weights * on_device(batch.points_set[batch.kind <= 1] == 0, device)[:, None]
            terms["points"] = landmark_loss(beside, batch.landmarks[pointed], spoken)
            amounts["points"] = spoken
        if config.weights.openings:
            terms["openings"] = opening_loss(found, batch.landmarks[pointed], weights)
            amounts["openings"] = opening_weights(weights)
    if len(free):
        priors = prior_terms(predicted[free])
        terms |= priors
        amounts |= dict.fromkeys(priors, len(free))
    if len(drawn):
        drawing = render_face(model, predicted[drawn], config.photometric_size)
        photo = F.interpolate(batch.target[drawn], size=drawing.image.shape[-2:], mode="area")
        terms["photometric"] = photometric_loss(drawing.image, photo, drawing.mask)
        amounts["photometric"] = drawing.mask
    return terms, amounts


def term_names(kind: Tensor, lit: Tensor, config) -> list[str]:
    """Names of the terms that `semi_supervised_terms` has for a batch of these kinds, (B,) each, in its order."""
    names = []
    if (kind == 0).any():
        light = ["albedo", "lighting"] if lit.any() else []
        names += ["identity", "expression", "rotation", "translation", *light, "vertices"]
    if (kind <= 1).any():
        names += ["landmarks", *(name for name in ("points", "openings") if getattr(config.weights, name))]
    if not lit.all():
        names += ["prior_identity", "prior_expression", "prior_albedo", "prior_light"]
    if drawn_rows(lit, config).any():
        names.append("photometric")
    return names


def total(terms: dict[str, Tensor], weights: LossWeights) -> dict[str, Tensor]:
    """The named terms, unweighted, and under "total" their weighted sum. A term without a weight is a KeyError."""
    factors = {field.name: getattr(weights, field.name) for field in fields(weights)}
    return {**terms, "total": sum(factors[name] * value for name, value in terms.items())}


def _framing(parameters: FaceParameters) -> Tensor:
    focal, depth = parameters.focal[:, None], parameters.translation[:, 2:]
    return torch.cat([focal * parameters.translation[:, :2] / depth, (depth / focal).log()], 1)
