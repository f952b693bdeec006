"""What a Redis or Valkey server says about itself: the same questions for the broker and for the store.

`INFO` and not `CONFIG GET`: hosted servers forbid the latter, and where both are forbidden it is said to be unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from redis import Redis
from redis.exceptions import ResponseError

from tokenferry.addresses import trusts_anybody
from tokenferry.broker.connecting import UNVERIFIED
from tokenferry_worker.doctor.verdicts import Check, failed, ok, warning

OLDEST: Final = (6, 2)


def facts(client: Redis) -> Mapping[str, Any]:
    """Everything `INFO` tells; nothing where it is forbidden."""
    try:
        told: Mapping[str, Any] = client.info()  # type: ignore[assignment,unused-ignore]
    except ResponseError:  # NOPERM among them
        return {}
    return told


def certificate(area: str, subject: str, url: str) -> Iterator[Check]:
    """A warning where the server's certificate is not checked."""
    if trusts_anybody(url):
        says, _, do = UNVERIFIED.partition("; ")
        yield warning(f"{area} certificate", subject, says, do)


def version(area: str, subject: str, told: Mapping[str, Any]) -> Iterator[Check]:
    """Which server it is, and whether it is one that messages and outcomes can be entrusted to."""
    name = f"{area} version"
    number = str(told.get("valkey_version") or told.get("redis_version") or "")
    product = "Valkey" if "valkey_version" in told else "Redis"
    if not number:
        yield warning(name, subject, "unknown: the server does not tell (INFO is forbidden)", "allow INFO")
        return
    parts = tuple(map(int, re.findall(r"\d+", number)[:2]))
    if product == "Redis" and parts < OLDEST:
        yield failed(name, subject, f"{product} {number} is too old", "use Redis 6.2 or newer, or Valkey")
    elif told.get("cluster_enabled"):
        yield failed(name, subject, f"{product} {number} is a cluster node", "use a server that is no cluster")
    elif told.get("role") == "slave":
        yield failed(name, subject, f"{product} {number} is a replica, which takes no writes", "name the primary")
    else:
        yield ok(name, subject, f"{product} {number}")


def persistence(area: str, subject: str, told: Mapping[str, Any]) -> Iterator[Check]:
    """Whether what was accepted survives a restart of the server."""
    name = f"{area} persistence"
    match told.get("aof_enabled"):
        case None:
            yield warning(name, subject, "unknown: the server does not tell", "make sure that appendonly is yes")
        case 0:
            says = "appendonly is off: a restart of the server loses accepted messages"
            yield warning(name, subject, says, "set `appendonly yes`")
        case _:
            yield ok(name, subject, "appendonly is on")


def eviction(area: str, subject: str, told: Mapping[str, Any]) -> Iterator[Check]:
    """Whether a full server refuses writes, as it should, or throws away what it was given."""
    name = f"{area} eviction"
    policy = told.get("maxmemory_policy")
    if policy is None:
        yield warning(
            name, subject, "unknown: the server does not tell", "make sure that maxmemory-policy is noeviction"
        )
    elif policy != "noeviction":
        yet = "" if told.get("maxmemory") else " as soon as a maxmemory is set"
        says = f"maxmemory-policy is {policy}: a full server throws keys away{yet}"
        yield warning(name, subject, says, "set `maxmemory-policy noeviction`")
    else:
        yield ok(name, subject, "maxmemory-policy is noeviction")
