"""AdamW for a table of which a step reads a few rows.

AdamW over a million embeddings reads and writes all of them and their moments in every step: more work than the rest of
a step with sampled softmax (docs/scale.md has the figures).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LazyAdamW(torch.optim.AdamW):
    """AdamW. Of a parameter with a sparse gradient, only the rows of the gradient are updated, as in SparseAdam.

    The moments and the weight decay of other rows rest until their next gradient. The number of steps, for the
    correction of the moments' start, is that of the whole table. State and its names are those of AdamW.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update. Sparse gradients are coalesced (`Tensor.coalesce`), with rows as the sparse dimension."""
        lazy: list[tuple[dict[str, Any], Tensor, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    lazy.append((group, parameter, parameter.grad))
                    parameter.grad = None  # AdamW passes over it
        result = super().step(closure)
        for group, parameter, gradient in lazy:
            self._update_rows(group, parameter, gradient)
            parameter.grad = gradient
        return result

    def _update_rows(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        """Update the rows of a table (N, E) that have a gradient."""
        rows, values = gradient.indices()[0], gradient.values()
        state, (first, second), rate = self.state[parameter], group["betas"], group["lr"]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        steps = float(state["step"])
        mean = state["exp_avg"][rows].lerp_(values, 1.0 - first)
        square = state["exp_avg_sq"][rows].mul_(second).addcmul_(values, values, value=1.0 - second)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)
        scale = square.div_(1.0 - second**steps).sqrt_().add_(group["eps"])
        weights = parameter[rows].mul_(1.0 - rate * group["weight_decay"])
        parameter.index_copy_(0, rows, weights.addcdiv_(mean, scale, value=-rate / (1.0 - first**steps)))
