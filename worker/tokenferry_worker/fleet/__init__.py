"""The whole fleet at one moment: for `tokenferry status` and for the gauges of /metrics."""
