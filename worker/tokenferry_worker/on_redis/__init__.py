"""What the fleet knows in common, in Redis or Valkey: journal, ledger, limiter.

Every rule is one Lua script on the server's clock; this package only calls them. All keys, their meaning and their
lifetime stand in `docs/state.md`.
"""
