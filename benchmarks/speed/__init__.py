"""The speed benchmark: measures time and memory, and writes the results as tables and JSON."""
