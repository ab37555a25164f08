"""Expressions as the activations in [0, 1] that ARKit's names stand for."""

import numpy as np
import torch

from mlanet_lib.face_model.model import MorphableModel

_SWEEPS, _STILL = 500, 1e-6


def activations(model: MorphableModel, expression: torch.Tensor) -> np.ndarray:
    """Expression coefficients (B,Ke) as activations (B,Ke) in [0,1], float64.

    A network's coefficients may leave that range (corners of a mouth that it lowers are a smile below 0). The result
    lies within it, and its mesh is the nearest, in the sum of squared distances of the vertices, to 1e-6 of an
    activation: the least of (w - e)^T G (w - e) with G = B^T B. The problem is convex and each coefficient has its own
    bounds, so coordinate descent finds the solution (Tseng 2001). All rows go at once: a clip has thousands.
    """
    basis = model.expression_basis.double().cpu().numpy().reshape(-1, model.n_expression)
    gram = basis.T @ basis
    wanted = expression.detach().double().cpu().numpy()
    found = np.clip(wanted, 0, 1)
    for _ in range(_SWEEPS):
        before = found.copy()
        for k, curvature in enumerate(gram.diagonal()):
            step = (found - wanted) @ gram[k] / max(curvature, 1e-12)
            found[:, k] = np.clip(found[:, k] - step, 0, 1)
        if not found.size or np.abs(found - before).max() < _STILL:
            break
    return found
