"""The foundation of every room: errors, files, paths, locks, processes."""
