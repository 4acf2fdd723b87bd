"""What is expected of the data, checked with Great Expectations."""
