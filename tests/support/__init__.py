"""Helpers that tests share: small networks, small projects, servers that fail on purpose."""
