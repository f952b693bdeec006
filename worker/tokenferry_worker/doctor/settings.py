"""The settings as they are in force, after file, environment and defaults, with every secret left out."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenferry.configuration import Configuration, Platform, SecretReference
from tokenferry_worker.doctor.verdicts import Check, ok, warning
from tokenferry_worker.doctor.words import has_password, masked
from tokenferry_worker.wiring import Role


def effective(configuration: Configuration, role: Role, source: Path) -> dict[str, Any]:
    """Addresses without passwords, references instead of keys, files where they really are."""
    keys = configuration.keys
    return {
        "file": str(source.resolve()) if source.exists() else None,
        "role": role,
        "data": str(configuration.path(configuration.data)),
        "broker": {**configuration.broker.model_dump(mode="json"), "url": masked(configuration.broker.url)},
        "producer": configuration.producer.model_dump(mode="json"),
        "store": {**configuration.store.model_dump(mode="json"), "url": masked(configuration.store.url)},
        "keys": {name: str(configuration.path(getattr(keys, name))) for name in type(keys).model_fields},
        "platforms": {name: _platform(configuration, platform) for name, platform in configuration.platforms.items()},
        "worker": configuration.worker.model_dump(mode="json"),
    }


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


def _platform(configuration: Configuration, platform: Platform) -> dict[str, Any]:
    return {
        "mode": platform.mode,
        "base_url": masked(platform.base_url),
        "secret_key": _reference(configuration, platform.secret_key),
        "publishable_key": _reference(configuration, platform.publishable_key),
        "limits": platform.limits.model_dump(mode="json")
        | {
            "global_per_second": platform.global_per_second,
            "endpoint_per_second": platform.endpoint_per_second("any other"),
            "account_creation_per_second": platform.account_creation_per_second,
        },
    }


def _reference(configuration: Configuration, reference: SecretReference | None) -> str | None:
    if reference is None:
        return None
    if reference.env is not None:
        return f"env {reference.env}"
    assert reference.file is not None
    return f"file {configuration.path(reference.file)}"
