"""What words find: `python -m benchmarks.word_search`."""
