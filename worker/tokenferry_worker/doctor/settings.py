"""The configuration file: who else may write it, or read a password in it?"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from tokenferry.addresses import has_password
from tokenferry.configuration import Configuration
from tokenferry_worker.doctor.verdicts import Check, ok, warning


def examine(configuration: Configuration, source: Path) -> Iterator[Check]:
    """Who else may write the file, or read a password in it."""
    name, where = "configuration file", str(source.resolve())
    try:
        mode, text = stat.S_IMODE(source.stat().st_mode), source.read_text(encoding="utf-8")
    except OSError:
        yield ok(name, where, "is not there: the environment and defaults are used")
        return
    secret = any(has_password(url) and url in text for url in (configuration.broker.url, configuration.store.url))
    if mode & 0o022:
        says = f"has mode {mode:04o}: somebody else can say where requests and keys go"
        yield warning(name, where, says, f"run `chmod go-w {source}`")
    elif secret and mode & 0o044:
        says = f"has mode {mode:04o} and holds a password"
        do = f"run `chmod 600 {source}`, or give the address as TOKENFERRY_BROKER__URL and TOKENFERRY_STORE__URL"
        yield warning(name, where, says, do)
    else:
        yield ok(name, where, f"has mode {mode:04o}")
