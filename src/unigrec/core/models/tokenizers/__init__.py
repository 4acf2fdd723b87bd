"""From an item's embedding to its identifier."""
