"""Metrics of a worker: their names, the registry of one process, and the sum of all processes as Prometheus' text."""
