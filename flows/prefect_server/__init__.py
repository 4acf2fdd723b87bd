"""What flows ask of a Prefect server: to start one, its runs, notifications, output."""
