"""Whether this worker lives and works: what it knows of itself, who watches it, and whom it tells."""
