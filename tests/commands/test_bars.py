"""Bars of a training on a terminal, and the choice between bars, lines and messages."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from unigrec.commands import bars
from unigrec.commands.bars import Bars
from unigrec.pipeline.progress import Lines, Messages, Position


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def position(name="joint", batch=3, **changes) -> Position:
    return Position(name, 2, 10, batch, 57, best=0.1234, left=80.0)._replace(**changes)


def test_a_bar_has_stage_epoch_step_time_left_and_best_in_one_line(terminal):
    shown = Bars(terminal)
    shown.at(position())
    console = Console(file=io.StringIO(), width=100)
    console.print(shown.bars.get_renderable())
    (line,) = console.file.getvalue().splitlines()
    for part in ("joint", "epoch  2/10", "step  3/57", "11 %", "left 1:20", "best 0.1234"):
        assert part in line


def test_of_each_training_the_last_line_stays(terminal):
    with Bars(terminal, indent="  ") as shown:
        for name in ("teacher 1/2", "teacher 2/2"):
            for epoch in (1, 2):
                shown.at(position(name, epoch=epoch))
                shown.line(f"{name}: epoch {epoch}/2")
    text = terminal.getvalue()
    assert "epoch 1/2\n" not in text
    assert "  teacher 1/2: epoch 2/2\n" in text
    assert "  teacher 2/2: epoch 2/2\n" in text


def test_verbose_keeps_every_line(terminal):
    with Bars(terminal, verbose=True) as shown:
        shown.at(position())
        shown.line("joint: epoch 1/10")
        shown.line("joint: epoch 2/10")
    assert "joint: epoch 1/10\n" in terminal.getvalue()


def test_text_in_brackets_is_no_markup(terminal):
    with Bars(terminal) as shown:
        shown.write("[bold]an id[/bold] [/]")
    assert "[bold]an id[/bold] [/]" in terminal.getvalue()


def test_an_error_within_a_training_leaves_the_last_line_and_a_cursor(terminal):
    def breaks(shown: Bars) -> None:
        shown.at(position())
        shown.line("joint: epoch 1/10")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), Bars(terminal) as shown:
        breaks(shown)
    assert "joint: epoch 1/10\n" in terminal.getvalue()
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")  # shown after hidden


@pytest.mark.parametrize(
    ("stream", "term", "progress", "kind"),
    [
        (Terminal, "xterm", "", Bars),
        (Terminal, "dumb", "", Lines),
        (io.StringIO, "xterm", "", Lines),
        (io.StringIO, "xterm", "messages", Messages),
        (Terminal, "xterm", "messages", Messages),
    ],
)
def test_a_terminal_has_bars_a_log_lines_and_a_parent_messages(monkeypatch, stream, term, progress, kind):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv(bars.MESSAGES_VARIABLE, progress)
    with bars.screen(verbose=False) as screen:
        assert isinstance(screen, kind)
