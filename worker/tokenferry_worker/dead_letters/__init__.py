"""Dead letters and quarantine: messages kept sealed, as they came, until somebody removes the cause."""
