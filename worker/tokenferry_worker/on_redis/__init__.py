"""What all workers share, in Redis or Valkey: journal, ledger, limiter, circuits and onboarding records.

Every rule is one Lua script on the server's clock, and this package calls the scripts. `docs/state.md` lists all keys,
with their meaning and their lifetime.
"""
