"""Feedback: look where the face has been drawn, and move it to where it is in the photo.

A network that regresses a face from pooled features knows well what kind of face it sees, and less well where its lids
and lips lie. So the first estimate's points are projected into the finer levels and what lies there is read, the 68
points attend to one another and say how far each lies from its place in the photo and how sure that is, and the
parameters follow by one damped Gauss-Newton step

    minimise  sum_k w_k |J_k d - o_k|^2 + sum_m ridge_m d_m^2

over the change d of pose, identity and expression. o_k (crop sides) and w_k are the network's, J_k is the derivative of
the projected point (`FaceParameters` give it in closed form), and ridge_m, one for each unknown, is learned. So the
mesh can go where the points go, and what the points do not say stays with the first estimate. Features at the drawn
mesh are PyMAF's idea (Zhang et al. 2021, arXiv:2103.16507), which regresses the change instead; learned residuals
in a Gauss-Newton step are BA-Net's (Tang & Tan 2019, arXiv:1806.04807); the points' attention is the transformer's
(Vaswani et al. 2017, arXiv:1706.03762). An assumption of this project, not the paper's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.face_model.points import JAW
from mlanet_lib.geometry.camera import flip, project, to_camera
from mlanet_lib.parameters import FaceParameters

READ, TOKEN, HEADS, BLOCKS = 24, 64, 4, 2
"""Numbers that are read at each point; what a point is while the points attend to one another: numbers, heads of the
attention, and how often."""
OFFSET, SURE = 0.05, 4.0
"""What a head's output is multiplied with to be an offset in crop sides, and the largest |log| weight of a point."""
RIDGE = {"turn": 1e-6, "frame": 1e-6, "identity": 5e-5, "expression": 5e-4}
"""First ridge of each unknown, crop sides^2 per unit^2 (radians; crop sides and log size; standard deviations;
activations): about those of the fits that label photos."""
STIFFER = 1e-4
"""What a matrix that single precision cannot factor gets more of its diagonal, so that no training ends there."""
LEAF, ROUNDS = 48, 36
"""Of the solution in an exported graph, whose formats hold matrix products alone: the largest block that is inverted by
Newton's iteration, and its rounds, enough for any matrix that single precision can invert."""


