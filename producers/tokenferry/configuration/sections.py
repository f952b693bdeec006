"""The tables of `tokenferry.toml`, but for the platforms: every setting with its unit, default and reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tokenferry.addresses import EMBEDDED, ENVIRONMENT, checked, checked_proxy
from tokenferry.contract.names import Name, Prefix
from tokenferry.errors import ProducerError

Seconds = Annotated[float, Field(gt=0, le=86_400)]

WRITTEN_BY_DEFAULT: Final[Literal[1, 2]] = 1
"""The version that a producer writes where `[producer] envelope` is not set. Workers read both."""

ENDPOINT_KEY: Final = re.compile(r"[srp]k_(test|live)_[A-Za-z0-9]{10,}")
"""A key of Stripe. No name of a variable or file looks like one."""


class InvalidConfiguration(ProducerError, ValueError):
    """A setting is missing, unknown or out of range. The text says which, where, and what to write instead."""

    exit_code = 2


class Section(BaseModel):
    """One table of the file: frozen, closed, and silent about values (a URL may hold a password)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class SecretReference(Section):
    """Where a secret is kept: an environment variable, or a file that only its owner can read. Never the secret."""

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_no_secret(cls, given: Any) -> Any:
        """Refuse a key in the place of its name: names are printed."""
        named = [str(name) for name in given.values()] if isinstance(given, Mapping) else []
        if not isinstance(given, Mapping | cls) or any(map(ENDPOINT_KEY.search, named)):
            raise ValueError('the key itself does not belong here; write { env = "NAME" } or { file = "PATH" }')
        return given

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError('write { env = "NAME" } or { file = "PATH" }')
        return self


class Broker(Section):
    """The broker, which holds the queues."""

    url: str = EMBEDDED
    """`embedded`, `redis://`, `rediss://`, `unix://`, `sentinel://`, `sentinels://` or `amqp://`, `amqps://`."""
    prefix: Prefix | None = None
    """Every queue, key and exchange begins with it: one for each fleet that uses the same broker. Not set: none.

    Workers, producers and readers of one fleet need the same. For a cluster of Redis or Valkey: a name in braces.
    """
    ca_file: Path | None = None
    """PEM file of the authority that signed the server's certificate. Not set: those this machine trusts."""
    lease_seconds: Annotated[float, Field(ge=0.5, le=3600)] = 6.0
    """Redis and Valkey: a delivery goes to another worker when its lease was not renewed for so many seconds."""
    hold_seconds: Seconds = 1200.0
    """RabbitMQ: a worker gives back a delivery that it has held for so many seconds, and gets it again.

    Keep it well below the broker's `consumer_timeout` (default 30 minutes), which closes the channel.
    """
    publish_timeout: Seconds = 10.0
    """Seconds for the broker to confirm a message; then publishing it fails."""
    max_waiting: Annotated[int, Field(ge=0)] = 1_000_000
    """Requests that may wait in one queue; more are refused with `BrokerFull`. 0: no limit.

    A million is 2.5 GB on Redis and 11 hours of work at 25 per second.
    """

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return checked(url, amqp=True)


def _number(given: object) -> object:
    """The environment holds text only."""
    return int(given) if isinstance(given, str) and given.isdecimal() else given


class ProducerSettings(Section):
    """What producers and readers of results do, beside keys and broker."""

    envelope: Annotated[Literal[1, 2], BeforeValidator(_number)] = 2
    """Version of the messages. 1 during an upgrade, while workers of the version before run: then unsigned results
    are believed, too."""

    group: Name | None = None
    """Whose ids this producer's are, as the workers' policy says. Not set: `legacy`. Version 1 does not say it."""

    @property
    def written(self) -> Literal[1, 2]:
        """The version that a producer writes."""
        return self.envelope if "envelope" in self.model_fields_set else WRITTEN_BY_DEFAULT


class OutboxSettings(Section):
    """The outbox of a producer, which keeps accepted requests until the broker and the requester have them."""

    path: Path | None = None
    """File of the outbox (SQLite, on a local disk). Not set: there is no outbox, and `send` waits for the broker."""
    max_rows: Annotated[int, Field(ge=1)] = 200_000
    """Requests it holds at most, about 3 KB each."""
    max_megabytes: Annotated[int, Field(ge=1)] = 1024
    """Megabytes of the file that may be in use."""
    resend_after: Annotated[float, Field(ge=1, le=86_400)] = 600.0
    """Seconds after which a request without an outcome is sent again, if its route is read with this outbox."""
    keep_confirmed: Annotated[float, Field(ge=0, le=7 * 86_400)] = 3600.0
    """Seconds for which `outbox reconcile` finds a confirmed request whose route is not read with this outbox."""


