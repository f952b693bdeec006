"""The commands that the worker package adds to the `tokenferry` command line."""
