"""The losses of semi-supervised training, each a small pure function that returns one scalar.

Labelled samples are judged by their parameters, vertices and landmarks, landmarked ones by landmarks and picture,
unlabelled ones by their picture alone, the last two with regularisers. The paper names the ingredients (3DMM
parameters of public data, a differentiable renderer); the formulas and weights are the field's, hence an assumption.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from mlanet_lib.augmentation import Batch
from mlanet_lib.camera import project, to_camera
from mlanet_lib.face_model import MorphableModel
from mlanet_lib.parameters import FaceParameters
from mlanet_lib.renderer import render_face

# share of a radiance coefficient that a Lambertian surface reflects, per spherical harmonic (see lighting.py)
_REFLECTED = (1.0,) + (2 / 3,) * 3 + (1 / 4,) * 5


@dataclass(frozen=True)
class LossWeights:
    """What each term counts in the sum; 0 leaves it out. In brackets the term's unit.

    Supervised: identity [sd^2], expression [activation^2], albedo [sd^2], rotation [1], translation [crop sides^2],
    lighting [irradiance^2], vertices [mm], landmarks [crop sides]. Self-supervised: photometric [RGB norm].
    Regularisers, on samples without parameter labels: prior_identity [sd^2], prior_expression [activation^2],
    prior_albedo [sd^2], prior_light [radiance^2].
    """

    identity: float = 0.1
    expression: float = 1.0
    albedo: float = 0.05
    rotation: float = 2.0
    translation: float = 10.0
    lighting: float = 0.5
    vertices: float = 0.1
    landmarks: float = 20.0
    photometric: float = 1.0
    prior_identity: float = 0.01
    prior_expression: float = 0.02
    prior_albedo: float = 0.01
    prior_light: float = 0.02


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
    reflected = predicted.new_tensor(_REFLECTED)[:, None]
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


class SparseShape:
    """The 68 landmarks and `count` evenly spread vertices of a face model: all of the shape that the losses need.

    Decoding these few hundred points instead of all vertices makes the supervised losses nearly free.
    """

    def __init__(self, model: MorphableModel, count: int):
        index = model.subset_index(count)
        bases = torch.cat([model.identity_basis, model.expression_basis], 2)
        self.mean = torch.cat([model.landmarks(model.mean[None])[0], model.mean[index]])
        self.bases = torch.cat([model.landmarks(bases[None])[0], bases[index]])

    def turned(self, parameters: FaceParameters) -> Tensor:
        """(B, 68 + count, 3) mm: the points in the camera's axes, turned by the pose but not translated."""
        coefficients = torch.cat([parameters.identity, parameters.expression], 1)
        points = self.mean + (coefficients @ self.bases.flatten(0, 1).T).unflatten(1, self.mean.shape)
        return to_camera(points, parameters.rotation, torch.zeros_like(parameters.translation))

    def landmarks(self, turned: Tensor, parameters: FaceParameters) -> Tensor:
        """(B, 68, 2) in crop sides, from the result of `turned`."""
        return project(turned[:, :68] + parameters.translation[:, None], parameters.focal, 1, 1)[..., :2]


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
        predicted, truth = (predicted, truth) if lit.all() else (predicted[lit], truth[lit])
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


def semi_supervised_terms(
    predicted: FaceParameters, batch: Batch, shape: SparseShape, model: MorphableModel, config
) -> dict[str, Tensor]:
    """All loss terms of a batch by name, unweighted, and their weighted sum as "total".

    Labelled rows: parameters, vertices, landmarks. Landmarked rows: landmarks, picture, regularisers. Unlabelled
    rows: picture, regularisers. Labelled rows whose albedo and lighting are not known: picture and regularisers, too.
    Of the rows that the picture judges the first `photometric_batch` are rendered.
    config: `weights` (LossWeights), `hidden_weight`, `photometric_batch` and `photometric_size` of a `TrainConfig`.
    """
    masks = (batch.kind == 0, batch.kind <= 1, ~batch.lit)
    known, pointed, free = (torch.nonzero(mask).flatten() for mask in masks)
    turned, terms = shape.turned(predicted), {}
    if len(known):
        truth = batch.parameters[known]
        terms |= supervised_terms(predicted[known], truth, batch.lit[known])
        terms["vertices"] = vertex_loss(turned[known, 68:], shape.turned(truth)[:, 68:])
    if len(pointed):
        weights = config.hidden_weight + (1 - config.hidden_weight) * batch.visible[pointed]
        weights = weights * batch.confidence[pointed]
        found = shape.landmarks(turned, predicted)[pointed]
        terms["landmarks"] = landmark_loss(found, batch.landmarks[pointed], weights)
    if len(free):
        terms |= prior_terms(predicted[free])
        drawn = free[: config.photometric_batch]
        if len(drawn) and config.weights.photometric:
            drawing = render_face(model, predicted[drawn], config.photometric_size)
            photo = F.interpolate(batch.target[drawn], size=drawing.image.shape[-2:], mode="area")
            terms["photometric"] = photometric_loss(drawing.image, photo, drawing.mask)
    return total(terms, config.weights)


def total(terms: dict[str, Tensor], weights: LossWeights) -> dict[str, Tensor]:
    """The named terms, unweighted, and under "total" their weighted sum. A term without a weight is a KeyError."""
    factors = {field.name: getattr(weights, field.name) for field in fields(weights)}
    return {**terms, "total": sum(factors[name] * value for name, value in terms.items())}


def _framing(parameters: FaceParameters) -> Tensor:
    focal, depth = parameters.focal[:, None], parameters.translation[:, 2:]
    return torch.cat([focal * parameters.translation[:, :2] / depth, (depth / focal).log()], 1)
