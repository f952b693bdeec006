"""Key files that a deployment of an earlier version does not have yet."""

from __future__ import annotations

import logging

from tokenferry.configuration import Configuration

log = logging.getLogger("tokenferry.worker")


def missing_keys(configuration: Configuration) -> list[str]:
    """Each file that is not there, and what follows."""
    keys = configuration.keys
    needed = (
        (keys.result_signing_key, "results are not signed"),
        (keys.state_key, "whoever can write to the store can change outcomes"),
    )
    return [
        f"{path} is missing, so {follows}"
        for path, follows in ((configuration.path(name), follows) for name, follows in needed)
        if not path.exists()
    ]


def warn_of_missing_keys(configuration: Configuration) -> None:
    """Say in one line what is missing. The worker goes on as the version before did."""
    if missing := missing_keys(configuration):
        log.warning("%s; `tokenferry keys generate --if-missing --out keys` makes what is missing", "; ".join(missing))
