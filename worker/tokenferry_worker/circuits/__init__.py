"""What a refused key or an outage stops: circuits, their probes, and the messages that wait for them."""
