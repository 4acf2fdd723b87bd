"""Both engines compute the same step: AdamW on clipped gradients, group by group."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unigrec.core.training.engine import CLIP_NORM, make_engine, start_process_group

ENGINES = ["torch", "deepspeed"]


class Network(nn.Module):
    """Three parts for three groups, and one that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.last = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 3)
        self.unused = nn.Parameter(torch.ones(4))

    def forward(self, rows: Tensor) -> Tensor:
        return self.last(self.frozen(self.first(rows).tanh()).tanh())


def trained(kind: str, steps: int, scale: float) -> tuple[Network, list[float]]:
    """The network after some steps, and with plain torch the norms of its gradients before clipping."""
    start_process_group(torch.device("cpu"), needed=kind == "deepspeed")
    torch.manual_seed(0)
    model, rows, norms = Network(), torch.randn(6, 5), []
    groups = [
        {"params": [*model.first.parameters(), model.unused], "lr": 1e-2, "weight_decay": 0.05},
        {"params": list(model.frozen.parameters()), "lr": 0.0, "weight_decay": 0.05},
        {"params": list(model.last.parameters()), "lr": 3e-3, "weight_decay": 0.0},
    ]
    engine = make_engine(kind, model, groups, batch_size=6)
    for step in range(steps):
        loss = scale * (step + 1) * engine.forward(rows).square().mean()
        if kind == "torch":
            gradients = torch.autograd.grad(loss, [model.first.weight, model.last.weight], retain_graph=True)
            norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
        engine.step(loss)
    return model, norms


@pytest.mark.parametrize(("scale", "clipped"), [(50.0, True), (0.01, False)])
def test_deepspeed_and_torch_give_the_same_weights(scale, clipped):
    (plain, norms), (deep, _) = (trained(kind, 8, scale) for kind in ENGINES)
    assert all((norm > CLIP_NORM) == clipped for norm in norms)
    for (name, one), other in zip(plain.named_parameters(), deep.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_group_with_learning_rate_zero_keeps_its_bits_and_the_others_move(kind):
    before, after = trained(kind, 0, 1.0)[0], trained(kind, 5, 1.0)[0]
    for name, weight in after.named_parameters():
        assert torch.equal(weight, before.get_parameter(name)) == name.startswith("frozen"), name


@pytest.mark.parametrize("kind", ENGINES)
def test_a_parameter_without_gradient_only_decays(kind):
    model, _ = trained(kind, 3, 1.0)
    torch.testing.assert_close(model.unused, torch.full((4,), (1 - 1e-2 * 0.05) ** 3))


@pytest.mark.parametrize("kind", ENGINES)
def test_the_optimizer_is_torch_adamw(kind):
    start_process_group(torch.device("cpu"), needed=kind == "deepspeed")
    model = Network()
    engine = make_engine(kind, model, [{"params": list(model.parameters()), "lr": 1e-3}], batch_size=1)
    assert type(engine.optimizer) is torch.optim.AdamW
    assert engine.model is model


@pytest.mark.parametrize("kind", ["torch", "deepspeed"])
def test_a_group_with_a_large_gradient_does_not_shrink_the_step_of_another(kind):
    """Gradients are clipped per group: the optimizer's gradients show it."""
    start_process_group(torch.device("cpu"), needed=True)
    model = nn.ModuleDict({"large": nn.Linear(1, 1, bias=False), "small": nn.Linear(1, 1, bias=False)})
    groups = [{"params": list(part.parameters())} for part in model.values()]
    engine = make_engine(kind, model, [{**group, "lr": 1.0} for group in groups], batch_size=1)
    rows = torch.ones(1, 1)
    loss = 1000.0 * model["large"](rows).sum() + 0.5 * model["small"](rows).sum()
    seen = []
    engine.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.extend(float(g["params"][0].grad) for g in optimizer.param_groups)
    )
    engine.step(loss)
    assert seen == pytest.approx([1.0, 0.5], rel=1e-4)
