"""One training loop, its engines and checkpoints, and a module per phase."""
