"""The report of a run: its facts, from what the stages wrote, and the pages that show them."""

SCHEMA = 1  # of the facts; pages of another version do not show them
