"""LazyAdamW: AdamW where all rows have a gradient; other rows rest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigrec.core.training.checkpoint import optimizer_tensors
from unigrec.core.training.engine import make_engine


class Table(nn.Module):
    """A table of five rows, and a dense part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.rows, self.last = nn.Parameter(torch.randn(5, 3)), nn.Linear(3, 1)

    def loss(self, rows: list[int], sparse: bool) -> Tensor:
        return 30.0 * self.last(F.embedding(torch.tensor(rows), self.rows, sparse=sparse)).square().sum()


def trained(steps: list[list[int]], sparse: bool) -> tuple[Table, torch.optim.Optimizer]:
    model = Table()
    group = {"params": list(model.parameters()), "lr": 0.01, "weight_decay": 0.1}
    engine = make_engine("torch", model, [group], batch_size=1, lazy=sparse)
    for rows in steps:
        engine.step(model.loss(rows, sparse))
    return model, engine.optimizer


def test_where_every_row_has_a_gradient_it_is_adamw_with_clipping():
    steps = [[4, 0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4]]
    (dense, adamw), (lazy, optimizer) = trained(steps, sparse=False), trained(steps, sparse=True)
    for name, weight in dense.named_parameters():
        torch.testing.assert_close(lazy.get_parameter(name), weight, msg=name)
    of_dense, of_lazy = optimizer_tensors(adamw), optimizer_tensors(optimizer)
    assert of_dense.keys() == of_lazy.keys()
    for name, state in of_dense.items():
        torch.testing.assert_close(of_lazy[name], state, msg=name)


def test_rows_without_a_gradient_keep_their_bits_and_their_moments():
    model, optimizer = trained([[0, 1], [1, 2]], sparse=True)
    start = Table().rows
    assert torch.equal(model.rows[3:], start[3:])
    assert not (model.rows[:3] == start[:3]).any()
    state = optimizer.state[model.rows]
    assert (state["exp_avg_sq"] > 0).any(1).tolist() == [True, True, True, False, False]
    assert float(state["step"]) == 2
