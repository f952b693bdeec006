"""The commands the secret half brings to the `tokenferry` command line."""
