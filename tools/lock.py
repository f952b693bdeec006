"""Writes `locks/`: each package that an installation brings, with the hashes of every file of its pinned version.

    python tools/lock.py

Run it after a change of `constraints.txt` or of the dependencies. It needs `uv` on PATH (https://docs.astral.sh/uv/),
and asks the index that uv is configured for. No name of an index goes into the files.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = "hatchling\neditables\n"
"""What builds the package itself: `[build-system]` of `pyproject.toml`, and editable installs."""
LOCKS: Final = {
    "build": ["-"],
    "producer": ["pyproject.toml"],
    "worker": ["pyproject.toml", "--extra", "worker"],
    "emulator": ["pyproject.toml", "--extra", "worker", "--extra", "emulator"],
    "dev": ["pyproject.toml", "--extra", "dev"],
}


def main() -> None:
    """Write every file anew."""
    (ROOT / "locks").mkdir(exist_ok=True)
    for name, sources in LOCKS.items():
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
        command += ["--no-header", "--no-annotate", "--no-emit-package", "tokenferry", "-c", "constraints.txt"]
        done = subprocess.run(
            [*command, *sources, "-o", f"locks/{name}.txt"], cwd=ROOT, check=False, text=True, input=BUILD
        )
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
