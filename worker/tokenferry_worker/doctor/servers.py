"""Checks what a Redis or Valkey server reports about itself, as broker and as store.

It uses `INFO`, because hosted servers forbid `CONFIG GET`. Where both are forbidden, the check says "unknown".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from redis import Redis
from redis.exceptions import ResponseError

from tokenferry.addresses import trusts_anybody
from tokenferry.broker.connecting import UNVERIFIED
from tokenferry.broker.error_text import Server, explain, in_one_slot
from tokenferry.contract.names import is_hash_tag
from tokenferry_worker.doctor.verdicts import Check, failed, ok, warning

OLDEST: Final = (6, 2)
CLOCK: Final = "return redis.call('TIME')"
"""What every script of ours may do, and nothing that leaves a trace."""


def facts(client: Redis) -> Mapping[str, Any]:
    """Return the answer to `INFO`, empty where that is forbidden."""
    try:
        info: Mapping[str, Any] = client.info()  # type: ignore[assignment,unused-ignore]
    except ResponseError:  # NOPERM among them
        return {}
    return info


def certificate(area: str, subject: str, url: str) -> Iterator[Check]:
    """Warn where the server's certificate is not checked."""
    if trusts_anybody(url):
        says, _, do = UNVERIFIED.partition("; ")
        yield warning(f"{area} certificate", subject, says, do)


def scripts(area: str, subject: str, client: Redis, server: Server) -> Check:
    """Check that a script can be loaded, run, and ask for the time."""
    name = f"{area} scripts"
    try:
        client.evalsha(str(client.script_load(CLOCK)), 0)
    except ResponseError as error:
        failure = explain(error, server)
        return failed(name, subject, failure.says, failure.do)
    return ok(name, subject, "can be loaded and run")


def version(area: str, subject: str, info: Mapping[str, Any], *, prefix: str | None) -> Iterator[Check]:
    """Check which server it is, and that it can keep messages and outcomes safe. *prefix*: what our keys begin with."""
    name = f"{area} version"
    number = str(info.get("valkey_version") or info.get("redis_version") or "")
    product = "Valkey" if "valkey_version" in info else "Redis"
    if not number:
        yield warning(name, subject, "unknown: the server does not tell (INFO is forbidden)", "allow INFO")
        return
    parts = tuple(map(int, re.findall(r"\d+", number)[:2]))
    if product == "Redis" and parts < OLDEST:
        yield failed(name, subject, f"{product} {number} is too old", "use Redis 6.2 or newer, or Valkey")
    elif info.get("cluster_enabled") and not is_hash_tag(prefix):
        yield failed(name, subject, f"{product} {number} is a node of a cluster", in_one_slot(area))
    elif info.get("cluster_enabled"):
        yield ok(name, subject, f"{product} {number}, a node of a cluster; all keys are in one slot")
    elif info.get("role") == "slave":
        yield failed(name, subject, f"{product} {number} is a replica, which takes no writes", "name the primary")
    else:
        yield ok(name, subject, f"{product} {number}")


def persistence(area: str, subject: str, info: Mapping[str, Any]) -> Iterator[Check]:
    """Check that accepted messages survive a restart of the server."""
    name = f"{area} persistence"
    match info.get("aof_enabled"):
        case None:
            yield warning(name, subject, "unknown: the server does not tell", "make sure that appendonly is yes")
        case 0:
            says = "appendonly is off: a restart of the server loses accepted messages"
            yield warning(name, subject, says, "set `appendonly yes`")
        case _:
            yield ok(name, subject, "appendonly is on")


def eviction(area: str, subject: str, info: Mapping[str, Any]) -> Iterator[Check]:
    """Check that a full server refuses writes, and does not drop keys."""
    name = f"{area} eviction"
    policy = info.get("maxmemory_policy")
    if policy is None:
        yield warning(
            name, subject, "unknown: the server does not tell", "make sure that maxmemory-policy is noeviction"
        )
    elif policy != "noeviction":
        yet = "" if info.get("maxmemory") else " as soon as a maxmemory is set"
        says = f"maxmemory-policy is {policy}: a full server throws keys away{yet}"
        yield warning(name, subject, says, "set `maxmemory-policy noeviction`")
    else:
        yield ok(name, subject, "maxmemory-policy is noeviction")
