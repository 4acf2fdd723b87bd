"""What the work costs: how time and memory are measured, and how the result is written down."""
