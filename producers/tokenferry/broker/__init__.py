"""Where messages are put: the embedded server, broker connections and queue declarations."""
