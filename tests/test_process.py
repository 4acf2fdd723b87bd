"""A stage whose DVC was killed before the stage could ask the kernel to be killed with it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from unigrec.process import DVC_STAGE

# A stage that has only just started when its parent is gone.
LATE = """
import os, sys, time
while os.getppid() == int(sys.argv[1]): time.sleep(0.01)
from unigrec.process import die_with_parent
die_with_parent()
print("works", flush=True)
"""
PARENT = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())])
os._exit(0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel of Linux")
@pytest.mark.parametrize(("stage", "said"), [({DVC_STAGE: "joint"}, ""), ({}, "works\n")])
def test_a_stage_that_finds_its_dvc_gone_does_no_work(stage, said):
    clean = {name: value for name, value in os.environ.items() if name != DVC_STAGE}
    done = subprocess.run(
        [sys.executable, "-c", PARENT, LATE], env=clean | stage, stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert done.stdout == said
