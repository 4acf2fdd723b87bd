"""The explorer: a page on which a person looks at a model, the addresses that it asks, and what they answer."""
