"""How Stripe is reached from this machine: directly or through a proxy, and whose certificates are trusted."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tokenferry.addresses import ENVIRONMENT, LOOPBACK, NO_PROXY, checked_proxy, host
from tokenferry.configuration import Configuration, InvalidConfiguration, Platform

VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""Name the proxy for https, the first that is set. As curl reads them: small letters first."""
SETTING: Final = "[worker] proxy"


@dataclass(frozen=True)
class Way:
    """The way to one platform's `base_url`. Prints no proxy: its URL may hold a password."""

    proxy: str | None = field(default=None, repr=False)
    """URL of the proxy. None: there is none."""
    named_by: str = ""
    """The setting or environment variable that names the proxy, or that says that there is none."""
    trusts: ssl.SSLContext | None = field(default=None, repr=False)
    """The authorities that are trusted. None: those that come with the HTTP client."""
    trust_named_by: str = ""
    """The setting or environment variable that names them."""

    @property
    def says(self) -> str:
        """What is used, in words, without user and password."""
        if self.proxy is not None:
            return f"{host(self.proxy)} ({self.named_by})"
        return f"none ({self.named_by})" if self.named_by else "none"


DIRECT: Final = Way()


def way_to(configuration: Configuration, platform: Platform) -> Way:
    """Return the way to *platform*.

    Raises `InvalidConfiguration` for a proxy or a file of certificates that cannot be meant.
    """
    proxy, named_by = _proxy(configuration.worker.proxy, platform.base_url, os.environ)
    trusts, trust_named_by = _trusts(configuration, os.environ)
    return Way(proxy, named_by, trusts, trust_named_by)


def _proxy(setting: str, base_url: str, environment: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the URL of the proxy to *base_url*, and what names it.

    Plain http is for this machine alone, so no proxy ever carries it. The environment is not meant for this machine.
    """
    parts = urlsplit(base_url)
    if parts.scheme != "https":
        return None, ""
    if setting == NO_PROXY:
        return None, SETTING
    if setting != ENVIRONMENT:
        return setting, SETTING
    variable = next((name for name in VARIABLES if environment.get(name)), None)
    if variable is None or parts.hostname in LOOPBACK:
        return None, ""
    if _excepted(parts.hostname or "", parts.port or 443, environment):
        return None, "no_proxy" if environment.get("no_proxy") else "NO_PROXY"
    url = environment[variable]
    try:
        return checked_proxy(url if "://" in url else f"http://{url}"), variable
    except ValueError as error:
        raise InvalidConfiguration(f"environment: {variable}: {error}; or set {SETTING}") from None


def _excepted(hostname: str, port: int, environment: Mapping[str, str]) -> bool:
    """True if `NO_PROXY` names the host: its name, the end of its name, either with a port, or `*` for every host."""
    listed = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    here = (hostname, f"{hostname}:{port}", f"[{hostname}]", f"[{hostname}]:{port}")
    for entry in listed.lower().split(","):
        name = entry.strip().removeprefix("*.").lstrip(".")
        if name == "*" or name in here or (name and any(each.endswith(f".{name}") for each in here)):
            return True
    return False


def _trusts(configuration: Configuration, environment: Mapping[str, str]) -> tuple[ssl.SSLContext | None, str]:
    """Return the authorities that are trusted, and what names them."""
    if (file := configuration.worker.ca_file) is not None:
        return _authorities(configuration.path(file), "[worker] ca_file"), "[worker] ca_file"
    if path := environment.get("SSL_CERT_FILE"):
        return _authorities(Path(path), "environment: SSL_CERT_FILE"), "SSL_CERT_FILE"
    if path := environment.get("SSL_CERT_DIR"):
        return ssl.create_default_context(capath=path), "SSL_CERT_DIR"
    return None, ""


def _authorities(file: Path, named_by: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(file))
    except ssl.SSLError:
        raise InvalidConfiguration(f"{named_by}: {file} holds no certificate; write one or more in PEM") from None
    except OSError as error:
        raise InvalidConfiguration(
            f"{named_by}: {file} cannot be read ({error.strerror}); copy the authority's certificate (PEM)"
        ) from None
