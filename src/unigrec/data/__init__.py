"""From a source's files to the sequences and batches that training reads."""
