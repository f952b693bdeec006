"""Key files that a deployment of an earlier version does not have yet."""

from __future__ import annotations

import logging

from tokenferry.configuration import Configuration

log = logging.getLogger("tokenferry.worker")


def missing_keys(configuration: Configuration, *, opens: bool = True) -> list[str]:
    """Each file that is not there, and what follows. *opens*: True for a role that opens requests."""
    keys = configuration.keys
    needed = [
        (keys.result_signing_key, "results are not signed"),
        (keys.state_key, "whoever can write to the store can change outcomes"),
    ]
    if opens:
        needed.append((keys.content_key, "another content under a known id counts as the same"))
    paths = [(configuration.path(name), harm) for name, harm in needed]
    return [f"{path} is missing, so {harm}" for path, harm in paths if not path.exists()]


def warn_of_missing_keys(configuration: Configuration, *, opens: bool = True) -> None:
    """Say in one line what is missing. The worker goes on as the version before did."""
    if missing := missing_keys(configuration, opens=opens):
        log.warning("%s; `tokenferry keys generate --if-missing --out keys` makes what is missing", "; ".join(missing))
