"""Finding and proving the description of a model that nobody described."""
