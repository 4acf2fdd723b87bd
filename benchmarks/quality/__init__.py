"""The ladder of experiments: what each part of the method is worth."""