class StoreSettings(Section):
    """The store, in which workers keep journal, ledger and limiter: Redis or Valkey."""

    url: str = EMBEDDED
    ca_file: Path | None = None
    """PEM file of the authority that signed the server's certificate. Not set: those this machine trusts."""
    prefix: Prefix = "tokenferry"
    """Every key in the store begins with it. For a cluster of Redis or Valkey: a name in braces."""
    journal_days: Annotated[float, Field(gt=0, le=365)] = 7.0
    """Days for which an outcome is kept: longer than a message can still be redelivered."""
    onboarding_days: Annotated[float, Field(gt=0, le=3650)] = 365.0
    """Days for which the objects of an onboarding are known after its last message. Ids only, about 1 KB each.

    The same reference, sent again later than that, makes another account.
    """

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return checked(url, amqp=False)


class KeySettings(Section):
    """Key files, as `tokenferry keys generate --out DIR` writes them."""

    recipient: Path = Path("keys/recipient.pem")
    """Public key with which producers encrypt."""
    producer_signing_key: Path = Path("keys/producer.pem")
    """Private Ed25519 key with which a producer signs."""
    identities: Path = Path("keys/identities")
    """Folder of the private keys that decrypt. Workers only."""
    worker_signing_key: Path = Path("keys/worker.pem")
    """Private Ed25519 key with which a worker signs attach orders."""
    signers: Path = Path("keys/signers")
    """Folder with the public key of every producer and worker whose signature is accepted."""
    result_signing_key: Path = Path("keys/result.pem")
    """Private Ed25519 key with which workers of every role sign results."""
    result_signers: Path = Path("keys/result-signers")
    """Folder of public keys of the workers whose results are believed. Readers of results only."""
    content_key: Path = Path("keys/content.key")
    """Secret that tells the same content from another under one id. Tokenize and onboard workers only."""
    policy: Path = Path("keys/policy.toml")
    """Who of them may ask for what. Workers only."""
    state_key: Path = Path("keys/state.key")
    """Secret key with which workers of every role tag what they write to the store."""
    old_state_keys: Path = Path("keys/state.old")
    """Folder of earlier state keys (`*.key`), whose tags still count. May be missing."""


class Worker(Section):
    """How a worker behaves."""

    concurrency: Annotated[int, Field(ge=1, le=2000)] = 100
    """Deliveries in flight per queue and process."""
    attempts: Annotated[int, Field(ge=1, le=50)] = 8
    """Calls for one request before it fails for good. Waiting for a permit or a rate limit is no call."""
    deliveries: Annotated[int, Field(ge=1, le=1000)] = 10
    """Deliveries of one request before it counts as poison."""
    dead_letter_days: Annotated[float, Field(gt=0, le=365)] = 14.0
    """Days for which dead letters and quarantined messages are kept; then they are dropped."""
    read_timeout: Seconds = 80.0
    """Seconds to wait for an answer. Connect writes were seen to take 21 to 23 s before a lock time-out."""
    connect_timeout: Seconds = 10.0
    """Seconds to connect to Stripe. After them the call counts as not made."""
    http: Literal["own", "httpx"] = "own"
    """The HTTP client for calls of Stripe: our own, or httpx, which takes more CPU."""
    proxy: Annotated[str, AfterValidator(checked_proxy)] = ENVIRONMENT
    """URL of the proxy to Stripe (`http://HOST:PORT`), `none`, or `environment`: as HTTPS_PROXY and NO_PROXY say."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the certificate shown for Stripe, for instance by a proxy that reads along.

    Nothing else is trusted then. Not set: SSL_CERT_FILE, or the authorities that come with the HTTP client.
    """
    alone_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of every budget that one process uses while the store is away. All processes together must stay below 1."""
    token_lifetime: Seconds = 600.0
    """Seconds after which an unspent token is too old: it is created again, or reported as expired."""
    grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 20.0
    """Seconds for a stopping worker to finish the deliveries it has; the rest goes back to the queue.

    Longer than the slowest usual call. A supervisor must wait ten seconds more before it kills the worker.
    """
    watchdog_seconds: Annotated[float, Field(ge=5, le=3600)] = 30.0
    """Seconds after which a process is replaced that hangs, or takes nothing although messages wait.

    At least twice `[broker] publish_timeout`, so that an ordinary wait for the broker is no hang.
    """
    health: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):\d{1,5}$")] | None = None
    """`HOST:PORT` for /live, /ready and /metrics (HTTP, no secrets). Not set: `tokenferry health` still answers."""
