"""Key files that a deployment of an earlier version does not have yet."""

from __future__ import annotations

import logging

from tokenferry.configuration import Configuration

log = logging.getLogger("tokenferry.worker")


def missing_keys(configuration: Configuration) -> list[str]:
    """Each file that is not there, and what follows."""
    path = configuration.path(configuration.keys.result_signing_key)
    return [] if path.exists() else [f"{path} is missing, so results are not signed"]


def warn_of_missing_keys(configuration: Configuration) -> None:
    """Say in one line what is missing. The worker goes on as the version before did."""
    if missing := missing_keys(configuration):
        log.warning("%s; `tokenferry keys generate --if-missing --out keys` makes what is missing", "; ".join(missing))
