"""The Prefect server of a run, its runs and notifications."""
