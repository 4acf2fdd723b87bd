"""From metrics to a decision with reasons."""
