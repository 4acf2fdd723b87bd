"""Fast paths on a CPU, each equal to its PyTorch counterpart (asserted by tests)."""
