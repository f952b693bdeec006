"""The keys that open envelopes, and those that verify signatures."""
