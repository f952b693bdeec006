"""Telling systemd how we are: a datagram to the socket it names (sd_notify(3)). Without systemd, nothing happens."""

from __future__ import annotations

import os
import socket


def notify(*words: str) -> bool:
    """Send *words*, `READY=1` for instance. Whether somebody wanted to know, and was told."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
        line.setblocking(False)
        try:
            line.sendto("\n".join(words).encode(), address)
        except OSError:
            return False
    return True
