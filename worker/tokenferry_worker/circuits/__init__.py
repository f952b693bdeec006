"""What a refused key or a failing provider shuts off: circuits, their probes, and the messages that wait for them."""
