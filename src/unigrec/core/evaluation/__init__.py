"""Ranks, metrics, slices and intervals."""
