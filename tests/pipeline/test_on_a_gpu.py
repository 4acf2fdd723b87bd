"""No stage mixes tensors of the GPU with those of the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support.pretended_gpu import GPU, MixedDevices, PretendedGpu
from support.tiny_pipeline import DATA_STAGES, MODEL_STAGES, inside, run, write_shop
from unigrec.base import files
from unigrec.base.paths import Artifacts
from unigrec.pipeline import running

SET = {
    "teacher": {"loss": "sampled", "negatives": 6},
    "joint": {"recommender": {"decoder": "set", "causal": False}},
}
HARD = {
    "teacher": {"architecture": "sasrec", "members": 2},
    "tokenizer": {"codebook_size": 24},
    "harden": {"resolution": "reassign"},
    "joint": {"tokenizer": "hard", "recommender": {"merge": False}},
}


def test_a_mix_of_devices_is_noticed():
    with PretendedGpu():
        there, here = torch.ones(3, device=GPU), torch.ones(3)
        assert (there.device, (there + 1.0).device, there.cpu().device.type) == (GPU, GPU, "cpu")
        with pytest.raises(MixedDevices, match=r"\(3,\)\] on the GPU, \[\(3,\)\] on the CPU"):
            there + here
        with pytest.raises(MixedDevices, match="numpy"):
            there.numpy()
        assert there[here.long() > 0].device == GPU  # as CUDA allows


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, SET, HARD], ids=["as published", "set decoder", "hard"])
def test_every_stage_keeps_to_its_device(tmp_path, monkeypatch, changes: dict[str, Any]):
    write_shop(tmp_path / "shop", changes)
    monkeypatch.setattr(running, "training_device", lambda: GPU)
    monkeypatch.setattr(running, "_show", lambda *_: None)
    with inside(tmp_path / "shop"):
        run(*DATA_STAGES)
        with PretendedGpu():
            run(*MODEL_STAGES)
        assert files.read_json(Artifacts().evaluate / "metrics.json")
