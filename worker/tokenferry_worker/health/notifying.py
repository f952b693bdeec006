"""Notifies systemd over the socket it names (sd_notify(3)). Without systemd, nothing happens."""

from __future__ import annotations

import os
import socket


def notify(*assignments: str) -> bool:
    """Send *assignments*, `READY=1` for instance. Return True if systemd accepted them."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagrams:
        datagrams.setblocking(False)
        try:
            datagrams.sendto("\n".join(assignments).encode(), address)
        except OSError:
            return False
    return True
