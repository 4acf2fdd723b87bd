"""The bundle: the servable model as one folder, and its faces."""
