"""The commands of producers, one module each. `tokenferry.cli` loads them when they are called."""
