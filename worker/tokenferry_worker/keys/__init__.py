"""The private keys that open envelopes, and the public keys that verify signatures."""
