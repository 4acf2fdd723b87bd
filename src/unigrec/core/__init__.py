"""The method: computes, and does nothing else."""
