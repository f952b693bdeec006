"""The settings as they are in force, after file, environment and defaults, with every secret left out."""

from __future__ import annotations

from typing import Any

from tokenferry.addresses import masked
from tokenferry.configuration.loading import Configuration
from tokenferry.configuration.platforms import Platform
from tokenferry.configuration.sections import SecretReference


def effective(configuration: Configuration) -> dict[str, Any]:
    """Addresses without passwords, references instead of keys, files with their full paths."""
    keys = configuration.keys
    return {
        "file": None if configuration.file is None else str(configuration.file),
        "data": str(configuration.path(configuration.data)),
        "broker": {**configuration.broker.model_dump(mode="json"), "url": masked(configuration.broker.url)},
        "producer": configuration.producer.model_dump(mode="json"),
        "outbox": _outbox(configuration),
        "store": {**configuration.store.model_dump(mode="json"), "url": masked(configuration.store.url)},
        "keys": {name: str(configuration.path(getattr(keys, name))) for name in type(keys).model_fields},
        "platforms": {name: _platform(configuration, platform) for name, platform in configuration.platforms.items()},
        "worker": _worker(configuration),
    }


def _worker(configuration: Configuration) -> dict[str, Any]:
    settings = configuration.worker.model_dump(mode="json") | {"proxy": masked(configuration.worker.proxy)}
    file = configuration.worker.ca_file
    return settings if file is None else {**settings, "ca_file": str(configuration.path(file))}


def _outbox(configuration: Configuration) -> dict[str, Any]:
    settings = configuration.outbox.model_dump(mode="json")
    path = configuration.outbox.path
    return settings if path is None else {**settings, "path": str(configuration.path(path))}


def _platform(configuration: Configuration, platform: Platform) -> dict[str, Any]:
    return {
        "mode": platform.mode,
        "base_url": masked(platform.base_url),
        "secret_key": _reference(configuration, platform.secret_key),
        "publishable_key": _reference(configuration, platform.publishable_key),
        "limits": platform.limits.model_dump(mode="json")
        | {
            "global_per_second": platform.global_per_second,
            "operation_per_second": platform.operation_per_second("any other"),
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
