"""A network rebuilt from its config (JSON) and its weights (safetensors). Neither file is trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.blocks import all_finite
from unigrec.core.models.ensemble import Teacher, build_teacher
from unigrec.core.models.recommender import Recommender, RecommenderConfig
from unigrec.core.models.tokenizers.residual import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOST_COPIED = 2**26  # bytes of a tensor
Network = TypeVar("Network", bound=nn.Module)


class _Uninitialised(TorchFunctionMode):
    """New weights are not drawn: on `meta` that takes seconds, since torch imports its compiler for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_) or getattr(func, "__module__", "") == nn.init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def load_network(
    build: Callable[[Any], Network],
    weights_file: Path,
    config_file: Path,
    count_layers: Callable[[Any], int] = lambda config: 0,
    verified: bool = False,
    checked: bool = False,
) -> Network:
    """The network in evaluation mode, on the CPU.

    Args:
        build: makes the network of a config. count_layers: how many layers a config asks for.
        verified: the caller has compared the hash of the weights' file. checked: the same file was read before, and
            its values are not looked at again.

    Raises:
        UnigrecError: a file is missing or damaged, the weights do not fit the config, or some are not finite; the
            message names the file.
    """
    try:
        weights = files.read_tensors(weights_file, verified=verified)
        config = files.read_json(config_file)
        # Even layers without memory take time to build.
        if (layers := count_layers(config)) > len(weights):
            raise ValueError(f"{layers} layers, but {len(weights)} weights")
        # On `meta` nothing is allocated for shapes that the weights do not have.
        with torch.device("meta"), _Uninitialised():
            network = build(config)
        # Copies are aligned in memory, which the mapped file is not, and faster to compute with. A large table of items
        # stays in the file: few of its rows are read, and processes share them.
        held = {name: value if value.nbytes > MOST_COPIED else value.clone() for name, value in weights.items()}
        network.load_state_dict(held, assign=True)
        looked_at = {} if checked else weights
        broken = [name for name, value in looked_at.items() if not all_finite(value)]  # some types cannot be compared
    except (TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError, KeyError) as error:
        raise UnigrecError(f"{weights_file}: the weights do not fit {config_file.name}: {error}") from error
    if broken:
        raise UnigrecError(f"{weights_file}: weights that are not finite: {', '.join(broken[:5])}")
    return network.eval()


def load_recommender(weights_file: Path, config_file: Path, **changes: Any) -> Recommender:
    """As `load_network`. changes: values that replace those of the config."""
    return load_network(
        lambda config: Recommender(RecommenderConfig(**config | changes)),
        weights_file,
        config_file,
        count_layers=lambda config: config["encoder_layers"] + config["decoder_layers"],
    )


def load_tokenizer(weights_file: Path, config_file: Path) -> Tokenizer:
    """As `load_network`."""
    return load_network(
        lambda config: Tokenizer(**config),
        weights_file,
        config_file,
        count_layers=lambda config: len(config["hidden"]),
    )


def load_teacher(weights_file: Path, config_file: Path, verified: bool = False, checked: bool = False) -> Teacher:
    """As `load_network`."""
    return load_network(
        build_teacher,
        weights_file,
        config_file,
        count_layers=lambda config: config["blocks"] * config.get("members", 1),
        verified=verified,
        checked=checked,
    )
