"""What ranks are worth: the teacher over two processes, and the memory of a rank at DeepSpeed's ZeRO stages.

    python -m benchmarks.ranks teacher --artifacts artifacts     # needs the outputs of `prepare` and `embed`
    python -m benchmarks.ranks zero --parameters 100             # in millions; 16 bytes each at stage 0, and gradients

Both use as many processes as `--processes` says, with one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.speed.harness import ROOT
from unigrec.config.read import read_mapping

WIDTH = 1024  # of the layers of the network whose memory is measured
STEPS = 3


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["teacher", "zero", "zero-rank"])
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--parameters", type=int, default=100)
    parser.add_argument("--stage", type=int, default=0)
    asked = parser.parse_args()
    if asked.part == "teacher":
        teacher(asked.artifacts, asked.processes, asked.epochs)
    elif asked.part == "zero":
        for stage in (0, 1, 2):
            zero(stage, asked.parameters, asked.processes)
    else:
        zero_rank(asked.stage, asked.parameters)


def teacher(artifacts: Path, processes: int, epochs: int) -> None:
    """Time of as many members as processes: in one process, over ranks, and a process per member."""
    with tempfile.TemporaryDirectory() as folder:
        for name, members, ranks, copies in (
            ("one process", processes, 1, 1),
            ("ranks that share each batch", processes, processes, 1),
            ("a process per member", 1, 1, processes),
        ):
            projects = [Path(folder) / f"{name} {number}" for number in range(copies)]
            for number, project in enumerate(projects):
                changes = {"members": members, "processes": ranks, "epochs": epochs, "validate_every": 1}
                write_project(project, artifacts, changes, seed=number)
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            running = [subprocess.Popen(stage("teacher"), cwd=project, env=environment()) for project in projects]
            codes = [process.wait() for process in running]
            used, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
            cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
            print(f"{name}: exit codes {codes}, wall {wall:.0f} s, CPU {cpu:.0f} s", flush=True)


def write_project(project: Path, artifacts: Path, changes: dict[str, int], seed: int) -> None:
    """A project whose stage `teacher` can run."""
    for name in ("prepare", "embed"):
        shutil.copytree(artifacts / name, project / "artifacts" / name)
    shutil.copy(ROOT / "dvc.yaml", project)
    values = read_mapping(ROOT / "params.yaml")
    values["teacher"] |= changes
    (project / "params.yaml").write_text(json.dumps(values | {"seed": seed}), encoding="utf-8")  # JSON is YAML


def stage(name: str) -> list[str]:
    return [sys.executable, "-m", "unigrec.cli", "stage", name]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}


def zero(stage: int, parameters: int, processes: int) -> None:
    """Start the ranks whose memory is measured."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    work = ["-m", "benchmarks.ranks", "zero-rank", f"--stage={stage}", f"--parameters={parameters}"]
    subprocess.run([*launch, *work], env=environment(), check=True)


def zero_rank(stage: int, parameters: int) -> None:
    """Train a network of linear layers for some steps as a rank, and print the peak of the rank's memory."""
    import torch
    import torch.distributed as dist
    from torch import nn

    from unigrec.core.training.engine import _import_deepspeed

    dist.init_process_group("gloo")
    deepspeed = _import_deepspeed()
    count = parameters * 1_000_000 // WIDTH**2
    model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count)])
    start = peak()
    bucket = 5_000_000  # elements; the default of 500 million would hide what the stages save
    optimization = {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    config = {
        "train_batch_size": 4 * dist.get_world_size(),
        "zero_optimization": optimization,
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    for _ in range(STEPS):
        engine.backward(engine(torch.ones(4, WIDTH)).square().mean())
        engine.step()
    print(f"stage {stage}, rank {dist.get_rank()}: peak {peak()} MB, with the weights alone {start} MB", flush=True)
    os._exit(0)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
