"""Dead letters and quarantine: messages that rest, sealed as they came, until somebody mends what was wrong."""
