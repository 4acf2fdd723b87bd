"""Two hosts train one stage: like one process, and when one of them or the network fails, the others stop soon."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support.living import wait_for
from support.tiny_training import write_project
from support.two_hosts import TwoHosts, two_hosts
from unigrec.base import files, paths
from unigrec.base.errors import EXIT_BAD_INPUT
from unigrec.base.hosts import EXIT_LOST
from unigrec.base.paths import Artifacts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LOST_SECONDS = 10.0  # three times less than in real runs
STOPS_WITHIN = LOST_SECONDS + 20.0  # seconds
# Imported by every Python process in that folder. With it, a stage saves a checkpoint after every step.
SETTINGS = f"""
from unigrec.base import hosts
from unigrec.pipeline import running
hosts.LOST_SECONDS = {LOST_SECONDS}
running.CHECKPOINT_SECONDS = 0.0
"""
KILLED_AT = 20  # step, in the middle of an epoch
# At the usual temperature the tokenizer's distillation turns rounding into real differences within epochs.
JOINT = {"recommender": {"dropout": 0.0}, "batch_size": 24, "temperature_start": 0.1, "temperature_end": 0.1}
OUTPUTS = (paths.MODEL_FILE, paths.HISTORY_FILE, paths.METRICS_FILE)


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with two_hosts() as made:
        yield made


def project(folder: Path, engine: str = "deepspeed", epochs: int = 12, settings: str = SETTINGS) -> Path:
    write_project(folder, {"joint": {**JOINT, "engine": engine, "epochs": epochs}})
    (folder / "sitecustomize.py").write_text(settings, encoding="utf-8")
    return folder


def finish(hosts: TwoHosts, folder: Path) -> list[str]:
    """Run the stage on both hosts. Returns what each printed."""
    both = hosts.start_both(folder, "joint", path=[folder])
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return said


def saved_step(folder: Path) -> int:
    found = list((folder / paths.CHECKPOINTS / "joint").glob("[!.]*.safetensors"))
    return json.loads(files.read_metadata(found[0])["numbers"])["step"] if found else -1


def history_of(folder: Path) -> list[dict[str, float]]:
    """The written history without its nulls."""
    rows = files.read_json(folder / Artifacts().joint / paths.HISTORY_FILE)
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def test_two_hosts_give_the_losses_and_weights_of_one_process(hosts, tmp_path):
    alone, together = project(tmp_path / "alone", "torch", epochs=3), project(tmp_path / "together", epochs=3)
    process = hosts.start(0, alone, "joint", path=[alone])
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    first, second = finish(hosts, together)
    assert [line.split("/")[0] for line in first.splitlines()] == [f"joint: epoch {epoch}" for epoch in (1, 2, 3)]
    assert second == ""
    for row, other in zip(history_of(alone), history_of(together), strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-6)
    weights, others = (
        files.read_tensors(folder / Artifacts().joint / paths.MODEL_FILE) for folder in (alone, together)
    )
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=1e-5, msg=name)
    assert not list((together / paths.CHECKPOINTS).glob("*"))


@pytest.mark.parametrize(("what", "engine"), [("host 1", "deepspeed"), ("network", "torch"), ("host 0", "torch")])
def test_when_a_host_or_the_network_fails_the_others_stop_and_the_run_goes_on_from_the_checkpoint(
    hosts, tmp_path, what, engine
):
    whole, failed = project(tmp_path / "whole", engine), project(tmp_path / "failed", engine)
    finish(hosts, whole)

    both = hosts.start_both(failed, "joint", path=[failed])
    wait_for(lambda: any(one.poll() is not None for one in both) or saved_step(failed) >= KILLED_AT, 300)
    began = time.monotonic()
    left = [0, 1]
    if what == "network":
        hosts.cut()
    else:
        victim = int(what.removeprefix("host "))
        hosts.kill(victim)
        left.remove(victim)
    for host in left:
        said = both[host].communicate(timeout=STOPS_WITHIN)[1]
        print(f"{what} failed: host {host} stopped after {time.monotonic() - began:.1f} s")
        assert both[host].returncode == EXIT_LOST  # a code that makes the flow try again
        last = said.splitlines()[-1]
        assert last.startswith(f"error: no sign of life of host {1 - host} (")
        assert last.endswith(
            f", 10.77.0.{2 - host}) for 10 s: it was killed, or the network between the hosts is down. The same "
            "commands on all hosts go on from the last checkpoint"
        )
        wait_for(lambda host=host: not hosts.processes(host), 5)
    assert saved_step(failed) >= KILLED_AT

    hosts.mend()
    finish(hosts, failed)
    for file in OUTPUTS:
        assert (failed / Artifacts().joint / file).read_bytes() == (whole / Artifacts().joint / file).read_bytes(), file


def test_a_rank_that_fails_on_one_host_ends_the_others_with_its_message(hosts, tmp_path):
    """The second host's ranks die; its launcher says so to the first."""
    dies = 'import os\nif os.environ.get("RANK") == "1":\n    os.abort()\n'
    folder = project(tmp_path / "p", "torch", settings=SETTINGS + dies)
    said = [process.communicate(timeout=120)[1] for process in hosts.start_both(folder, "joint", path=[folder])]
    assert [process.returncode for process in hosts.started] == [134, 134], said
    reason = "rank 1 was killed by SIGABRT; what it said is above"
    assert said[1].splitlines()[-1].startswith(f"error: {reason}")
    assert said[0].splitlines()[-1].startswith("error: host 1 (")
    assert f"10.77.0.2) failed: {reason}" in said[0].splitlines()[-1]


def test_hosts_with_other_params_and_other_checkpoints_are_refused(hosts, tmp_path):
    folder = project(tmp_path / "p", "torch", epochs=3)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    (other / "params.yaml").write_text(text.replace("seed: 7", "seed: 8"), encoding="utf-8")
    options = ["--hosts", "2", "--rendezvous", "10.77.0.1:29400"]
    both = [
        hosts.start(host, place, "joint", *options, "--host-rank", str(host), path=[place])
        for host, place in enumerate((folder, other))
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [EXIT_BAD_INPUT] * 2, said
    assert said[0] == said[1]
    assert "differs from host 0 (" in said[0]
    assert ") in params seed; host 1 (" in said[0]
    assert "does not see what host 0 (" in said[0]
