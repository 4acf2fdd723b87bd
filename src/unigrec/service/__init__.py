"""The service: a model behind an address, with batches, a changing champion, limits and metrics."""
