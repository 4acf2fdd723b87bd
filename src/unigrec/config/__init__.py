"""params.yaml as typed, checked objects; profiles; edits that keep comments."""
