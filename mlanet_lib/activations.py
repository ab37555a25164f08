"""Expressions as the activations in [0, 1] that ARKit's names stand for."""

import numpy as np
import torch
from scipy.optimize import lsq_linear

from mlanet_lib.face_model import MorphableModel


def activations(model: MorphableModel, expression: torch.Tensor) -> np.ndarray:
    """Expression coefficients (B,Ke) as activations (B,Ke) in [0,1], float64.

    A network's coefficients may leave that range (corners of a mouth that it lowers are a smile below 0). These are the
    ones within it whose mesh is nearest, in the sum of squared distances of the vertices:

        |B (w - e)|^2 = |R (w - e)|^2,  B^T B = R^T R
    """
    basis = model.expression_basis.double().cpu().numpy().reshape(-1, model.n_expression)
    gram = basis.T @ basis
    root = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) * np.eye(len(gram))).T
    rows = expression.detach().double().cpu().numpy()
    inside = ((rows >= 0) & (rows <= 1)).all(1)
    found = [row if fits else _bounded(root, row) for row, fits in zip(rows, inside, strict=True)]
    return np.array(found).reshape(rows.shape)


def _bounded(root: np.ndarray, row: np.ndarray) -> np.ndarray:
    return np.clip(lsq_linear(root, root @ row, (0, 1), method="bvls").x, 0, 1)
