"""The losses of training, each a small pure function that returns one scalar; `terms` says which samples have which.

The paper names the ingredients (3DMM parameters of public data, a differentiable renderer). Formulas and weights are
common ones, and an assumption.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from mlanet_lib.geometry.device import constant
from mlanet_lib.geometry.lighting import REFLECTED
from mlanet_lib.limits import WEIGHT, check_fields
from mlanet_lib.parameters import FaceParameters

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


def _framing(parameters: FaceParameters) -> Tensor:
    focal, depth = parameters.focal[:, None], parameters.translation[:, 2:]
    return torch.cat([focal * parameters.translation[:, :2] / depth, (depth / focal).log()], 1)
