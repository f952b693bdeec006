"""Preflight: is everything there that a worker needs? Looks, asks, and changes nothing; one module per subject."""
