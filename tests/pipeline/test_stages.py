"""What the stages settle before they train."""

from pathlib import Path

import pytest
import torch
import yaml

from unigrec.base import paths
from unigrec.base.paths import Artifacts
from unigrec.base.process import training_device
from unigrec.commands.bundles import COLD_START
from unigrec.config.edit import SAMPLE_SOURCE
from unigrec.config.schema import load_params

ROOT = Path(__file__).parents[2]


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds on a CPU")
def test_the_gradient_of_a_gather_has_the_same_bits_with_two_threads(two_threads):
    assert training_device() == torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(500, (4000, 20), generator=generator)
    upstream = torch.randn(4000, 20, 64, generator=generator)

    def gradient() -> torch.Tensor:
        table = torch.zeros(500, 64, requires_grad=True)
        table[index].backward(upstream)
        return table.grad

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(5))


def test_the_sample_and_a_cold_start_stand_in_params_as_committed_files():
    params = load_params(ROOT / "params.yaml")
    assert (params.ingest.path, params.warm_start.path) == (SAMPLE_SOURCE["ingest.path"], COLD_START)
    for file in (params.ingest.path, params.warm_start.path):
        assert (ROOT / file).is_file()
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {"${ingest.path}", "src/unigrec/data/sources"} <= set(graph["ingest"]["deps"])
    assert {"${warm_start.path}", "src/unigrec/pipeline/warm_start.py"} <= set(graph["warm_start"]["deps"])


def test_what_the_stages_report_is_shown_by_dvc():
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert {str(folder / paths.HEALTH_FILE) for folder in (Artifacts().tokenizer, Artifacts().harden)} <= set(
        graph["metrics"]
    )
