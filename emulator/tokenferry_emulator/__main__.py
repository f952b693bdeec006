"""``python -m tokenferry_emulator --port N``."""

from tokenferry_emulator.command import emulator

if __name__ == "__main__":
    emulator(prog_name="tokenferry emulator")
