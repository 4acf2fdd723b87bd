"""Tokenizers map an item's embedding to its soft or hard identifier."""
