"""What every room stands on: errors, files, paths, locks, processes."""
