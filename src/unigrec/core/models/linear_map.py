"""A linear map fitted by ridge regression."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LinearMap(NamedTuple):
    """weight (D_out, D_in), bias (D_out,)."""

    weight: Tensor
    bias: Tensor


def ridge_regression(inputs: Tensor, targets: Tensor, ridge: float) -> LinearMap:
    """Least squares from inputs (N, D_in) to targets (N, D_out). ridge: relative to the inputs' mean variance."""
    centre, target_centre = inputs.mean(0), targets.mean(0)
    x, y = (inputs - centre).double(), (targets - target_centre).double()
    moments = x.T @ x
    penalty = ridge * moments.diagonal().mean().clamp_min(1e-12)
    moments += penalty * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    weight = torch.linalg.solve(moments, x.T @ y).T.to(inputs.dtype)
    return LinearMap(weight, target_centre - weight @ centre)
