"""Closeness to the uncached run against cost: every method, the peers' own, and fewer plain steps (see __main__)."""
