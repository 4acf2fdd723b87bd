"""The bundle, which is the servable model as one folder; its schema; its use as an MLflow model."""
