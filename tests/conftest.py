"""Two settings that must be there before torch is imported, and one thing that no test leaves behind."""

import os
import sys

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # one thread, which sleeps while it waits


@pytest.fixture(autouse=True)
def torch_as_before():
    """A stage sets torch up for its whole process, which here goes on with other tests."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.use_deterministic_algorithms(False)
        torch.set_flush_denormal(False)
