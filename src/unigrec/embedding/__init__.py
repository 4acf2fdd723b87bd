"""From item text to vectors."""
