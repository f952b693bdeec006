"""`python -m tokenferry_emulator --port N`."""

from __future__ import annotations

from tokenferry_emulator.command import emulator

if __name__ == "__main__":
    emulator(prog_name="tokenferry emulator")
