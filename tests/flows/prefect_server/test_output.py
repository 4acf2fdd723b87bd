"""What a stage prints, on its way to the run's log and to the terminal."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from flows.prefect_server import output
from unigrec.commands import bars
from unigrec.pipeline.progress import RECORD, Position


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Logger:
    def __init__(self):
        self.lines: list[str] = []

    def info(self, form, line):
        self.lines.append(form % line)


@pytest.fixture
def logger(monkeypatch) -> Logger:
    made = Logger()
    monkeypatch.setattr(output, "get_run_logger", lambda: made)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(bars.MESSAGES_VARIABLE, "")
    return made


LINES = [
    "Running stage 'joint':",
    "> unigrec stage joint",
    RECORD + json.dumps(Position("joint", 1, 2, 1, 4, best=None, left=None)),
    RECORD + json.dumps("joint: epoch 1/2"),
    "a line of the stage",
    RECORD + json.dumps("joint: epoch 2/2"),
]


def test_on_a_terminal_the_log_has_every_line_and_the_terminal_those_that_stay(logger, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with output.stage_output("  ") as emit:
        assert os.environ[bars.MESSAGES_VARIABLE] == bars.READ_BY_PARENT
        for line in LINES:
            emit(line)
    assert logger.lines == [*LINES[:2], "joint: epoch 1/2", "a line of the stage", "joint: epoch 2/2"]
    shown = terminal.getvalue()
    assert "  a line of the stage\n" in shown
    assert "  joint: epoch 2/2\n" in shown
    assert not any(part in shown for part in ("Running stage", "> unigrec", "epoch 1/2\n", RECORD))


def test_elsewhere_the_lines_pass_as_they_are(logger, capsys):
    with output.stage_output("  ") as emit:
        emit("joint: epoch 1/2")
    assert os.environ[bars.MESSAGES_VARIABLE] == ""
    assert (logger.lines, capsys.readouterr().out) == (["joint: epoch 1/2"], "  joint: epoch 1/2\n")
