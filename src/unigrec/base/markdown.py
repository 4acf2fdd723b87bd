"""Tables in Markdown. Not by `tabulate`, which leaves a bar within a cell as it is: the row would gain a column."""

from __future__ import annotations


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Write a table; bars within cells are escaped."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join(lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows])
