"""The checks of `tokenferry doctor`. They change nothing; each module has one subject."""
