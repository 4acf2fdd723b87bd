"""What importing the flows does to its surroundings."""

from __future__ import annotations

import os
import subprocess
import sys

from support.project import ROOT

MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted((ROOT / "flows").rglob("*.py"))]


def test_importing_the_flows_writes_nothing_and_warns_of_nothing(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**kept, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    command = [sys.executable, "-c", code, *(name.removesuffix(".__init__") for name in MODULES)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
