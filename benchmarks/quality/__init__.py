"""The ladder of experiments: how much each part of the method adds."""
