"""Forked workers: they end with the block that started them."""

from __future__ import annotations

import signal

import pytest

from unigrec.scoring.crew import Crew


@pytest.mark.timeout(30)
def test_a_block_that_fails_at_once_does_not_wait_for_its_workers_whatever_handles_signals():
    """A fork drops the signals that came before its end, if its parent has a handler for them."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        for _ in range(5):
            with pytest.raises(ValueError, match="no log"), Crew(lambda number: iter(()), 2):
                raise ValueError("no log")
    finally:
        signal.signal(signal.SIGTERM, before)
