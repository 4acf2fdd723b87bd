"""What the work costs: time, memory, latency, scaling. `python -m benchmarks.speed`; docs/speed.md."""
