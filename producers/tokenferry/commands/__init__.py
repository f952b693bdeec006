"""The commands of the producer half, one module each. `tokenferry.cli` loads them when they are called."""
