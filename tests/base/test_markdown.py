"""Tables in Markdown."""

from __future__ import annotations

from unigrec.base.markdown import markdown_table


def test_a_table_has_a_line_per_row_and_bars_in_cells_are_escaped():
    table = markdown_table(["gate", ""], [["recall", "pass"], ["a|b", "x | y"]])
    assert table.splitlines() == ["| gate |  |", "|---|---|", "| recall | pass |", r"| a\|b | x \| y |"]
