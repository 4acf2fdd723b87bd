"""The stages of dvc.yaml as tasks and processes."""
