"""The tables of `tokenferry.toml`, but for the platforms: every setting with its unit, default and reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tokenferry.addresses import EMBEDDED, checked
from tokenferry.contract.names import Name

Seconds = Annotated[float, Field(gt=0, le=86_400)]

ENDPOINT_KEY: Final = re.compile(r"[srp]k_(test|live)_[A-Za-z0-9]{10,}")
"""A key of Stripe. No name of a variable or file looks like one."""


class InvalidConfiguration(ValueError):
    """A setting is missing, unknown or out of range. The text says which, where, and what to write instead."""


class Section(BaseModel):
    """One table of the file: frozen, closed, and silent about values (a URL may hold a password)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class SecretReference(Section):
    """Where a secret is kept, never the secret: an environment variable or a file readable by its owner only."""

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_no_secret(cls, given: Any) -> Any:
        """A key in the place of its name would be quoted wherever the name is."""
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
    """Where messages are put."""

    url: str = EMBEDDED
    """`embedded`, `redis://`, `rediss://`, `unix://`, `sentinel://`, `sentinels://` or `amqp://`, `amqps://`."""
    ca_file: Path | None = None
    """PEM file of the authority behind the server's certificate. Not set: those this machine trusts."""
    lease_seconds: Annotated[float, Field(ge=0.5, le=3600)] = 6.0
    """Redis and Valkey: a delivery whose worker stops renewing its lease this long is given to another one."""
    hold_seconds: Seconds = 1200.0
    """RabbitMQ: a delivery that has waited this long in a worker's hand is given back, and comes again.

    Well below the broker's `consumer_timeout` (30 minutes, unless it is told otherwise), which closes the channel.
    """
    publish_timeout: Seconds = 10.0
    """Seconds until a publish that nobody confirmed becomes an error."""
    max_waiting: Annotated[int, Field(ge=0)] = 1_000_000
    """Requests that may wait in one queue; more are refused with `BrokerFull`. 0: no limit.

    A million is 2.5 GB on Redis and 11 hours of work at 25 per second: beyond it a producer should hear of it.
    """

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return checked(url, amqp=True)


class OutboxSettings(Section):
    """Where accepted requests are kept until the broker, and then their requester, has them. Producers only."""

    path: Path | None = None
    """File of the outbox (SQLite, on a local disk). Not set: there is none, and `send` waits for the broker."""
    max_rows: Annotated[int, Field(ge=1)] = 200_000
    """Requests it holds before it takes no more: about 3 KB each."""
    max_megabytes: Annotated[int, Field(ge=1)] = 1024
    """The same, in megabytes of the file that are in use."""
    resend_after: Annotated[float, Field(ge=1, le=86_400)] = 600.0
    """Seconds after which a request without an outcome is sent again, where its route is read with this outbox."""
    keep_confirmed: Annotated[float, Field(ge=0, le=7 * 86_400)] = 3600.0
    """Seconds for which `outbox reconcile` can find a confirmed request whose route is not read with this outbox."""


class StoreSettings(Section):
    """Where workers keep journal, ledger and limiter: Redis or Valkey."""

    url: str = EMBEDDED
    ca_file: Path | None = None
    """As of the broker."""
    prefix: Name = "tokenferry"
    """Every key begins with it."""
    journal_days: Annotated[float, Field(gt=0, le=365)] = 7.0
    """How long an outcome is remembered: longer than any message can still be redelivered."""
    onboarding_days: Annotated[float, Field(gt=0, le=3650)] = 365.0
    """How long it is remembered what was made for an onboarding, after its last message. Ids only, about 1 KB each.

    Sent again later than that, the same reference is another account.
    """

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return checked(url, amqp=False)


class KeySettings(Section):
    """Files of the envelope's keys, as `tokenferry keys generate --out DIR` writes them."""

    recipient: Path = Path("keys/recipient.pem")
    """Public key that producers seal to."""
    producer_signing_key: Path = Path("keys/producer.pem")
    """Private Ed25519 key that proves who sealed."""
    identities: Path = Path("keys/identities")
    """Folder of private keys that open. Tokenize workers only."""
    worker_signing_key: Path = Path("keys/worker.pem")
    """Private Ed25519 key with which a tokenize worker orders an attach."""
    signers: Path = Path("keys/signers")
    """Folder of public keys of every producer and worker whose signature counts."""


class Worker(Section):
    """How a worker behaves."""

    concurrency: Annotated[int, Field(ge=1, le=2000)] = 100
    """Deliveries in flight per queue and process."""
    attempts: Annotated[int, Field(ge=1, le=50)] = 8
    """Calls for one request before it is given up on; waiting for a permit or a rate limit counts as none."""
    deliveries: Annotated[int, Field(ge=1, le=1000)] = 10
    """Hand-overs of one request before it is taken for poison."""
    dead_letter_days: Annotated[float, Field(gt=0, le=365)] = 14.0
    """How long dead letters and quarantined messages are kept for somebody to look into; then they are dropped."""
    read_timeout: Seconds = 80.0
    """Seconds without an answer. Connect writes were seen to hold the line 21 to 23 s before a lock time-out."""
    connect_timeout: Seconds = 10.0
    """Seconds until a connection to the endpoint must stand; after them the call counts as not made."""
    alone_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of every budget that one process uses while the store is away; times your processes, keep it below 1."""
    token_lifetime: Seconds = 600.0
    """Seconds after which an unspent token counts as too old: it is made anew, or reported as expired."""
    grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 20.0
    """What is in hand when the worker stops gets so long to finish; the rest then goes back to the queue.

    Above the slowest usual call. Whoever stops the worker must wait ten seconds longer before killing it.
    """
    watchdog_seconds: Annotated[float, Field(ge=5, le=3600)] = 30.0
    """A process that hangs, or takes nothing although messages wait, is replaced after so long.

    At least twice `[broker] publish_timeout`: an ordinary wait for the broker must not look like a hang.
    """
    health: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):\d{1,5}$")] | None = None
    """`HOST:PORT` for the probes /live and /ready (HTTP, no secrets). Not set: `tokenferry health` still answers."""