class Feedback(nn.Module):
    """One step of feedback, with features of some levels. model: whose points are projected: the jaw where 3DDFA's
    labels have it, on the head's surface, the rest where iBUG's have it; channels: of each level; patch: side of the
    square of cells around each point that are read (odd): neighbours tell where within a cell an edge lies."""

    mean: Tensor
    basis: Tensor

    def __init__(self, model: MorphableModel, channels: Sequence[int], patch: int = 1) -> None:
        super().__init__()
        mean, *bases = (
            torch.cat([model.landmarks(field[None], "3ddfa")[0, :JAW], model.landmarks(field[None], "ibug")[0, JAW:]])
            for field in (model.mean, model.identity_basis, model.expression_basis)
        )
        self.register_buffer("mean", mean.detach().float().cpu(), persistent=False)
        self.register_buffer("basis", torch.cat(bases, 2).detach().float().cpu(), persistent=False)
        count = len(mean)
        self.read = nn.ModuleList(nn.Conv2d(size, READ, patch, padding=patch // 2) for size in channels)
        from timm.models.vision_transformer import Block

        self.embed = nn.Linear(READ + 2, TOKEN)
        self.turned = nn.Linear(9, TOKEN, bias=False)
        self.which = nn.Parameter(torch.randn(count, TOKEN) * 0.02)
        self.attend = nn.Sequential(*(Block(TOKEN, HEADS, mlp_ratio=2, qkv_bias=True) for _ in range(BLOCKS)))
        self.say = nn.Parameter(torch.randn(count, TOKEN, 3) * 1e-3)
        sizes = {"turn": 3, "frame": 3, "identity": model.n_identity, "expression": model.n_expression}
        self.log_ridge = nn.Parameter(torch.cat([torch.full((sizes[name],), RIDGE[name]).log() for name in sizes]))

    def maps(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """What the points read of the levels (B, C, h, w), for every cell: (B, READ, h, w) each. Interpolating such a
        map at a point gives what a linear layer makes of the features interpolated there and around it."""
        return [read(level) for read, level in zip(self.read, levels, strict=True)]

    def forward(self, maps: Sequence[Tensor], face: FaceParameters) -> tuple[FaceParameters, Tensor, Tensor]:
        """maps: of the crop's levels; face: an estimate.

        Returns the moved estimate, where the points of the first one are drawn, and where the network sees them,
        (B, 68, 2) each, in crop sides. Gradients do not flow through where it looked.
        """
        coefficients = torch.cat([face.identity, face.expression], 1)
        shape = self.mean + (coefficients @ self.basis.flatten(0, 1).T).unflatten(1, self.mean.shape)
        turned = to_camera(shape, face.rotation, torch.zeros_like(face.translation))
        drawn = project(turned + face.translation[:, None], face.focal, 1, 1)[..., :2]
        here = FaceParameters.from_tensors({name: value.detach() for name, value in face.as_tensors().items()})
        offset, sure = self._look(maps, drawn.detach(), here.rotation)
        change = self._solve(self._derivative(turned.detach(), here), offset, sure)
        turn, frame, identity, expression = change.split([3, 3, face.identity.shape[1], face.expression.shape[1]], 1)
        moved = face.moved(flip(turn), frame)
        moved = moved.replace(identity=face.identity + identity, expression=face.expression + expression)
        return moved, drawn, drawn.detach() + offset

    def _look(self, maps: Sequence[Tensor], places: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (B, 68, 2) and weights (B, 68) from the features at places (B, 68, 2)."""
        grid = (2 * places - 1)[:, :, None].clamp(-1.5, 1.5)
        seen = [F.grid_sample(each.to(grid.dtype), grid, align_corners=False)[..., 0].mT for each in maps]
        found = F.layer_norm(F.silu(torch.stack(seen).sum(0)), (READ,))
        middle = places - places.mean(1, keepdim=True)
        tokens = self.embed(torch.cat([found, 4 * middle], 2)) + self.which + self.turned(rotation.flatten(1))[:, None]
        known = F.layer_norm(self.attend(tokens), (TOKEN,))
        said = (known[:, :, None] @ self.say)[:, :, 0]
        return OFFSET * said[..., :2], torch.exp(SURE * torch.tanh(said[..., 2] / SURE))

    def _derivative(self, turned: Tensor, face: FaceParameters) -> Tensor:
        """(B, 68, 2, 6 + M): the points' places in the picture by a turn about the camera's axes (radians), the offset
        u, v and log scale s of `MLANet.face_parameters`, and the coefficients; turned: (B, 68, 3) before translation"""
        place = turned + face.translation[:, None]
        zero, (x, y, z) = torch.zeros_like(turned[..., 0]), turned.unbind(2)
        turns = torch.stack([zero, z, -y, -z, zero, x, y, -x, zero], 2).unflatten(2, (3, 3))  # column i: e_i x point
        depth, nothing = face.translation[:, 2] / face.focal, torch.zeros_like(face.focal)
        frame = torch.stack([depth, nothing, nothing, depth, nothing, nothing], 1).unflatten(1, (3, 2))
        frame = torch.cat([frame, -face.translation[..., None]], 2)[:, None].expand(-1, turned.shape[1], -1, -1)
        modes = torch.einsum("bij,kjm->bkim", flip(face.rotation.mT).mT, self.basis)
        moved = torch.cat([turns, frame, modes], 3)
        across = (place[..., :2] / place[..., 2:])[..., None]
        return (face.focal[:, None] / place[..., 2])[..., None, None] * (moved[:, :, :2] - across * moved[:, :, 2:])

    def _solve(self, derivative: Tensor, offset: Tensor, sure: Tensor) -> Tensor:
        """(B, 6 + M): the step."""
        weighted = (derivative * sure[..., None, None]).flatten(1, 2)
        ridge = self.log_ridge.exp()
        matrix = weighted.mT @ derivative.flatten(1, 2)
        right = weighted.mT @ offset.flatten(1)[..., None]
        # in units in which the ridge is 1, so that single precision is enough
        scale = ridge.rsqrt()
        matrix = scale[:, None] * matrix * scale + torch.eye(len(scale), device=scale.device)
        right = scale[:, None] * right
        if torch.compiler.is_exporting():
            return scale * _by_products(matrix, right)[..., 0]
        return scale * _PositiveSolve.apply(matrix, right)[..., 0]


class _PositiveSolve(torch.autograd.Function):
    """x (B, N, 1) of M x = b, M (B, N, N) symmetric and positive definite, by Cholesky. Its gradient is one more
    solution with the same factor, where that through the factor's own steps takes four times as long. `torch.linalg.
    solve` would do the same by LU, but torch 2.15's fails for several matrices in several threads (with MKL on AMD)."""

    @staticmethod
    def forward(context: Any, matrix: Tensor, right: Tensor) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed.any():
            stiffer = matrix + STIFFER * torch.diag_embed(torch.diagonal(matrix, dim1=1, dim2=2))
            factor = torch.where(failed[:, None, None] > 0, torch.linalg.cholesky_ex(stiffer)[0], factor)
        found = torch.cholesky_solve(right, factor)
        context.save_for_backward(factor, found)
        return found

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        factor, found = context.saved_tensors
        right = torch.cholesky_solve(gradient, factor)
        return -right @ found.mT, right


def _by_products(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution (B, N, K) of `matrix` (B, N, N), symmetric and positive definite, for `right` (B, N, K), by halves:
    the second half of the unknowns is left when the first is eliminated."""
    half = matrix.shape[1] // 2
    if matrix.shape[1] <= LEAF:
        found = (inverse := _inverse(matrix)) @ right
        return found + inverse @ (right - matrix @ found)
    beside, below = matrix[:, :half, half:], matrix[:, half:, half:]
    solved = _by_products(matrix[:, :half, :half], torch.cat([beside, right[:, :half]], 2))
    by_rest, alone = solved.split([beside.shape[2], right.shape[2]], 2)
    rest = _by_products(below - beside.mT @ by_rest, right[:, half:] - beside.mT @ alone)
    return torch.cat([alone - by_rest @ rest, rest], 1)


def _inverse(matrix: Tensor) -> Tensor:
    """The inverse of (B, N, N), symmetric and positive definite, by Newton's iteration X <- 2 X - X M X (Schulz 1933),
    in units in which the diagonal is 1. It converges from I / |M|, first as the condition number's logarithm asks."""
    unit = torch.diagonal(matrix, dim1=1, dim2=2).rsqrt()[..., None]
    matrix = unit * matrix * unit.mT
    found = torch.eye(matrix.shape[1], device=matrix.device) / matrix.abs().sum(2).amax(1)[:, None, None]
    for _ in range(ROUNDS):
        found = 2 * found - found @ (matrix @ found)
    return unit * found * unit.mT
