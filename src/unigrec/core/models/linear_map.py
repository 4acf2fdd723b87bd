"""A linear map with a bias, fitted by ridge regression.

Shapes: N rows, D_in input width, D_out output width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LinearMap(NamedTuple):
    """y = weight x + bias."""

    weight: Tensor  # (D_out, D_in)
    bias: Tensor  # (D_out,)


def ridge_regression(inputs: Tensor, targets: Tensor, ridge: float) -> LinearMap:
    """Least squares from inputs (N, D_in) to targets (N, D_out), with a penalty on the squared weights.

    The bias is not penalised. Computed in double precision.

    Args:
        ridge: the penalty relative to the inputs' variance, so that neither N nor the scale of the inputs matters.
    """
    centre, target_centre = inputs.mean(0), targets.mean(0)
    x, y = (inputs - centre).double(), (targets - target_centre).double()
    moments = x.T @ x
    penalty = ridge * moments.diagonal().mean().clamp_min(1e-12)
    moments += penalty * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    weight = torch.linalg.solve(moments, x.T @ y).T.to(inputs.dtype)
    return LinearMap(weight, target_centre - weight @ centre)
