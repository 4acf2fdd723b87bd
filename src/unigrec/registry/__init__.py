"""MLflow: runs and model versions."""
