"""Git worktrees for scheduled runs, and what is left of them."""
