"""From a history to items."""
