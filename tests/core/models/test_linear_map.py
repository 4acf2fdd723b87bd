"""Ridge regression; its closed form is compared with augmented least squares in test_unified.py."""

from __future__ import annotations

import torch

from unigrec.core.models.linear_map import LinearMap, ridge_regression


def applied(fitted: LinearMap, inputs: torch.Tensor) -> torch.Tensor:
    return inputs @ fitted.weight.T + fitted.bias


def test_an_affine_map_is_found_when_the_penalty_is_next_to_nothing():
    torch.manual_seed(0)
    inputs, weight, bias = torch.randn(50, 4), torch.randn(3, 4), torch.randn(3)
    fitted = ridge_regression(inputs, inputs @ weight.T + bias, ridge=1e-12)
    torch.testing.assert_close(fitted.weight, weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fitted.bias, bias, rtol=1e-4, atol=1e-5)


def test_predictions_do_not_depend_on_the_scale_of_the_inputs():
    torch.manual_seed(0)
    inputs, targets = torch.randn(50, 4), torch.randn(50, 3)
    fitted, scaled = ridge_regression(inputs, targets, ridge=0.5), ridge_regression(100 * inputs, targets, ridge=0.5)
    torch.testing.assert_close(applied(fitted, inputs), applied(scaled, 100 * inputs), rtol=1e-4, atol=1e-5)


def test_a_large_penalty_predicts_the_mean_target_and_a_constant_input_too():
    torch.manual_seed(0)
    inputs, targets = torch.randn(50, 4), torch.randn(50, 3)
    for rows, ridge in ((inputs, 1e9), (torch.ones(50, 4), 1e-2)):
        found = applied(ridge_regression(rows, targets, ridge), rows)
        torch.testing.assert_close(found, targets.mean(0).expand(50, -1), rtol=1e-4, atol=1e-5)
