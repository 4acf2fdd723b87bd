"""The judge compares challenger and champion; a promotion or rollback moves the champion, with an audit."""
