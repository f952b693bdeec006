"""The steps of a whole account, and what is recorded of each."""
