"""Experiments over the core: what costs hours and is measured, not shipped."""
